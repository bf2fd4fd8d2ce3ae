"""Does a run survive interruptions? One is trained straight through, beside it a twin that is stopped at random.

python scripts/study/stability.py OUT --videos FOLDER [--steps 20000] [--stops 20] [--seed 0]

FOLDER has pretrain.csv (scripts/demo_videos.py makes one). The twin gets SIGTERM, SIGUSR1, SIGINT or SIGKILL at random
steps and is started again by the same command. OUT/stability.md says whether losses and weights are equal to the bit,
what loss, throughput and memory did, and when the collapse watch warned; OUT/stability.png shows it.
"""

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.errors import ConfigError, user_errors  # noqa: E402
from engine.files import replace_text  # noqa: E402
from scripts.study.plan import SIGMA  # noqa: E402

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL)
BATCH, NUM_SAMPLE = 2, 4  # videos, and clips of each
LOOK = 0.5  # seconds between two looks at the process


@dataclass
class Trace:
    """What was seen of a run while it ran; kept in its folder, for the same command on another day.

    Attributes:
        stops: step and name of each signal.
        memory: step and resident MiB.
    """

    folder: Path
    stops: list[tuple[int, str]] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)

    @property
    def _file(self) -> Path:
        return self.folder / "trace.json"

    def restore(self) -> None:
        """Go on with what was kept."""
        if self._file.is_file():
            kept = json.loads(self._file.read_text())
            self.stops, self.memory = ([(step, value) for step, value in kept[name]] for name in ("stops", "memory"))

    def keep(self) -> None:
        """Write it down."""
        replace_text(self._file, json.dumps({"stops": self.stops, "memory": self.memory}) + "\n")

    def records(self) -> list[dict[str, float]]:
        """Of the log, one for each log step."""
        file = self.folder / "log.txt"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [record for line in lines if "train/loss" in (record := json.loads(line))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--videos", type=Path, required=True, metavar="FOLDER", help="with pretrain.csv")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--stops", type=int, default=20, help="signals to the second run")
    parser.add_argument("--seed", type=int, default=0, help="of steps and kinds of signals")
    args = parser.parse_args()
    listed = args.videos.resolve() / "pretrain.csv"
    if not listed.is_file():
        raise ConfigError(f"{listed}: no such file; scripts/demo_videos.py makes one")
    steps_per_epoch = len(listed.read_text().splitlines()) // BATCH
    if not steps_per_epoch:
        raise ConfigError(f"{listed}: has fewer than {BATCH} videos, a batch")
    if not 0 < args.stops < args.steps:
        raise ConfigError(f"--stops {args.stops}: must be from 1 to less than --steps {args.steps}")
    if args.steps % steps_per_epoch:
        raise ConfigError(f"--steps {args.steps}: must be a multiple of an epoch, {steps_per_epoch} steps")
    draw = random.Random(args.seed)
    plan = sorted((draw.randrange(args.steps), draw.choice(SIGNALS)) for _ in range(args.stops))
    epochs = args.steps // steps_per_epoch
    folders = (args.out.resolve() / "straight", args.out.resolve() / "stopped")
    with ThreadPoolExecutor(len(folders)) as pool:  # each has one core
        straight, stopped = pool.map(
            lambda folder, stops: train(command(listed, folder, epochs), folder, stops), folders, ([], plan)
        )
    text = report(straight, stopped, epochs)
    replace_text(args.out / "stability.md", text)
    draw_curves(straight, stopped, args.out / "stability.png")
    sys.stdout.write(text)


