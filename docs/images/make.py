"""Makes the pictures of the README: `.venv/bin/python docs/images/make.py`, after `bash scripts/demo.sh`."""

import argparse
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(ROOT))

from docs.images.clusters import cluster, draw_clusters  # noqa: E402  (needs the repository on the path)
from docs.images.method import draw_method  # noqa: E402
from docs.images.svg import DARK, LIGHT  # noqa: E402


def main() -> None:
    demo = ROOT / "output" / "demo"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=demo / "sigma-short-seed0" / "pretrain" / "checkpoint-8.pth")
    parser.add_argument("--data", type=Path, default=demo / "data-short", help="folder with test.csv and labels.txt")
    args = parser.parse_args()
    found = cluster(args.checkpoint, args.data)
    for theme in (LIGHT, DARK):
        (FOLDER / f"method-{theme.name}.svg").write_text(draw_method(theme))
        (FOLDER / f"demo-{theme.name}.svg").write_text(draw_clusters(theme, found))


if __name__ == "__main__":
    main()
