"""The demo behind scripts/demo.sh: generate videos, pre-train, probe, fine-tune, test, and show what came out."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets.synthetic import generate  # noqa: E402  (needs the repository on the path)
from engine.files import replace_text  # noqa: E402
from scripts.demo_pictures import draw_pictures  # noqa: E402

BATCH = 32
TRUST = 60.0  # seconds after which this machine's speed counts as much as the one that the costs were measured on
SIZE = 32  # height and width of the model's clips
ENCODER = ["--input_size", str(SIZE), "--num_frames", "8", "--sampling_rate", "1"]


@dataclass(frozen=True)
class Preset:
    """How much of everything."""

    num_pretrain: int
    num_train: int
    num_test: int
    pretrain_epochs: int
    probe_epochs: int
    finetune_epochs: int


PRESETS = {
    "short": Preset(3000, 500, 300, 13, 20, 10),
    "smoke": Preset(256, 64, 30, 1, 1, 1),
}
OBJECTIVES = {
    "sigma": [
        *("--target_type", "mlp", "--loss_func", "SWAV"),
        *("--projection_dims", "256", "256", "--decoder_num_classes", "64", "--num_prototypes", "64"),
    ],
    "videomae": ["--target_type", "pixel", "--loss_func", "L2"],
}


@dataclass(frozen=True)
class Stage:
    """A step of the demo: its name, how long it takes relative to the others, and what it does."""

    name: str
    cost: float
    run: Callable[[], None]
    is_done: Callable[[], bool]


class Demo:
    """The folders and commands of one demo run."""

    def __init__(self, *, method: str, preset: str, seed: int) -> None:
        self.method, self.preset, self.seed = method, PRESETS[preset], seed
        base = ROOT / "output" / "demo"
        self.folder = base / f"{method}-{preset}-seed{seed}"
        self.data = base / f"data-{preset}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def pretraining(self) -> str:
        """Name of the pre-training stage."""
        return f"pre-train ({self.method})"

    def times(self) -> dict[str, float]:
        """Seconds spent in each stage, over all calls."""
        file = self.folder / "times.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def add_time(self, stage: str, seconds: float) -> None:
        """Count the seconds of a stage."""
        times = self.times()
        times[stage] = times.get(stage, 0.0) + seconds
        replace_text(self.folder / "times.json", json.dumps(times, indent=1) + "\n")

    def stages(self) -> list[Stage]:
        """All steps in order. Costs are seconds on two cores of a 2.5 GHz Xeon, of which only the ratios matter."""
        p = self.preset
        probe, tune = 0.004 * p.num_train * p.probe_epochs + 12, 0.007 * p.num_train * p.finetune_epochs + 12
        stages = [
            Stage("generate the videos", 0.01 * (p.num_pretrain + p.num_train + 2 * p.num_test), self.generate, never),
            Stage(
                self.pretraining,
                0.0056 * p.num_pretrain * p.pretrain_epochs + 8,
                self.pretrain,
                self.checkpoint().exists,
            ),
        ]
        for name, cost, kind in (("linear probe", probe, "probe"), ("fine-tuning", tune, "finetune")):
            for start in ("pretrained", "scratch"):
                stages.append(self.classification(f"{name}, {start}", cost, kind, start))
        return [*stages, Stage("draw the pictures", 8, self.pictures, never)]

    def generate(self) -> None:
        """Write the videos and lists that are not there yet."""
        p = self.preset
        generate(
            self.data,
            num_pretrain=p.num_pretrain,
            num_train=p.num_train,
            num_val=p.num_test,
            num_test=p.num_test,
            size=(112, 96),
            num_frames=16,
            workers=num_cores(),
            progress=report_progress,
        )

    def pretrain(self) -> None:
        """Pre-train on the unlabelled videos."""
        p = self.preset
        self.call(
            "run_sigma_pretraining.py",
            "pretrain",
            *("--data_path", str(self.data / "pretrain.csv"), "--model", f"pretrain_videomae_mini_patch8_{SIZE}"),
            *(*ENCODER, *OBJECTIVES[self.method], "--augmentation", "resize"),
            *("--mask_ratio", "0.75", "--decoder_depth", "2"),
            *(
                "--batch_size",
                str(BATCH),
                "--epochs",
                str(p.pretrain_epochs),
                *warm_up(p.num_pretrain, p.pretrain_epochs),
            ),
            *("--lr", "4e-3", "--min_lr", "4e-5", "--clip_grad", "1", "--save_ckpt_freq", "1"),
        )

    def classification(self, name: str, cost: float, kind: str, start: str) -> Stage:
        """Probing or fine-tuning, from the pre-trained weights or from scratch; both with the same options."""
        p, folder = self.preset, f"{kind}-{start}"
        epochs = p.probe_epochs if kind == "probe" else p.finetune_epochs
        rate = ["--lr", "8e-2", "--linear_probing"] if kind == "probe" else ["--lr", "4e-3", "--layer_decay", "1"]
        options = [
            *("--data_set", "Synthetic", "--data_path", str(self.data), "--model", f"vit_mini_patch8_{SIZE}"),
            *(*ENCODER, "--short_side_size", str(SIZE), "--test_num_segment", "2", "--test_num_crop", "3"),
            *("--aa", "none", "--reprob", "0", "--mixup", "0", "--cutmix", "0", "--min_crop_area", "0.9"),
            *("--num_sample", "1", "--drop_path", "0", "--batch_size", str(BATCH), "--epochs", str(epochs)),
            *warm_up(p.num_train, epochs),
            *("--disable_eval_during_finetuning", "--save_ckpt_freq", "1", *rate),
        ]
        if start == "pretrained":
            options += ["--finetune", str(self.checkpoint())]
        done = self.folder / folder / "test.json"
        return Stage(name, cost, lambda: self.call("run_class_finetuning.py", folder, *options), done.exists)

    def checkpoint(self) -> Path:
        """The pre-trained weights."""
        return self.folder / "pretrain" / f"checkpoint-{self.preset.pretrain_epochs - 1}.pth"

    def call(self, script: str, folder: str, *options: str) -> None:
        """Run an entry script as a user would; its lines go to this console."""
        cores = num_cores()
        workers = min(2, max(cores - 1, 1))
        # A core for each loader process: threads that wait for one another on a shared core cost half the speed.
        environment = {"OMP_NUM_THREADS": str(max(cores - workers, 1)), **os.environ}
        out = str(self.folder / folder)
        common = ["--output_dir", out, "--log_dir", out, "--seed", str(self.seed), "--num_workers", str(workers)]
        command = [sys.executable, str(ROOT / script), *options, *common]
        print("  " + " ".join([script, *options]), flush=True)
        result = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if result.returncode:
            sys.exit(f"demo: {script} failed with exit code {result.returncode}; its message stands above")

    def pictures(self) -> None:
        """Masks, loss, prototypes or reconstructions, confusion matrices."""
        draw_pictures(self.folder, self.data, checkpoint=self.checkpoint())

    def table(self) -> str:
        """The results, as a Markdown table."""
        times = self.times()
        rows = ["| weights | linear probe top-1 | fine-tuned top-1 | fine-tuned top-5 | videos | views | time |"]
        rows.append("|---|---|---|---|---|---|---|")
        for start, name in (("pretrained", f"{self.method} pre-trained"), ("scratch", "from scratch")):
            probe, tuned = (
                json.loads((self.folder / f"{kind}-{start}" / "test.json").read_text())
                for kind in ("probe", "finetune")
            )
            seconds = sum(times[stage] for stage in times if stage.endswith(start))
            if start == "pretrained":
                seconds += times[self.pretraining]
            rows.append(
                f"| {name} | {probe['test/top1']:.1f} | {tuned['test/top1']:.1f} | {tuned['test/top5']:.1f} "
                f"| {tuned['videos']} | {tuned['views']} | {clock(seconds)} |"
            )
        return "\n".join(rows)


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_up(num_videos: int, epochs: int) -> list[str]:
    """Flags for a warm-up of a tenth of the steps."""
    steps = epochs * (num_videos // BATCH)
    return ["--warmup_epochs", "0", "--warmup_steps", str(max(steps // 10, 1))]


def never() -> bool:
    """For stages that find out themselves what is left to do."""
    return False


def report_progress(done: int, total: int) -> None:
    """A line now and then."""
    if done % 500 == 0 or done == total:
        print(f"  {done} of {total} videos", flush=True)


def clock(seconds: float) -> str:
    """m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="sigma", choices=list(OBJECTIVES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--smoke", action="store_const", const="smoke", default="short", dest="preset", help="one to two minutes"
    )
    args = parser.parse_args()
    demo = Demo(method=args.method, preset=args.preset, seed=args.seed)
    stages = demo.stages()
    start, spent_cost = time.perf_counter(), 0.0
    for number, stage in enumerate(stages, start=1):
        elapsed = time.perf_counter() - start
        left_cost = sum(s.cost for s in stages[number - 1 :] if not s.is_done())
        left = left_cost * (elapsed + TRUST) / (spent_cost + TRUST)
        done = stage.is_done()
        state = "done before" if done else f"{clock(elapsed)} elapsed, about {clock(left)} left in all"
        print(f"\n[demo {number}/{len(stages)}] {stage.name}: {state}", flush=True)
        if not done:
            started = time.perf_counter()
            try:
                stage.run()
            finally:
                seconds = time.perf_counter() - started
                demo.add_time(stage.name, seconds)
            if seconds > 2:  # else an earlier call had left nothing to do, which says nothing of this machine's speed
                spent_cost += stage.cost
    table = demo.table()
    (demo.folder / "results.md").write_text(table + "\n")
    print(f"\n{table}\n")
    print(f"total time {clock(time.perf_counter() - start)}; results and pictures are in {demo.folder}")
    if args.preset == "smoke":
        print("this was the smoke run: it shows that everything works; the numbers mean nothing")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
