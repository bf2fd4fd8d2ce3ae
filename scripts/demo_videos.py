"""Generates the demo's videos: python scripts/demo_videos.py FOLDER --num_pretrain N --num_train N --num_test N

Writes what is missing of the videos, pretrain.csv, train.csv, val.csv, test.csv and labels.txt to the folder.
"""

import argparse
import os
import sys
from pathlib import Path

# Several processes draw: threads of numpy's that wait for one another on a busy machine made them ten times as slow.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.synthetic import generate


def report(done: int, total: int) -> None:
    """Print a line now and then."""
    if done % 20 == 0 or done == total:
        print(f"drew video {done}/{total}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for split in ("pretrain", "train", "test"):
        parser.add_argument(f"--num_{split}", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that draw")
    args = parser.parse_args()
    try:
        generate(
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
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(f"error: {error.filename or args.folder}: {error.strerror}")


if __name__ == "__main__":
    main()
