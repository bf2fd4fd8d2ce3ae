"""Console output: log lines and, on a terminal, a progress bar below them."""

import logging
import math
import os
import sys
import time
from pathlib import Path

from sigma_video.terminal import printable

from ..distributed.world import World

logger = logging.getLogger(__name__)

BAR_WIDTH = 24
MIN_REDRAW_INTERVAL = 0.2  # seconds: a slow remote terminal must not slow down training
_ERASE = "\r\x1b[2K"  # carriage return, erase line


class PrintableFormatter(logging.Formatter):
    """Shows control characters as escapes: names of files and classes come from outside."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class LogFileHandler(logging.FileHandler):
    """A log file that a run can go on without: once it cannot be written, that is said and it stays as it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger().removeHandler(self)
        logger.warning("%s could not be written: %s. The run goes on without it", self.baseFilename, error.strerror)


class ConsoleHandler(logging.StreamHandler):
    """Logs to stderr. `show` writes a status line that the next status or log line overwrites.

    A file or a pipe gets log lines only: no carriage return is written to it.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.is_terminal = sys.stderr.isatty()
        self.shown_at: float | None = None  # None: no status line is shown

    def show(self, text: str) -> None:
        """Show a status line; calls within MIN_REDRAW_INTERVAL of the last one are ignored."""
        now = time.monotonic()
        if self.is_terminal and (self.shown_at is None or now - self.shown_at >= MIN_REDRAW_INTERVAL):
            try:
                self.stream.write(_ERASE + text[: self._room()])
                self.stream.flush()
                self.shown_at = now
            except OSError:
                self._go_on_without()

    def _room(self) -> int | None:
        """Characters of a line: of one that wraps the next would erase the last part only. None: not known."""
        try:
            return max(os.get_terminal_size(self.stream.fileno()).columns - 1, 0) or None
        except OSError:
            return None

    def erase(self) -> None:
        """Erase the status line, if one is shown."""
        if self.shown_at is not None:
            self.shown_at = None
            try:
                self.stream.write(_ERASE)
            except OSError:
                self._go_on_without()

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without a console that has gone, such as a terminal that was closed; the log file has all lines."""
        if isinstance(sys.exc_info()[1], OSError):
            self._go_on_without()
        else:
            super().handleError(record)

    def _go_on_without(self) -> None:
        self.stream = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (to the end of the process)
        self.is_terminal, self.shown_at = False, None

    def emit(self, record: logging.LogRecord) -> None:
        self.erase()
        super().emit(record)


class ProgressBar:
    """Progress bar of a run on the terminal of rank 0, if it has one.

    Args:
        first_step: steps done before this process started.
    """

    def __init__(self, *, world: World, first_step: int, total_steps: int) -> None:
        self.first_step, self.total_steps = first_step, total_steps
        self.since = time.monotonic()
        handlers = logging.getLogger().handlers if world.is_main else []
        self.consoles = [h for h in handlers if isinstance(h, ConsoleHandler)]

    def show(self, step: int) -> None:
        """Update the bar after `step` steps. Does not synchronize with the device."""
        for console in self.consoles:
            console.show(self.line(step, time.monotonic() - self.since))

    def line(self, step: int, seconds: float) -> str:
        """The text of the bar after `seconds` of this process."""
        filled = BAR_WIDTH * step // self.total_steps
        each = seconds / max(step - self.first_step, 1)
        return (
            f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {step}/{self.total_steps}  {each:.3f} s/step  "
            f"left {format_seconds((self.total_steps - step) * each)}"
        )


def format_seconds(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(math.ceil(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
