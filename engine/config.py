"""The options of a run, what the run finds out beside them, and what is shown of both before it begins."""

import dataclasses
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sigma_video.options import (
    AT_LEAST_ONE,
    FRACTION,
    NOT_NEGATIVE,
    OptionError,
    Options,
    Rule,
    group,
    option,
    recorded,
)

from .checkpointing.checkpoint import CheckpointConfig
from .checkpointing.read_weights import StartConfig
from .distributed.ddp import AMP_DTYPES, check_amp
from .distributed.deepspeed import DEFAULT_STAGE, STAGES
from .errors import ConfigError
from .optim import OptimConfig
from .resilience.nonfinite import POLICIES


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """Where a run writes, what it runs on, and what ends it."""

    output_dir: str = option("", "checkpoints, log.txt, run.json; empty: nothing is written")
    log_dir: str | None = option(None, "TensorBoard events")
    run_name: str = option("", "subfolder of --log_dir for this run's events")
    device: str = option("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))
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
        0, "of every random stream", rule=Rule(lambda seed: 0 <= seed < 2**63, "must be 0 or more and below 2^63")
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
    profile: int = option(0, "write a profile of N steps to --output_dir/profile", rule=NOT_NEGATIVE, metavar="N")
    # torch.distributed.launch adds this; the rank itself comes from the environment.
    local_rank: int = option(-1, "without effect", names=("--local-rank", "--local_rank"), hidden=True)

    def __post_init__(self) -> None:
        super().__post_init__()
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

    @property
    def stage(self) -> int | None:
        """DeepSpeed's ZeRO stage; None where the run does not train with DeepSpeed."""
        if not self.enable_deepspeed:
            return None
        return DEFAULT_STAGE if self.zero_stage is None else self.zero_stage

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
            if not folder:
                continue
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise ConfigError(f"--{flag} {folder}: cannot be written to ({error.strerror})") from error
        return dataclasses.replace(self, log_dir=log_dir)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What the options of every training run have in common; an entry script adds its own."""

    run: RunConfig = group("run")
    optim: OptimConfig = group("optimization")
    checkpoint: CheckpointConfig = group("checkpoints")
    start: StartConfig = group("weights to start from")


@dataclass
class RunFacts:
    """What a run finds out, beside its options; checkpoints and `run.json` hold both."""

    decoder_used: str | None = None  # the back end that `--decoder` stands for here, with its version
    position_grid: list[int] | None = None  # token grid whose position table is in use
    licence: str | None = None  # of the weights that training started from: it goes on with what is made of them
    tested: dict[str, tuple[str, str]] | None = None  # suffix of the results -> file and key of the weights

    def beside(self, config: Any) -> dict[str, Any]:
        """All options by their flags' names, and the facts that are known: `args` of a checkpoint."""
        facts = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return recorded(config) | facts
