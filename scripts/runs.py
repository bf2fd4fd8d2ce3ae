"""The runs under a folder, one a line: `python scripts/runs.py output --watch`.

State (training, testing, finished, interrupted, failed), steps, last and best value, result of the test, time left, and
when the run last wrote something. It only reads, and may be used while runs train, on any machine that sees the folder.
"""

import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

from engine.errors import user_errors
from scripts.reporting.listing import Listing, as_text, screen
from sigma_video.command_line import CommandLine

INTERVAL = 2.0  # seconds between two looks with --watch


def parser() -> CommandLine:
    """Command line of this script."""
    made = CommandLine(description=__doc__)
    made.add_argument(
        "folder", nargs="?", type=Path, default=Path("output"), metavar="FOLDER", help="default: %(default)s"
    )
    made.add_argument(
        "--watch", action="store_true", help="go on until Ctrl-C; into a file or a pipe: lines of runs that got further"
    )
    return made


def watch(listing: Listing, stream: TextIO) -> None:
    """Show the runs until Ctrl-C.

    Raises:
        ConfigError: there is no run, or no more.
    """
    seen: set[tuple[str, ...]] = set()
    if stream.isatty():
        stream.write("\x1b[2J")
    while True:
        lines = listing.lines()
        if stream.isatty():
            columns, rows = shutil.get_terminal_size()
            stream.write(screen(lines, columns=columns, rows=rows))
        elif new := [line for line in lines if line.progress not in seen]:
            stream.write("".join(f"{text}\n" for text in as_text(new)))
            seen |= {line.progress for line in new}
        stream.flush()
        time.sleep(INTERVAL)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    stream = sys.stdout  # what is written to it is made printable where it is read: colours are not to be escaped
    with user_errors():
        args = parser().parse_args(argv)
        listing = Listing(args.folder)
        if not args.watch:
            stream.write("".join(f"{text}\n" for text in as_text(listing.lines(), colour=stream.isatty())))
            return
        try:
            watch(listing, stream)
        except KeyboardInterrupt:  # the way to end it
            return


if __name__ == "__main__":
    main()
