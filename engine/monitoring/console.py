"""The console: log lines and, on a terminal only, a bar below them that moves with every step."""

import logging
import math
import sys
import time

from ..distributed.world import World

BAR_WIDTH = 24
MIN_REDRAW_INTERVAL = 0.2  # seconds: a terminal at the other end of a slow line must not hold up the training
_ERASE = "\r\x1b[2K"  # to the start of the line, and clear it


class ConsoleHandler(logging.StreamHandler):
    """Log lines on stderr. `show` writes a line that the next one, or the next log line, takes the place of.

    A file or a pipe gets log lines alone: no carriage return ever reaches it.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.is_terminal = sys.stderr.isatty()
        self.shown_at: float | None = None  # None: nothing is on the last line

    def show(self, text: str) -> None:
        """Show a line until something else is written; more often than the eye can follow is left out."""
        now = time.monotonic()
        if self.is_terminal and (self.shown_at is None or now - self.shown_at >= MIN_REDRAW_INTERVAL):
            self.stream.write(_ERASE + text)
            self.stream.flush()
            self.shown_at = now

    def emit(self, record: logging.LogRecord) -> None:
        if self.shown_at is not None:
            self.stream.write(_ERASE)
            self.shown_at = None
        super().emit(record)


class ProgressBar:
    """A run's progress as a line on the main process's terminal, where there is one.

    Args:
        first_step: steps that were done before this process began.
    """

    def __init__(self, *, world: World, first_step: int, total_steps: int) -> None:
        self.first_step, self.total_steps = first_step, total_steps
        self.since = time.monotonic()
        handlers = logging.getLogger().handlers if world.is_main else []
        self.consoles = [h for h in handlers if isinstance(h, ConsoleHandler)]

    def show(self, step: int) -> None:
        """Show that `step` of the run's steps are done. Does not wait for the device."""
        for console in self.consoles:
            console.show(self.line(step, time.monotonic() - self.since))

    def line(self, step: int, seconds: float) -> str:
        """The line after `seconds` of this process."""
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
