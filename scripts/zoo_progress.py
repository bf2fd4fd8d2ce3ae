"""How far a download is: a bar on a terminal, a line now and then in a file or pipe. Used by zoo.py."""

import time
from typing import TextIO

from tqdm import tqdm

PLAIN_EVERY = 10.0  # seconds between two plain lines
MB = 1e6


class Progress:
    """Bytes, rate and time left; called as `Show`. What an earlier try had fetched does not count for the rate."""

    def __init__(self, title: str, stream: TextIO, *, every: float = PLAIN_EVERY) -> None:
        self.title, self.stream, self.every = title, stream, every
        self.bar: tqdm | None = None
        self.first: tuple[int, float] | None = None  # bytes, and when they were there
        self.said = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are there."""
        now = time.monotonic()
        if self.first is None:
            self._begin(done, total, now)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        elif now - self.said >= self.every or done == total:
            self.said = now
            print(self._line(done, total, now), file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it is; the next line stands below it."""
        if self.bar is not None:
            self.bar.close()

    def _begin(self, done: int, total: int | None, now: float) -> None:
        self.first, self.said = (done, now), now
        if done:
            print(f"{self.title}: going on after {done / MB:.1f} MB", file=self.stream, flush=True)
        if self.stream.isatty():
            scale = {"unit": "B", "unit_scale": True, "dynamic_ncols": True}
            self.bar = tqdm(desc=self.title, total=total, initial=done, file=self.stream, **scale)

    def _line(self, done: int, total: int | None, now: float) -> str:
        assert self.first is not None
        rate = (done - self.first[0]) / max(now - self.first[1], 1e-3)
        whole = f" of {total / MB:.1f}" if total else ""
        left = f", {_duration((total - done) / rate)} left" if total and rate else ""
        return f"{self.title}: {done / MB:.1f}{whole} MB, {rate / MB:.1f} MB/s{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
