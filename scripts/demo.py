"""The demo behind scripts/demo.sh: videos, pre-training, fine-tuning with fewer and more labels, test and pictures.

A second call reuses what is done and resumes what was cut off.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.demo_progress import Screen, StageError, clock, run_stage  # noqa: E402  (needs the path)
from scripts.demo_stages import METHODS, PRESETS, Demo, Stage, num_cores, num_workers  # noqa: E402

PICTURES = {
    "masks.png": "clips, and what the encoder sees of them",
    "prototypes.png": "what the prototypes stand for",
    "reconstructions.png": "masked tubelets as predicted",
    "training.png": "losses, and test accuracy by share of the labels",
    "confusion.png": "confusion matrices of the fine-tuned models",
}


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def seed(text: str) -> int:
    """A seed that all random number generators take."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**32 - 1")
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = Parser(prog="demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="sigma", choices=list(METHODS), help="the pre-training method")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--smoke",
        action="store_const",
        const="smoke",
        default="short",
        dest="preset",
        help="the whole path in one to two minutes; its numbers mean nothing",
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output" / "demo", metavar="DIR", help="default: output/demo"
    )
    return parser.parse_args()


def check_room(demo: Demo) -> None:
    """Raise an OSError if the demo, of which some may be there already, cannot fit on the disk."""
    needed = demo.preset.peak_megabytes - megabytes(demo.data) - megabytes(demo.folder)
    free = shutil.disk_usage(demo.base).free // 10**6
    if free < needed:
        raise OSError(
            f"{demo.base}: {free} MB are free, the demo needs {needed}; make room or choose another --output_dir"
        )


def run_missing(demo: Demo, screen: Screen) -> None:
    """Run the stages that no earlier call has finished."""
    stages = demo.stages()
    width = max(len(stage.name) for stage in stages)
    # A core for each loader process: threads that wait for one another on a shared core cost half the speed.
    environment = {"OMP_NUM_THREADS": str(max(num_cores() - num_workers(), 1)), **os.environ}
    environment["PYTHONUNBUFFERED"] = "1"
    for number, stage in enumerate(stages, start=1):
        title = f"[{number}/{len(stages)}] {stage.name:<{width}}"
        if stage.is_done():
            screen.say(f"{title}  done before")
            continue
        started = time.monotonic()
        log = demo.folder / f"{stage.key}.log"
        try:
            run_stage(screen, title, stage.work, log=log, cwd=ROOT, environment=environment)
        finally:
            seconds = time.monotonic() - started
            demo.add_time(stage.key, seconds)
        remove_intermediate(stage)
        screen.say(f"{title}  done in {clock(seconds)}")


def remove_intermediate(stage: Stage) -> None:
    """Remove the checkpoints of a finished training stage but for its last: they were for resuming it."""
    if stage.final is not None:
        for path in stage.final.parent.glob("checkpoint-*.pth"):
            if path != stage.final:
                path.unlink()


def megabytes(folder: Path) -> int:
    """Room that the files below a folder take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) // 10**6


def summary(demo: Demo) -> str:
    """The results, where they are, and how to remove them."""
    pictures = [(demo.folder / name, what) for name, what in PICTURES.items() if (demo.folder / name).exists()]
    width = max(len(str(path)) for path, _ in pictures)
    lines = ["", demo.table(), "", "pictures"]
    lines += [f"  {path!s:<{width}}  {what}" for path, what in pictures]
    lines += [
        f"table     {demo.folder / 'results.md'}",
        f"logs      {demo.folder / 'demo.log'}, and one log a stage beside it",
        f"weights   {demo.checkpoint}",
        f"on disk   {megabytes(demo.base)} MB in {demo.base}",
        f"  remove the videos ({megabytes(demo.data)} MB; the next call generates them again): rm -r {demo.data}",
        f"  remove everything: rm -r {demo.base}",
    ]
    if demo.preset is PRESETS["smoke"]:
        lines += ["", "This was the smoke run: it shows that everything works; its numbers mean nothing."]
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    demo = Demo(base=args.output_dir.absolute(), method=args.method, preset=args.preset, seed=args.seed)
    demo.folder.mkdir(parents=True, exist_ok=True)
    screen = Screen(sys.stdout, demo.folder / "demo.log")
    check_room(demo)
    started = time.monotonic()
    screen.say(f"SIGMA demo: {METHODS[args.method]}, {demo.preset.duration}; files and logs in {demo.folder}")
    run_missing(demo, screen)
    (demo.folder / "results.md").write_text(demo.table() + "\n")
    screen.say(summary(demo))
    screen.say(f"\ntotal time {clock(time.monotonic() - started)}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the stage that runs, as Ctrl-C does
    try:
        main()
    except StageError as failure:
        sys.exit(f"error: {failure}")
    except OSError as failure:
        reason = f"{failure.filename}: {failure.strerror}" if failure.filename else str(failure)
        sys.exit(f"error: {reason}")
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from here", file=sys.stderr)
        sys.exit(130)
