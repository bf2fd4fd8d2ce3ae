"""The demo's stages: their commands, how their progress is read, and what they leave in which folder."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.demo_progress import Work, clock

BATCH = 32
SIZE = 32  # height and width of the model's clips
ENCODER = ["--input_size", str(SIZE), "--num_frames", "8", "--sampling_rate", "1"]
STEPS = r"step (\d+)/(\d+) "  # of the training's log lines


@dataclass(frozen=True)
class Preset:
    """How much of everything, how long it takes and how much room it needs."""

    num_pretrain: int
    num_train: int
    num_test: int
    pretrain_epochs: int
    probe_epochs: int
    finetune_epochs: int
    duration: str
    peak_megabytes: int


PRESETS = {
    "short": Preset(3000, 500, 300, 13, 20, 10, "about 6 minutes on two idle CPU cores", 500),
    "smoke": Preset(256, 64, 30, 1, 1, 1, "1 to 2 minutes", 100),
}
METHODS = {"sigma": "SIGMA", "videomae": "VideoMAE"}
OBJECTIVES = {
    "sigma": [
        *("--target_type", "mlp", "--loss_func", "SWAV"),
        *("--projection_dims", "256", "256", "--decoder_num_classes", "64", "--num_prototypes", "64"),
    ],
    "videomae": ["--target_type", "pixel", "--loss_func", "L2"],
}


@dataclass(frozen=True)
class Stage:
    """A step of the demo.

    Attributes:
        name: in words.
        key: of its log file and its time; of training, also its folder.
        final: the checkpoint that training ends with; the earlier ones are removed after it. None: no training.
        is_done: whether an earlier call has finished it; stages that find out themselves what is left say no.
    """

    name: str
    key: str
    work: Work
    final: Path | None = None
    is_done: Callable[[], bool] = lambda: False


class Demo:
    """The folders and commands of one demo run."""

    def __init__(self, *, base: Path, method: str, preset: str, seed: int) -> None:
        self.method, self.preset, self.seed = method, PRESETS[preset], seed
        self.base = base
        self.folder = base / f"{method}-{preset}-seed{seed}"
        self.data = base / f"data-{preset}"
        self.checkpoint = self.folder / "pretrain" / f"checkpoint-{self.preset.pretrain_epochs - 1}.pth"

    def times(self) -> dict[str, float]:
        """Seconds spent in each stage, over all calls."""
        file = self.folder / "times.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def add_time(self, key: str, seconds: float) -> None:
        """Count the seconds of a stage."""
        times = self.times()
        times[key] = times.get(key, 0.0) + seconds
        temporary = self.folder / "times.json.tmp"
        temporary.write_text(json.dumps(times, indent=1) + "\n")
        temporary.replace(self.folder / "times.json")

    def stages(self) -> list[Stage]:
        """All steps in order."""
        stages = [self.videos(), self.pretraining()]
        for kind, name in (("probe", "linear probe"), ("finetune", "fine-tuning")):
            for start in ("pretrained", "scratch"):
                stages.append(self.classification(kind, name, start))
        return [*stages, self.pictures()]

    def videos(self) -> Stage:
        """Write the videos and lists that are not there yet."""
        p = self.preset
        command = [sys.executable, "scripts/demo_videos.py", str(self.data), "--workers", str(num_cores())]
        command += ["--num_pretrain", str(p.num_pretrain), "--num_train", str(p.num_train)]
        command += ["--num_test", str(p.num_test)]
        total = p.num_pretrain + p.num_train + 2 * p.num_test
        return Stage("videos", "videos", Work(command, r"drew video (\d+)/(\d+)", "video", total))

    def pretraining(self) -> Stage:
        """Pre-train on the unlabelled videos."""
        p = self.preset
        steps = p.pretrain_epochs * (p.num_pretrain // BATCH)
        command = self.training("run_sigma_pretraining.py", "pretrain")
        command += [
            *("--data_path", str(self.data / "pretrain.csv"), "--model", f"pretrain_videomae_mini_patch8_{SIZE}"),
            *(*OBJECTIVES[self.method], "--augmentation", "resize"),
            *("--mask_ratio", "0.75", "--decoder_depth", "2", "--epochs", str(p.pretrain_epochs), *warm_up(steps)),
            *("--lr", "4e-3", "--min_lr", "4e-5", "--clip_grad", "1"),
        ]
        name = f"{METHODS[self.method]} pre-training"
        return Stage(
            name, "pretrain", Work(command, STEPS, "step", steps, "saving"), self.checkpoint, self.checkpoint.exists
        )

    def classification(self, kind: str, name: str, start: str) -> Stage:
        """Probing or fine-tuning, from the pre-trained weights or from scratch; both with the same options."""
        p, key = self.preset, f"{kind}-{start}"
        epochs = p.probe_epochs if kind == "probe" else p.finetune_epochs
        steps = epochs * (p.num_train // BATCH)
        rate = ["--lr", "8e-2", "--linear_probing"] if kind == "probe" else ["--lr", "4e-3", "--layer_decay", "1"]
        command = self.training("run_class_finetuning.py", key)
        command += [
            *("--data_set", "Synthetic", "--data_path", str(self.data), "--model", f"vit_mini_patch8_{SIZE}"),
            *("--short_side_size", str(SIZE), "--test_num_segment", "2", "--test_num_crop", "3"),
            *("--aa", "none", "--reprob", "0", "--mixup", "0", "--cutmix", "0", "--min_crop_area", "0.9"),
            *("--num_sample", "1", "--drop_path", "0", "--epochs", str(epochs), *warm_up(steps)),
            *("--disable_eval_during_finetuning", *rate),
        ]
        if start == "pretrained":
            command += ["--finetune", str(self.checkpoint)]
        elif kind == "probe":
            command += ["--random_encoder"]
        words = {"pretrained": METHODS[self.method], "scratch": "scratch"}
        return Stage(
            f"{name}, {words[start]}",
            key,
            Work(command, STEPS, "step", steps, "testing"),
            self.folder / key / f"checkpoint-{epochs - 1}.pth",
            (self.folder / key / "test.json").exists,
        )

    def training(self, script: str, key: str) -> list[str]:
        """The beginning of a training command, as a user would type it."""
        out = str(self.folder / key)
        return [
            *(sys.executable, script, "--output_dir", out, "--log_dir", out, "--seed", str(self.seed), *ENCODER),
            *("--num_workers", str(num_workers()), "--batch_size", str(BATCH), "--save_ckpt_freq", "1"),
        ]

    def pictures(self) -> Stage:
        """Masks, prototypes or reconstructions, losses and accuracies, confusion matrices."""
        command = [sys.executable, "scripts/demo_pictures.py", str(self.folder), str(self.data)]
        command += ["--checkpoint", str(self.checkpoint)]
        return Stage("pictures", "pictures", Work(command, r"drew picture (\d+)/(\d+)", "picture", 4))

    def table(self) -> str:
        """The results, as a Markdown table."""
        times = self.times()
        rows = ["| weights | linear probe top-1 | fine-tuned top-1 | fine-tuned top-5 | videos | views | time |"]
        rows.append("|---|---|---|---|---|---|---|")
        for start, name in (("pretrained", f"{METHODS[self.method]} pre-trained"), ("scratch", "from scratch")):
            probe, tuned = (
                json.loads((self.folder / f"{kind}-{start}" / "test.json").read_text())
                for kind in ("probe", "finetune")
            )
            seconds = sum(times[key] for key in times if key.endswith(f"-{start}"))
            if start == "pretrained":
                seconds += times.get("pretrain", 0.0)
            rows.append(
                f"| {name} | {probe['test/top1']:.1f} | {tuned['test/top1']:.1f} | {tuned['test/top5']:.1f} "
                f"| {tuned['videos']} | {tuned['views']} | {clock(seconds)} |"
            )
        return "\n".join(rows)


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_workers() -> int:
    """Loader processes of a training stage."""
    return min(2, max(num_cores() - 1, 1))


def warm_up(steps: int) -> list[str]:
    """Flags for a warm-up of a tenth of the steps."""
    return ["--warmup_epochs", "0", "--warmup_steps", str(max(steps // 10, 1))]
