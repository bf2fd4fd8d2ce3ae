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
STARTS = ("pretrained", "scratch")
STEPS = r"step (\d+)/(\d+) "  # of the training's log lines


@dataclass(frozen=True)
class Preset:
    """How much of everything, how long it takes and how much room it needs.

    Attributes:
        frozen_epochs: of the pre-training, in which SIGMA's projection network is not trained.
        percents: of the labels that models are fine-tuned on, the largest last; all are fine-tuned for the same steps.
    """

    num_pretrain: int
    num_train: int
    num_test: int
    pretrain_epochs: int
    frozen_epochs: int
    finetune_epochs: int
    finetune_epoch_videos: int
    percents: tuple[int, ...]
    duration: str
    peak_megabytes: int


PRESETS = {
    "short": Preset(3000, 500, 300, 9, 4, 10, 960, (10, 50, 100), "about 10 minutes on two idle CPU cores", 500),
    "smoke": Preset(256, 60, 30, 1, 0, 1, 64, (50, 100), "1 to 2 minutes", 100),
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
        stages = [self.videos(), self.pretraining(), *(self.probe(start) for start in STARTS)]
        stages += [self.finetuning(percent, start) for percent in self.preset.percents for start in STARTS]
        return [*stages, self.pictures()]

    def videos(self) -> Stage:
        """Write the videos and lists that are not there yet."""
        p = self.preset
        command = [sys.executable, "scripts/demo_videos.py", str(self.data), "--workers", str(num_cores())]
        command += ["--num_pretrain", str(p.num_pretrain), "--num_train", str(p.num_train)]
        command += ["--num_test", str(p.num_test), "--percents", *map(str, p.percents)]
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
            *("--mask_ratio", "0.75", "--decoder_depth", "2", "--epochs", str(p.pretrain_epochs), *warm_up(steps // 5)),
            *("--lr", "4e-3", "--min_lr", "4e-5", "--clip_grad", "1"),
        ]
        if self.method == "sigma":  # a short run would spend most of its steps until the branches agree on something
            command += ["--freeze_projection_epochs", str(p.frozen_epochs)]
        name = f"{METHODS[self.method]} pre-training"
        return Stage(
            name, "pretrain", Work(command, STEPS, "step", steps, "saving"), self.checkpoint, self.checkpoint.exists
        )

    def probe(self, start: str) -> Stage:
        """A linear classifier on frozen features of all labelled videos, of pre-trained or random weights."""
        key, num_train = f"probe-{start}", self.preset.num_train
        command = [
            *(sys.executable, "run_probing.py", "--probe", "linear", "--output_dir", str(self.folder / key)),
            *("--data_set", "Synthetic", "--data_path", str(self.data), "--num_workers", str(num_workers())),
            *("--sampling", "dense", "--sampling_rate", "1", "--short_side_size", str(SIZE), "--final_norm"),
            *("--test_num_segment", "2", "--test_num_crop", "3", "--min_crop_area", "0.9", "--seed", str(self.seed)),
        ]
        if start == "pretrained":
            command += ["--finetune", str(self.checkpoint)]
        else:
            command += ["--random_weights", str(self.seed), "--model", f"vit_mini_patch8_{SIZE}", "--num_frames", "8"]
        return Stage(
            f"linear probe, {self.words(start)}",
            key,
            Work(command, r"features: (\d+) of this rank's (\d+) samples", "video", num_train, "learning"),
            is_done=self.probed(start).exists,
        )

    def probed(self, start: str) -> Path:
        """The result of a linear probe."""
        return self.folder / f"probe-{start}" / "probe-linear-Synthetic-top1.json"

    def words(self, start: str) -> str:
        """What a classifier starts from."""
        return {"pretrained": METHODS[self.method], "scratch": "scratch"}[start]

    def finetuning(self, percent: int, start: str) -> Stage:
        """Fine-tuning with a share of the labels, from pre-trained weights or from scratch, with the same options."""
        p, key = self.preset, finetuning_key(percent, start)
        steps = p.finetune_epochs * (p.finetune_epoch_videos // BATCH)
        command = self.training("run_class_finetuning.py", key)
        command += [
            *("--data_set", "Synthetic", "--data_path", str(self.data / f"labels-{percent}")),
            *("--model", f"vit_mini_patch8_{SIZE}", "--samples_per_epoch", str(p.finetune_epoch_videos)),
            *("--short_side_size", str(SIZE), "--test_num_segment", "2", "--test_num_crop", "3"),
            *("--aa", "none", "--reprob", "0", "--mixup", "0", "--cutmix", "0", "--min_crop_area", "0.9"),
            *("--num_sample", "1", "--drop_path", "0", "--epochs", str(p.finetune_epochs), *warm_up(steps // 10)),
            *("--disable_eval_during_finetuning", "--lr", "4e-3", "--layer_decay", "1"),
        ]
        if start == "pretrained":
            command += ["--finetune", str(self.checkpoint)]
        return Stage(
            f"{percent} % of labels, {self.words(start)}",
            key,
            Work(command, STEPS, "step", steps, "testing"),
            self.folder / key / f"checkpoint-{p.finetune_epochs - 1}.pth",
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
        command += ["--checkpoint", str(self.checkpoint), "--percents", *map(str, self.preset.percents)]
        return Stage("pictures", "pictures", Work(command, r"drew picture (\d+)/(\d+)", "picture", 4))

    def table(self) -> str:
        """Top-1 of every start and share of the labels, as a Markdown table."""
        p, times = self.preset, self.times()
        heads = [f"{percent} % ({p.num_train * percent // 100} labels)" for percent in p.percents]
        rows = [f"| weights | linear probe | {' | '.join(heads)} | time |", "|---" * (len(heads) + 3) + "|"]
        for start, name in (("pretrained", f"{METHODS[self.method]} pre-trained"), ("scratch", "from scratch")):
            keys = [finetuning_key(percent, start) for percent in p.percents]
            results = [json.loads((self.folder / key / "test.json").read_text()) for key in keys]
            counted = [*keys, f"probe-{start}", *(["pretrain"] if start == "pretrained" else [])]
            seconds = sum(times.get(key, 0.0) for key in counted)
            probed = json.loads(self.probed(start).read_text())["value"]
            cells = [f"{value:.1f}" for value in (probed, *(result["test/top1"] for result in results))]
            rows.append(f"| {name} | {' | '.join(cells)} | {clock(seconds)} |")
        steps = p.finetune_epochs * (p.finetune_epoch_videos // BATCH)
        rows += [
            "",
            f"Top-1 in %: a linear probe of frozen features with all labels, and {steps} steps of fine-tuning with a "
            f"share of them; {results[0]['videos']} test videos, {results[0]['views']} views each.",
        ]
        return "\n".join(rows)


def finetuning_key(percent: int, start: str) -> str:
    """Folder and log of a model fine-tuned with a share of the labels."""
    return f"finetune-{percent}-{start}"


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_workers() -> int:
    """Loader processes of a training stage."""
    return min(2, max(num_cores() - 1, 1))


def warm_up(steps: int) -> list[str]:
    """Flags for a warm-up of so many steps."""
    return ["--warmup_epochs", "0", "--warmup_steps", str(max(steps, 1))]
