"""Released weights: `python scripts/zoo.py list`, or `fetch NAME` to download them into torch.hub's cache.

A file is downloaded once, compared with the size and the SHA-256 that the zoo knows, and its path is printed. What was
cut off or interrupted goes on from there at the next try. It is the cache of `--finetune https://...`. Nothing is
downloaded but by `fetch`.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)
from datasets.errors import AnnotationError
from engine.checkpointing.read_weights import DEFAULT_KEY
from engine.errors import ConfigError, user_errors
from models import ModelError
from scripts.convert_checkpoint import Given, check_output, convert, read_content
from scripts.licences import NOT_STATED
from scripts.zoo_page import as_lines, page
from scripts.zoo_progress import Progress
from scripts.zoo_rows import Zoo, ZooRow, read_zoo
from sigma_video.command_line import CommandLine

PAGE = Path(__file__).resolve().parents[1] / "MODEL_ZOO.md"


def parser() -> CommandLine:
    """Command line of this script."""
    made = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "command",
        choices=("list", "fetch", "write"),
        help="list: a line for each model; fetch: download one and print its path; write: make MODEL_ZOO.md anew",
    )
    made.add_argument("name", nargs="?", default="", metavar="NAME", help="fetch: as in the list")
    made.add_argument("--folder", type=Path, help="fetch: write a Hugging Face folder too; it must not exist")
    return made


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for words that do not belong together."""
    if args.command == "fetch" and not args.name:
        raise ConfigError("fetch: which? Give a NAME of the list")
    if args.command != "fetch" and (args.name or args.folder):
        raise ConfigError(f"{args.command} takes no {'NAME' if args.name else '--folder'}: leave it out")


def fetch(row: ZooRow, folder: Path | None) -> Path:
    """The path of the weights in the cache, or the folder that they were converted into."""
    if folder:
        check_output(folder, target="hf", dynamic_batch=False)
    say = f"{row.name}: {row.address.partition('#')[0]}, licence: {row.licence}"
    print(say, file=sys.stderr)
    if not row.sha256:
        print(f"{row.name}: no page states the hash of this file: nothing to compare it with", file=sys.stderr)
    with contextlib.closing(Progress(row.name, sys.stderr)) as progress:
        place = row.fetch(progress)
    if folder is None:
        return place
    licence = "" if row.licence == NOT_STATED else row.licence
    content = read_content(str(place), Given(licence=licence), model_key=DEFAULT_KEY, trust=False)
    convert(content, folder, target="hf", dynamic_batch=False)
    return folder


def write(zoo: Zoo) -> None:
    """Bring MODEL_ZOO.md up to date.

    Raises:
        ConfigError: this is no checkout.
    """
    if not PAGE.is_file():
        raise ConfigError(f"write: there is no {PAGE}: only a clone of the repository has the page")
    PAGE.write_text(page(zoo, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(ModelError, AnnotationError, interrupted="interrupted; the same command goes on from there"):
        args = parser().parse_args(argv)
        check(args)
        zoo = read_zoo()
        if args.command == "list":
            print("\n".join(as_lines(zoo)))
        elif args.command == "fetch":
            print(fetch(zoo.row(args.name), args.folder))
        else:
            write(zoo)


if __name__ == "__main__":
    main()
