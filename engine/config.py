"""The options of a run, what the run finds out beside them, and what is shown of both before it begins."""

import dataclasses
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from sigma_video.options import (
    AT_LEAST_ONE,
    FRACTION,
    NOT_NEGATIVE,
    OptionError,
    Options,
    Rule,
    group,
    ignored,
    option,
    recorded,
)

from .checkpointing.checkpoint import CheckpointConfig
from .checkpointing.read_weights import StartConfig
from .distributed.ddp import AMP_DTYPES, check_amp
from .distributed.deepspeed import DEFAULT_STAGE, STAGES
from .files import make_folder
from .memory import LEARNED, SHARDED
from .optim import OptimConfig
from .resilience.nonfinite import POLICIES

REPLACED = ("checkpoint-*.pth", "test*_predictions.npz", "test*.csv")
WRITTEN = ("console.txt", "log.txt", "run.json", "test.json", "bad_videos.txt")

C = TypeVar("C", bound="TrainingConfig")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """Where a run writes, what it runs on, and what ends it."""

    output_dir: str = option(
        "", "folder for checkpoints, log.txt and run.json; default: nothing is written", metavar="FOLDER"
    )
    log_dir: str | None = option(None, "folder for TensorBoard events; default: none are written", metavar="FOLDER")
    run_name: str = option("", "subfolder of --log_dir for this run's events", metavar="NAME")
    device: str = option(
        "auto", "what the run computes on; auto: a GPU if there is one", choices=("auto", "cpu", "cuda")
    )
    amp: str | None = option(None, "mixed precision; default: bf16 on a GPU, none on a CPU", choices=tuple(AMP_DTYPES))
    enable_deepspeed: bool = option(False, "train with DeepSpeed instead of DDP")
    zero_stage: int | None = option(
        None,
        "states that DeepSpeed shards over the ranks: 0 none, 1 optimizer states (default), 2 gradients too, "
        "3 weights too",
        choices=STAGES,
    )
    compile: bool | None = option(
        None,
        "compile the transformer blocks; default: on a GPU, without --deterministic and --enable_deepspeed",
        off="--no_compile",
        off_help="do not compile them",
    )
    cuda_graphs: bool = option(
        False,
        "replay the blocks' kernels as CUDA graphs, where the host cannot launch them as fast as the GPU runs them",
    )
    seed: int = option(
        0,
        "seed of all random numbers: weights, order, crops, masks",
        rule=Rule(lambda seed: 0 <= seed < 2**63, "must be 0 or more and below 2^63"),
    )
    deterministic: bool = option(False, "deterministic algorithms only: the same bits every time; slower")
    on_nonfinite: str = option(
        "stop",
        "for a NaN or Inf loss or gradient: end the run; skip that update; go back to the last checkpoint and skip "
        "the update",
        choices=POLICIES,
    )
    nonfinite_limit: int = option(10, "end the run at more such updates than this", rule=NOT_NEGATIVE, metavar="N")
    stall_timeout: float = option(
        1200.0,
        "end the run, with the stacks of all threads, when it makes no progress for so long; 0: never",
        rule=NOT_NEGATIVE,
        metavar="SECONDS",
    )
    max_bad_fraction: float = option(
        0.01,
        "end training when more of the videos than this cannot be decoded (three are always allowed)",
        rule=FRACTION,
    )
    print_freq: int = option(10, "log every so many steps", rule=AT_LEAST_ONE, metavar="STEPS")
    wandb: str = option("", "also log to this project of Weights & Biases", metavar="PROJECT")
    dry_run: bool = option(False, "do everything once, say what the run will need, and leave nothing behind")
    memory_plan: str | None = option(
        None,
        "say what memory the run needs, of which part, and the largest batch that fits, and end; GIB: of the GPU to "
        "plan for (default: what this machine has)",
        const="",
        metavar="GIB",
    )
    profile: int = option(0, "write a profile of N steps to --output_dir/profile", rule=NOT_NEGATIVE, metavar="N")
    # torch.distributed.launch adds this; the rank itself comes from the environment.
    local_rank: int = option(-1, "without effect", names=("--local-rank", "--local_rank"), hidden=True)

    def ignored(self) -> dict[str, str]:
        found = {}
        if self.run_name and not self.log_dir:
            found["run_name"] = "there is no --log_dir"
        if self.on_nonfinite == "stop":
            found["nonfinite_limit"] = "--on_nonfinite stop ends the run at the first one"
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, folder in (("output_dir", self.output_dir), ("log_dir", self.log_dir or "")):
            if folder == "~" or folder.startswith("~/"):
                raise OptionError(f"--{flag} {folder}: shells expand '~', but not after '='; write --{flag} ~/...")
        if self.profile and (self.dry_run or not self.output_dir):
            raise OptionError(
                f"--profile {self.profile} goes into --output_dir and needs a real run: give the one, leave out "
                "--dry_run"
            )
        if self.wandb and not self.output_dir:
            raise OptionError("--wandb needs --output_dir: the run's id is kept there, for when it is resumed")
        if self.wandb and importlib.util.find_spec("wandb") is None:
            raise OptionError("--wandb: wandb is not installed: `pip install wandb`, or leave the flag out")
        if self.zero_stage is not None and not self.enable_deepspeed:
            raise OptionError(f"--zero_stage {self.zero_stage} is for --enable_deepspeed: give both or none")
        if self.compile and self.stage == 3:
            raise OptionError("--compile is not for --zero_stage 3: leave it out, or choose stage 2")
        if self.cuda_graphs and self.enable_deepspeed:
            raise OptionError("--cuda_graphs is not for --enable_deepspeed: leave one of them out")
        if self.enable_deepspeed and self.amp == "fp16":
            raise OptionError("--amp fp16 is not for --enable_deepspeed: use --amp bf16 or none, or DDP")

        self._check_memory_plan()

    def _check_memory_plan(self) -> None:
        if self.memory_plan is None:
            return
        try:
            valid = not self.memory_plan or 0 < float(self.memory_plan) < 1e6
        except ValueError:
            valid = False
        if not valid:
            raise OptionError(f"--memory_plan {self.memory_plan}: must be a positive number, the GPU's GiB, as in 8")
        if self.dry_run:
            raise OptionError("--memory_plan and --dry_run: the one runs nothing, the other a few steps; give one")
        if self.enable_deepspeed:
            raise OptionError("--memory_plan is for training without --enable_deepspeed: leave one of them out")

    @property
    def planned_gib(self) -> float | None:
        """The memory that `--memory_plan` plans for; None: what the machine has."""
        return float(self.memory_plan) if self.memory_plan else None

    @property
    def stage(self) -> int | None:
        """DeepSpeed's ZeRO stage; None where the run does not train with DeepSpeed."""
        if not self.enable_deepspeed:
            return None
        return DEFAULT_STAGE if self.zero_stage is None else self.zero_stage

    def bytes_of(self, weights: int, table: int, world_size: int, *, trained: bool = True) -> int:
        """Memory on a rank, at least, of so many numbers that are learned and so many that are constant."""
        size = LEARNED if trained and self.stage is None else SHARDED
        return weights * size // (world_size if self.stage == 3 else 1) + 4 * table

    def amp_on(self, device: torch.device) -> str:
        """A key of AMP_DTYPES: `--amp`, or its default. Raises ConfigError where the device cannot train in it."""
        return check_amp(self.amp or ("bf16" if device.type == "cuda" else "none"), device)

    def with_folders(self) -> "RunConfig":
        """Make the output folders, on every rank: another machine may not share them.

        Returns:
            The options, with `--run_name` in `log_dir`.

        Raises:
            ConfigError: a folder cannot be written to.
        """
        log_dir = str(Path(self.log_dir) / self.run_name) if self.log_dir and self.run_name else self.log_dir
        for flag, folder in (("output_dir", self.output_dir), ("log_dir", log_dir)):
            if folder:
                make_folder(flag, folder, written=WRITTEN, replaced=REPLACED)
        return dataclasses.replace(self, log_dir=log_dir)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What the options of every training run have in common; an entry script adds its own."""

    essential: ClassVar[tuple[str, ...]] = (  # what the help shows first, of those that the script has
        *("data_path", "data_set", "output_dir", "model", "finetune", "eval", "target_type", "mask_ratio"),
        *("batch_size", "epochs", "lr", "num_workers"),
    )

    run: RunConfig = group("run")
    optim: OptimConfig = group("optimization")
    checkpoint: CheckpointConfig = group("checkpoints")
    start: StartConfig = group("weights to start from")
    notes: tuple[str, ...] = ()  # what the command line says in vain; logged as the run starts

    def ignored(self) -> dict[str, str]:
        """Flags that have no effect beside those of other option classes, and why."""
        found: dict[str, str] = {}
        if not self.start.finetune:
            found |= dict.fromkeys(("model_key", "pretrained_clip"), "there is no --finetune")
        if not self.run.output_dir:
            writing = ("save_ckpt_freq", "save_ckpt_steps", "keep_ckpts")
            found |= dict.fromkeys(writing, "there is no --output_dir")
        return found

    def doubts(self) -> list[str]:
        """What the command says that its user may not mean, in sentences."""
        optim, found = self.optim, []
        if optim.min_lr > optim.lr:
            found.append(f"--min_lr {optim.min_lr:g} is above --lr {optim.lr:g}: after the warm-up the rate rises")
        if optim.warmup_lr > optim.lr:
            found.append(f"--warmup_lr {optim.warmup_lr:g} is above --lr {optim.lr:g}: the warm-up lowers the rate")
        if self.checkpoint.resume and self.start.finetune:
            found.append(
                f"--resume {self.checkpoint.resume} continues that run: the weights of --finetune "
                f"{self.start.finetune} are not used"
            )
        return found

    @property
    def trains(self) -> bool:
        """False for a run that only tests: a training command that is given once more, for its result."""
        return True

    def noted(self: C, given: Collection[str]) -> C:
        """The same options, with `notes` on them.

        Args:
            given: the flags that the command line names.
        """
        if not self.trains:
            return self
        flags_by_reason: dict[str, list[str]] = {}
        for flag, why in ignored(self).items():
            if flag in given:
                flags_by_reason.setdefault(why, []).append(f"--{flag}")
        without_effect = (
            f"{', '.join(flags)}: without effect, because {why}" for why, flags in flags_by_reason.items()
        )
        return dataclasses.replace(self, notes=(*self.doubts(), *without_effect))


@dataclass
class RunFacts:
    """What a run finds out, beside its options; checkpoints and `run.json` hold both."""

    decoder_used: str | None = None  # the back end that `--decoder` stands for here, with its version
    position_grid: list[int] | None = None  # token grid whose position table is in use
    target_scale: list[float] | None = None  # of --task regression: mean and standard deviation that outputs stand for
    licence: str | None = None  # of the weights that training started from: it goes on with what is made of them
    teacher_used: dict[str, str] | None = None  # that --teacher names: what it is, and the licence of its weights
    teacher_digest: str | None = None  # of its weights: a run goes on with the same ones, wherever they lie
    tested: dict[str, tuple[str, str]] | None = None  # suffix of the results -> file and key of the weights

    def beside(self, config: Any) -> dict[str, Any]:
        """All options by their flags' names, and the facts that are known: `args` of a checkpoint."""
        facts = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return recorded(config) | facts