def command(listed: Path, folder: Path, epochs: int) -> list[str]:
    """SIGMA-MLP of the smallest size, four frames of 32 x 32 pixels."""
    return [
        *(sys.executable, "run_sigma_pretraining.py", "--data_path", str(listed), "--output_dir", str(folder)),
        *("--model", "pretrain_videomae_mini_patch8_32", "--input_size", "32", "--num_frames", "4"),
        *("--batch_size", str(BATCH), "--num_sample", str(NUM_SAMPLE), "--mask_ratio", "0.75", "--sampling_rate", "2"),
        *("--decoder_depth", "1", "--epochs", str(epochs), "--warmup_epochs", str(epochs // 10), "--lr", "0.016"),
        *("--clip_grad", "1", "--num_workers", "1", "--save_ckpt_freq", str(max(epochs // 50, 1))),
        *(*SIGMA, "--num_prototypes", "64", "--log_dir", str(folder)),
    ]


def train(words: Sequence[str], folder: Path, plan: Sequence[tuple[int, signal.Signals]]) -> Trace:
    """Run a command to its end, with a signal at each step of the plan, and the same command after it."""
    trace = Trace(folder)
    folder.mkdir(parents=True, exist_ok=True)
    trace.restore()
    left = list(plan)[len(trace.stops) :]
    for start in itertools.count():
        with (folder / "console.log").open("a") as out:
            process = subprocess.Popen(
                words, cwd=ROOT, stdout=out, stderr=out, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            sent = _watch(process, trace, left)
        trace.keep()
        if not process.returncode:
            return trace
        if not sent:
            raise ConfigError(f"{folder}/console.log: start {start} ended with exit code {process.returncode}")
    raise AssertionError("count() has no end")


def _watch(process: subprocess.Popen[bytes], trace: Trace, left: list[tuple[int, signal.Signals]]) -> bool:
    """Wait for a process, note its memory, send the next signal when its step is reached; whether one was sent."""
    sent = False
    for step in _steps(process, trace):
        if left and step >= left[0][0] and not sent:
            number = left.pop(0)[1]
            process.send_signal(number)
            trace.stops.append((step, number.name))
            sent = True
    return sent


def _steps(process: subprocess.Popen[bytes], trace: Trace) -> Iterator[int]:
    """The newest logged step of this process, again and again, until it ends."""
    log = trace.folder / "log.txt"
    before = log.stat().st_mtime if log.is_file() else 0.0
    while process.poll() is None:
        time.sleep(LOOK)
        if not log.is_file() or log.stat().st_mtime == before:
            continue  # it has not logged yet
        lines = log.read_text().split("\n")[:-1]  # the last may be half written
        step = int(json.loads(lines[-1])["step"]) if lines else 0
        if megabytes := _resident(process.pid):
            trace.memory.append((step, megabytes))
        yield step


def _resident(pid: int) -> float:
    """MiB of a process; 0 where it has ended, or where there is no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# ---------------------------------------------------------------------------------------------------- results


def report(straight: Trace, stopped: Trace, epochs: int) -> str:
    """The text of stability.md."""
    ours, theirs = straight.records(), stopped.records()
    losses = [[(row["step"], row["train/loss"]) for row in rows] for rows in (ours, theirs)]
    weights = [torch.load(t.folder / f"checkpoint-{epochs - 1}.pth", weights_only=False) for t in (straight, stopped)]
    same = all(torch.equal(value, weights[1]["model"][name]) for name, value in weights[0]["model"].items())
    warned = [
        line
        for trace in (straight, stopped)
        for line in (trace.folder / "console.txt").read_text().splitlines()
        if "may have collapsed" in line
    ]
    kinds = {name: sum(name == kind for _, kind in stopped.stops) for name in sorted({k for _, k in stopped.stops})}
    rows = {
        "steps": f"{int(ours[-1]['step']):,}",
        "interruptions": f"{len(stopped.stops)}: " + ", ".join(f"{number} x {name}" for name, number in kinds.items()),
        "logged losses of both runs": "equal to the bit" if losses[0] == losses[1] else "DIFFERENT",
        "weights at the end": "equal to the bit" if same else "DIFFERENT",
        "loss, first and last tenth": _tenths([row["train/loss"] for row in ours]),
        "clips/s, first and last tenth": _tenths([row["train/clips_per_second"] for row in ours]),
        "main process, MiB, first and last tenth": _tenths([size for _, size in straight.memory]),
        "warnings of the collapse watch": str(len(warned)) + "".join(f"<br>{line}" for line in warned[:3]),
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _tenths(values: Sequence[float]) -> str:
    number = max(len(values) // 10, 1)
    return f"{statistics.mean(values[:number]):.4g}, {statistics.mean(values[-number:]):.4g}"


def draw_curves(straight: Trace, stopped: Trace, file: Path) -> None:
    """Loss, throughput and memory against steps, with a line for each interruption."""
    figure, axes = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for trace, colour, label in ((straight, "#d1711f", "straight through"), (stopped, "#0969da", "interrupted")):
        rows = trace.records()
        steps = [row["step"] for row in rows]
        axes[0].plot(steps, [row["train/loss"] for row in rows], color=colour, label=label, linewidth=0.8)
        axes[1].plot(steps, [row["train/clips_per_second"] for row in rows], color=colour, linewidth=0.8)
        axes[2].plot(*zip(*trace.memory, strict=True), ".", color=colour, markersize=2)
    for axis, title in zip(axes, ("loss", "clips/s", "main process (MiB)"), strict=True):
        axis.set_ylabel(title)
        axis.spines[["top", "right"]].set_visible(False)
        for step, _ in stopped.stops:
            axis.axvline(step, color="#6e7781", linewidth=0.4)
    axes[2].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    axes[2].set_xlabel("step (grey: an interruption)")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    with user_errors():
        main()
