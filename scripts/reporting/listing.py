"""Runs as lines of a terminal. Imports no torch."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.results import RESULTS
from sigma_video.terminal import printable

from .markup import shown, tested
from .run_folder import LOG, RECORD, Run, find_runs, read_while_written
from .state import TESTING, TRAINING, age, clock, state_of

HEADER = ("run", "state", "step", "metric", "last", "best", "test", "left", "written")
UNREADABLE = "unreadable"
COLOURS = {"training": 36, "testing": 36, "finished": 32, "interrupted": 33, "failed": 31, UNREADABLE: 31}
LONGEST_NAME, LONGEST_WHY = 60, 100
GAP = "  "


@dataclass(frozen=True)
class Line:
    """A run in the list.

    Attributes:
        cells: one for each column of HEADER.
        why: more about its state, "" if there is nothing to say.
        progress: changes when the run has got further.
    """

    cells: tuple[str, ...]
    why: str
    progress: tuple[str, ...]

    @property
    def is_active(self) -> bool:
        """Whether the run does something now."""
        return self.cells[1] in (TRAINING, TESTING)


class Listing:
    """The runs under a folder; files that have not changed are not read again."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._read: dict[Path, tuple[tuple[tuple[int, int], ...], Run | str]] = {}

    def lines(self) -> list[Line]:
        """The runs as they are now: active ones first, else by their paths.

        Raises:
            ConfigError: there is no such folder, or no run in it.
        """
        folders = find_runs(self.top)
        if not folders:
            raise ConfigError(f"{self.top}: no run in or below it; give a folder that holds some --output_dir")
        return sorted(map(self._line, folders), key=lambda line: not line.is_active)

    def _line(self, folder: Path) -> Line:
        name = str(folder.relative_to(self.top)) if folder != self.top else folder.name or str(folder)
        name = printable(name.replace("\n", " ").replace("\t", " "))
        name = name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"
        run = self._run(folder)
        if isinstance(run, str):
            return Line((name, UNREADABLE, *[""] * (len(HEADER) - 2)), run, (name, run))
        state, key = state_of(run), run.main_metric()
        is_measured = bool(run.values(key))
        total = run.total_steps
        step = f"{run.step}/{total} {100 * run.step / max(total, 1):.0f}%" if total else str(run.step)
        cells = (
            name,
            state.kind,
            step if run.starts or run.records else "",
            key if is_measured else "",
            shown(run.last(key)) if is_measured else "",
            shown(run.best(key)) if is_measured else "",
            tested(run),
            clock(state.seconds_left),
            f"{age(time.time() - state.written_at)} ago",
        )
        return Line(tuple(map(printable, cells)), printable(state.why), (*cells[:3], cells[6]))

    def _run(self, folder: Path) -> Run | str:
        """A run, or why it cannot be read."""
        stamps = tuple(map(_stamp, (folder / LOG, folder / RECORD, folder / RESULTS)))
        if folder not in self._read or self._read[folder][0] != stamps:
            found: Run | str
            try:
                found = read_while_written(folder)
            except (ConfigError, OSError) as error:
                found = " ".join(printable(str(error)).split())
            self._read[folder] = stamps, found
        return self._read[folder][1]


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def as_text(lines: Sequence[Line], *, width: int | None = None, colour: bool = False) -> list[str]:
    """Columns of equal width, with a header; columns in which there is nothing are left out.

    Args:
        width: of the terminal: lines are cut off there; None to leave them as they are.
        colour: states in colour.
    """
    rows = [HEADER, *(line.cells for line in lines)]
    kept = [at for at in range(len(HEADER)) if any(row[at] for row in rows[1:])]
    widths = {at: max(len(row[at]) for row in rows) for at in kept}
    texts = []
    for row, why in zip(rows, ["", *(line.why for line in lines)], strict=True):
        words = GAP.join(row[at].ljust(widths[at]) for at in kept)
        words = f"{words}{GAP}{why[:LONGEST_WHY]}".rstrip()
        words = words if width is None else words[: max(width - 1, 1)]
        texts.append(_coloured(words, row[1]) if colour else words)
    return texts


def _coloured(words: str, state: str) -> str:
    """The state in its colour; the words before it may hold the same word."""
    before, found, after = words.partition(f"{GAP}{state} ")
    if state not in COLOURS or not found:
        return words
    return f"{before}{GAP}\x1b[{COLOURS[state]}m{state}\x1b[0m {after}"


def screen(lines: Sequence[Line], *, columns: int, rows: int) -> str:
    """What draws the runs over what a terminal shows."""
    texts = as_text(lines, width=columns, colour=True)
    if len(texts) > rows - 1:
        texts = [*texts[: rows - 2], f"... {len(texts) - rows + 2} more"]
    return "\x1b[H" + "".join(f"{text}\x1b[K\n" for text in texts) + "\x1b[J"
