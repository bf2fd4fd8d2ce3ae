"""Generates the demo's videos: python scripts/demo_videos.py FOLDER --num_pretrain N --num_train N --num_test N

Writes what is missing of the videos, pretrain.csv, train.csv, val.csv, test.csv and labels.txt to the folder. Each of
`--percents` gets a folder labels-PERCENT with the lists for fine-tuning: the first videos of train.csv, whose classes
take turns, so that a smaller share is balanced and part of a larger one.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

# Several processes draw: threads of numpy's that wait for one another on a busy machine made them ten times as slow.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.synthetic import Generated, generate


def report(done: int, total: int) -> None:
    """Print a line now and then."""
    if done % 20 == 0 or done == total:
        print(f"drew video {done}/{total}", flush=True)


def percent(text: str) -> int:
    """A whole number from 1 to 100."""
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100")
    return int(text)


def write_share(made: Generated, percent: int) -> None:
    """Lists with a share of the labelled videos."""
    folder = made.root / f"labels-{percent}"
    folder.mkdir(exist_ok=True)
    rows = made.train.read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(rows[: len(rows) * percent // 100]))
    for file in (made.val, made.test, made.root / "labels.txt"):
        shutil.copyfile(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for split in ("pretrain", "train", "test"):
        parser.add_argument(f"--num_{split}", type=int, required=True)
    parser.add_argument("--percents", type=percent, nargs="*", default=[], metavar="N", help="shares of the labels")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that draw")
    args = parser.parse_args()
    for share in args.percents:
        if args.num_train * share < 100:
            parser.error(f"--percents {share}: of {args.num_train} labelled videos that is none")
    try:
        made = generate(
            args.folder,
            num_pretrain=args.num_pretrain,
            num_train=args.num_train,
            num_val=args.num_test,
            num_test=args.num_test,
            size=(112, 96),
            num_frames=16,
            workers=args.workers,
            progress=report,
        )
        for share in args.percents:
            write_share(made, share)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        sys.exit(f"error: {error.filename or args.folder}: {error.strerror}")


if __name__ == "__main__":
    main()
