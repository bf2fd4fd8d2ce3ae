"""What the study trains: settings, arms, and the commands of a run from pre-training to its tests."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .settings import PEAK_LR, Settings

MLP = ("--target_type", "mlp", "--projection_dims", "256", "256", "--decoder_num_classes", "64")
SIGMA = (*MLP, "--loss_func", "SWAV")
DEFAULT = (*SIGMA, "--num_prototypes", "64")
FROZEN = 1 / 3
VIDEO_TEACHER = ("--target_type", "video", "--num_prototypes", "64")
NO_AUGMENTATION = ("--aa", "none", "--reprob", "0", "--mixup", "0", "--cutmix", "0", "--drop_path", "0")


@dataclass(frozen=True)
class Arm:
    """A way to pre-train.

    Attributes:
        title: for the table.
        flags: of run_sigma_pretraining.py.
        teacher: name of the arm whose encoder is the frozen teacher.
        frozen: part of the epochs, at the start, in which the projection network is not trained.
        replicated: trained with every seed; the others, which vary one option, with the first.
    """

    title: str
    flags: tuple[str, ...]
    teacher: str = ""
    frozen: float = 0.0
    replicated: bool = True


def varied(title: str, *flags: str, prototypes: int = 64) -> Arm:
    """`sigma-frozen-first` with other options."""
    return Arm(title, (*SIGMA, "--num_prototypes", str(prototypes), *flags), frozen=FROZEN, replicated=False)


ARMS = {
    "videomae": Arm("VideoMAE", ("--target_type", "pixel")),
    "sigma": Arm("SIGMA-MLP", DEFAULT),
    "sigma-frozen-first": Arm("SIGMA-MLP, projection frozen for the first third", DEFAULT, frozen=FROZEN),
    "sigma-frozen": Arm("SIGMA-MLP, projection never trained", DEFAULT, frozen=1.0, replicated=False),
    "sigma-video-centered": Arm(
        "SIGMA, frozen VideoMAE as teacher, centered", (*VIDEO_TEACHER, "--center_teacher"), teacher="videomae"
    ),
    "sigma-video": Arm("SIGMA, frozen VideoMAE as teacher", VIDEO_TEACHER, teacher="videomae", replicated=False),
    "l2": Arm("L2 onto a trained projection", (*MLP, "--loss_func", "L2"), replicated=False),
    "prototypes-256": varied("256 prototypes", prototypes=256),
    "prototypes-1000": varied("1000 prototypes", prototypes=1000),
    "epsilon-0.02": varied("epsilon 0.02", "--sinkhorn_eps", "0.02"),
    "epsilon-0.2": varied("epsilon 0.2", "--sinkhorn_eps", "0.2"),
    "mask-0.5": varied("mask ratio 0.5", "--mask_ratio", "0.5"),
    "mask-0.9": varied("mask ratio 0.9", "--mask_ratio", "0.9"),
    "soft": varied("soft targets", "--sinkhorn_targets", "soft"),
}
TESTS = {"knn": "k-NN", "linear": "linear probe", "attentive4": "attentive probe", "finetune": "fine-tuned"}
OF_OTHERS = ("knn", "linear")  # tests of the targets after the first
SLOW = "attentive4"  # the slowest: it waits until the rest is done
SCRATCH = "scratch"


@dataclass(frozen=True)
class Job:
    """A command of the study.

    Attributes:
        name: ARM/SEED/pretrain or ARM/SEED/TARGET/TEST, also its folder below the study's.
        command: words.
        result: the file that says that it is done.
        after: names of the jobs that it needs.
    """

    name: str
    command: Sequence[str]
    result: Path
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """Folders and options of one study.

    Attributes:
        targets: names of the data sets that are tested; all tests are made on the first.
        seeds: number of them.
    """

    out: Path
    settings: Settings
    targets: Sequence[str]
    seeds: int
    arms: Sequence[str] = field(default=tuple(ARMS))

    @property
    def pretrain_list(self) -> Path:
        """The videos that all arms are pre-trained on."""
        return self.out / "lists" / "pretrain.csv"

    def lists(self, target: str) -> Path:
        """Folder of a target's train.csv, val.csv and test.csv."""
        return self.out / "lists" / target

    def jobs(self) -> list[Job]:
        """All jobs, in an order in which they can run: a comparison for each seed, variants, slow tests."""
        found: list[Job] = []
        for seed in range(self.seeds):
            found += self.tests(SCRATCH, seed)
            for name in self.arms:
                if ARMS[name].replicated:
                    found += self.chain(name, seed)
        for name in self.arms:
            if not ARMS[name].replicated:
                found += self.chain(name, 0)
        return sorted(found, key=lambda job: job.name.endswith(SLOW))

    def chain(self, arm: str, seed: int) -> list[Job]:
        """Pre-training, and all tests of its encoder."""
        return [self.pretraining(arm, seed), *self.tests(arm, seed)]

    def tests(self, arm: str, seed: int) -> list[Job]:
        """All tests of an encoder, or of one that was not pre-trained."""
        main, *others = self.targets
        wanted = [(main, kind) for kind in TESTS] + [(target, kind) for target in others for kind in OF_OTHERS]
        return [self.test(arm, seed, target, kind) for target, kind in wanted]

    def checkpoint(self, arm: str, seed: int) -> Path:
        """Of the end of a pre-training."""
        return self.out / arm / str(seed) / "pretrain" / f"checkpoint-{self.settings.pretrain_epochs - 1}.pth"

    def pretraining(self, arm: str, seed: int) -> Job:
        """Without labels; the online probe looks at the first target's."""
        s, name = self.settings, f"{arm}/{seed}/pretrain"
        teacher, frozen = ARMS[arm].teacher, round(ARMS[arm].frozen * self.settings.pretrain_epochs)
        more = ["--teacher", str(self.checkpoint(teacher, seed))] if teacher else []
        if frozen:
            more += ["--freeze_projection_epochs", str(frozen)]
        command = [
            *self._training("run_sigma_pretraining.py", name, seed, batch=s.batch // s.num_sample),
            *("--data_path", str(self.pretrain_list), "--model", f"pretrain_videomae_mini_patch8_{s.size}"),
            *("--num_sample", str(s.num_sample), "--sampling_rate", str(s.stride)),
            *("--augmentation", s.augmentation),
            *("--mask_ratio", "0.75", "--decoder_depth", "2", "--clip_grad", "1"),
            *("--epochs", str(s.pretrain_epochs)),
            *("--warmup_epochs", str(s.warmup_epochs), "--save_ckpt_freq", str(max(s.pretrain_epochs // 5, 1))),
            *("--probe_data", str(self.lists(self.targets[0])), "--probe_every", str(max(s.pretrain_epochs // 10, 1))),
            *ARMS[arm].flags,
            *more,
        ]
        after = (f"{teacher}/{seed}/pretrain",) if teacher else ()
        return Job(name, command, self.checkpoint(arm, seed), after)

    def test(self, arm: str, seed: int, target: str, kind: str) -> Job:
        """A probe of the frozen encoder, or fine-tuning; from scratch both start from random weights."""
        name = f"{arm}/{seed}/{target}/{kind}"
        lists = str(self.lists(target))
        after = () if arm == SCRATCH else (f"{arm}/{seed}/pretrain",)
        start = [] if arm == SCRATCH else ["--finetune", str(self.checkpoint(arm, seed))]
        if kind == "finetune":
            return Job(name, [*self._finetuning(name, seed, lists), *start], self.out / name / "test.json", after)
        if arm == SCRATCH:
            start = [
                "--random_weights",
                str(seed),
                "--model",
                self._classifier,
                "--num_frames",
                str(self.settings.frames),
            ]
        return Job(name, [*self._probing(name, seed, lists, kind), *start], self.out / name / "done", after)

    @property
    def _classifier(self) -> str:
        return f"vit_mini_patch8_{self.settings.size}"

    @property
    def _clips(self) -> list[str]:
        s = self.settings
        stride = ["--sampling_rate", str(s.stride)] if s.sampling == "dense" else []
        return ["--sampling", s.sampling, *stride, "--short_side_size", str(s.size)]

    @property
    def _crops(self) -> list[str]:
        area = self.settings.min_crop_area
        return ["--flip", "False", *([] if area is None else ["--min_crop_area", str(area)])]

    def _training(self, script: str, name: str, seed: int, *, batch: int) -> list[str]:
        out, s = str(self.out / name), self.settings
        return [
            *(sys.executable, script, "--output_dir", out, "--log_dir", out, "--seed", str(seed), "--num_workers", "0"),
            *("--input_size", str(s.size), "--num_frames", str(s.frames), "--batch_size", str(batch)),
            *("--lr", f"{PEAK_LR * 256 / batch:g}"),  # --lr is that of 256 videos
        ]

    def _finetuning(self, name: str, seed: int, lists: str) -> list[str]:
        s = self.settings
        return [
            *self._training("run_class_finetuning.py", name, seed, batch=s.batch),
            *("--data_set", "custom", "--data_path", lists, "--model", self._classifier),
            *(*self._clips, *self._crops),
            *("--test_num_segment", str(s.views[0]), "--test_num_crop", str(s.views[1])),
            *NO_AUGMENTATION,
            *("--num_sample", "1"),
            *("--epochs", str(s.finetune_epochs), "--layer_decay", "1"),
            *("--warmup_epochs", str(s.finetune_epochs // 10), "--disable_eval_during_finetuning"),
            *("--save_ckpt_freq", str(s.finetune_epochs)),
        ]

    def _probing(self, name: str, seed: int, lists: str, kind: str) -> list[str]:
        s = self.settings
        learned = [*self._crops, "--seed", str(seed)]
        if not s.searches:  # too few videos to choose a head on some of them
            learned += ["--lrs", "0.01", "--weight_decays", "0.05", "--batch_size", str(s.batch)]
        own = {
            "knn": ["--neighbours", str(s.neighbours)],
            "linear": [*learned, "--epochs", str(s.probe_epochs)],
            # One head at the published rates (arXiv 2506.09985): each costs a pass over the clips in every epoch.
            "attentive4": [*self._crops, "--seed", str(seed), "--batch_size", str(s.batch), "--probe_heads", "4"]
            + ["--lrs", "0.001", "--weight_decays", "0.01", "--epochs", str(s.finetune_epochs)],
        }
        return [
            *(sys.executable, "run_probing.py", "--probe", kind, "--output_dir", str(self.out / name)),
            *("--data_set", "custom", "--data_path", lists, "--num_workers", "0"),
            *(*self._clips, "--final_norm"),
            *("--test_num_segment", str(s.views[0]), "--test_num_crop", str(s.views[1])),
            *own[kind],
        ]
