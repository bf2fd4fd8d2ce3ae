"""Progress of a job as lines on stderr."""

import math
import sys
import time


class Progress:
    """Lines on stderr: how many are done, how fast, how long it will take."""

    def __init__(self, total: int, before: int) -> None:
        self.total, self.before, self.done, self.failed = total, before, 0, 0
        self.start = self.shown = time.monotonic()
        if before:
            self._say(f"{before:,} of {total:,} were done before")

    def add(self, *, failed: bool) -> None:
        """One more."""
        self.done += 1
        self.failed += failed
        if time.monotonic() - self.shown >= 10:
            self.shown = time.monotonic()
            self._show()

    def finish(self) -> None:
        """The last line."""
        if self.done:
            self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self.start
        rate, done = self.done / max(seconds, 1e-9), self.before + self.done
        left = clock((self.total - done) / rate)
        self._say(
            f"{done:,} of {self.total:,} ({100 * done / self.total:.1f} %), {rate:.3g}/s, {self.failed:,} failed, "
            f"{clock(seconds)} so far, about {left} left"
        )

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
