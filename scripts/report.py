"""One HTML page about runs: `python scripts/report.py output/pretraining output/finetuning --output report.html`.

Curves, validation, the test with its confusion matrix, classes and worst videos, options and versions; of several runs
also what differs between them. The page is one file that needs no server and no network. It is made of what the runs
have written so far, and may be made while they train.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

from engine.errors import ConfigError, user_errors
from engine.files import replace_text
from scripts.reporting.page import render
from scripts.reporting.run_folder import find_runs, names_of, read_run
from scripts.reporting.state import state_of
from sigma_video.command_line import CommandLine


def parser() -> CommandLine:
    """Command line of this script."""
    made = CommandLine(description=__doc__)
    made.add_argument("folders", nargs="+", type=Path, metavar="OUTPUT_DIR", help="of a run, or a folder above some")
    made.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    return made


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Write the page of the runs in and below some folders.

    Raises:
        ConfigError: a folder without a run, a file in it that cannot be read, or an `output` that is no page.
    """
    is_page = output.is_file() and output.read_bytes()[:100].lstrip().lower().startswith(b"<!doctype html")
    if output.exists() and not is_page:
        raise ConfigError(f"--output {output}: what is there is no page; give another file")
    found: dict[Path, Path] = {}
    for folder in folders:
        below = find_runs(folder)
        if not below:
            raise ConfigError(f"{folder}: no run in it; give the --output_dir of one, or a folder above it")
        found.update({run.resolve(): run for run in below})
    places = list(found.values())
    runs = dict(zip(names_of(places), map(read_run, places), strict=True))
    page = render(runs, {name: state_of(run) for name, run in runs.items()})
    replace_text(output, page)
    print(f"{output}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}, {len(page.encode()) / 1e6:.1f} MB")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors():
        args = parser().parse_args(argv)
        write_report(args.folders, args.output)


if __name__ == "__main__":
    main()
