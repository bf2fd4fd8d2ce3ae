"""Runs the demo's stages as processes and shows how far they are: a bar on a terminal, plain lines in a file or pipe.

A process writes to its stage's log alone. Progress is read from there: the last `DONE/TOTAL` that the stage's pattern
finds.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

POLL = 0.25  # seconds between two looks at the log
PLAIN_EVERY = 30.0  # seconds between two plain lines of a stage
GRACE = 30.0  # seconds that an interrupted stage has to save a checkpoint
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
TAIL = 12  # lines of the log that are shown of a failed stage


class StageError(Exception):
    """A stage's process failed; the message has the end of its log and where that is."""


@dataclass(frozen=True)
class Work:
    """What a stage runs, and how its log tells how far it is.

    Attributes:
        command: program and arguments.
        pattern: finds DONE/TOTAL in the log.
        unit: what is counted, in the singular.
        total: how many there are, as far as known before the first line.
        finally_: what the process does when all are done, in words.
    """

    command: Sequence[str]
    pattern: str
    unit: str
    total: int
    finally_: str = ""


class Screen:
    """Lines for a person on `stream`, and in a log file; bars on a terminal only."""

    def __init__(self, stream: TextIO, log: Path) -> None:
        self.stream, self.log = stream, log
        self.is_terminal = stream.isatty()

    def say(self, text: str) -> None:
        """Write a line to both."""
        print(text, file=self.stream, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Write a line to the log file alone."""
        with self.log.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n" if text else "\n")


class Progress:
    """How far a stage is: a bar, or a line every `PLAIN_EVERY` seconds. Its first report only starts the clock.

    So the time to start, and what an earlier call had done, do not count for the rate.
    """

    def __init__(self, screen: Screen, title: str, work: Work) -> None:
        self.screen, self.title, self.work = screen, title, work
        self.started = self.said = time.monotonic()
        self.first: tuple[int, float] | None = None  # done, and when that was read
        self.done, self.total = 0, work.total
        self.bar: tqdm | None = None
        if screen.is_terminal:
            columns = shutil.get_terminal_size().columns - 1  # 79 where a terminal does not know its size
            options = {"unit": work.unit, "file": screen.stream, "ncols": columns, "nrows": 2, "leave": False}
            self.bar = tqdm(desc=title, total=work.total, bar_format=BAR, **options)
        else:
            screen.say(f"{title}  started")

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self.done, self.total = done, total
        if self.first is None:
            self.first = done, time.monotonic()
        if self.bar is None:
            return
        self.bar.total = total
        if self.first[0] == done:
            self.bar.initial = self.bar.n = self.bar.last_print_n = done
            self.bar.last_print_t = time.time()
        self.bar.update(done - self.bar.n)
        if done == total and self.work.finally_:
            self.bar.set_description_str(f"{self.title.rstrip()}, {self.work.finally_}", refresh=False)

    def tick(self) -> None:
        """Keep the clock of a bar going; in plain text say how far the stage is now and then."""
        if self.bar is not None:
            self.bar.refresh()
        elif time.monotonic() - self.said >= PLAIN_EVERY:
            self.said = time.monotonic()
            self.screen.say(f"{self.title}  {self.state()}")

    def state(self) -> str:
        """How far the stage is, in words."""
        text = f"{self.done}/{self.total} {self.work.unit}s"
        if self.done == self.total:
            return f"{text}, {self.work.finally_}" if self.work.finally_ else text
        done, since = self.first or (0, self.started)
        rate = (self.done - done) / max(time.monotonic() - since, 1e-9)
        return (
            f"{text}, {rate:.1f} {self.work.unit}s/s, {clock((self.total - self.done) / rate)} left" if rate else text
        )

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.close()


def run_stage(screen: Screen, title: str, work: Work, *, log: Path, cwd: Path, environment: Mapping[str, str]) -> None:
    """Run a stage's process to its end, its output appended to `log`.

    An interruption is passed on to the process, which has `GRACE` seconds to save where it is.

    Raises:
        StageError: its exit code was not 0.
    """
    screen.note("$ " + " ".join(work.command))
    progress = Progress(screen, title, work)
    try:
        with log.open("a") as out, log.open(errors="replace") as written:
            written.seek(0, os.SEEK_END)
            # A session of its own: Ctrl-C reaches this process only, which then asks that one to stop.
            process = subprocess.Popen(
                work.command,
                cwd=cwd,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = _follow(process, written, progress, work.pattern)
            except BaseException:
                _stop(process)
                raise
    finally:
        progress.close()
    if code:
        raise StageError(f"{title.rstrip()} failed (exit code {code}). The end of {log}:\n{tail(log)}")


def _follow(process: subprocess.Popen, written: TextIO, progress: Progress, pattern: str) -> int:
    """Show what the log says until the process ends; its exit code."""
    unread, code = "", None
    while code is None:
        try:
            code = process.wait(POLL)
        except subprocess.TimeoutExpired:
            code = None
        lines, _, unread = (unread + written.read()).rpartition("\n")
        found = re.findall(pattern, lines)
        if found:
            progress.show(*map(int, found[-1]))
        progress.tick()
    return code


def _stop(process: subprocess.Popen) -> None:
    """Ask a process to stop; after `GRACE`, or once it has, end what is left of its session."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path) -> str:
    """The last lines of a log, indented."""
    with log.open(errors="replace") as file:
        return "".join(f"  {line}" for line in deque(file, TAIL)).rstrip()


def clock(seconds: float) -> str:
    """m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
