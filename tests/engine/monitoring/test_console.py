"""The bar: on a terminal, below the log lines, and nowhere else."""

import fcntl
import logging
import os
import pty
import struct
import sys
import termios

import pytest
import torch
from processes import run_in_processes

from engine.distributed.world import World
from engine.monitoring.console import ConsoleHandler, ProgressBar
from engine.monitoring.metrics import setup_logging


def worlds(rank):
    return World(rank, 2, rank, torch.device("cpu"))


def talk(rank, folder):
    """Three steps with a log line after the second."""
    setup_logging(worlds(rank), str(folder))
    bar = ProgressBar(world=worlds(rank), first_step=0, total_steps=4)
    for step in (1, 2, 3):
        bar.show(step)
        if step == 2:
            logging.getLogger("engine").warning("a log line")


def on_terminal(target, columns=0):
    """What `target` writes to a terminal of its own, of so many columns; 0: it does not say."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))

    def with_terminal():
        sys.stderr = os.fdopen(theirs, "w", buffering=1)
        target()

    (finished,) = run_in_processes(with_terminal)
    assert finished.code == 0, finished.stderr
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed, and all has been read
            break
        if not part:
            break
        text += part
    os.close(ours)
    return text.decode()


def test_the_bar_does_not_wrap_on_a_narrow_terminal(tmp_path):
    """Only the line that the cursor is on is erased."""
    text = on_terminal(lambda: talk(0, tmp_path), columns=40)
    bars = [part.split("\r")[0] for part in text.split("\x1b[2K") if part.startswith("[")]
    assert bars and all(len(bar) == 39 for bar in bars) and bars[0].startswith("[######..................] 1/4")


def test_bar_on_a_terminal(tmp_path):
    """Replaced by the log line, which stands alone on its line; the file gets the log line only."""
    text = on_terminal(lambda: talk(0, tmp_path))
    lines = [line.split("\x1b[2K")[-1].rstrip("\r") for line in text.split("\n")]  # what stays to be seen of each
    assert lines[0].endswith(" a log line") and "/4" not in lines[0]
    assert lines[1].startswith("[##################......] 3/4") and "left 0:00:0" in lines[1]
    assert "] 1/4 " in text
    assert "\x1b" not in (tmp_path / "console.txt").read_text()


def test_only_the_main_process_has_a_bar(tmp_path):
    assert "/4" not in on_terminal(lambda: talk(1, tmp_path))


def test_no_bar_in_a_file(tmp_path):
    (finished,) = run_in_processes(lambda: talk(0, tmp_path))
    assert finished.stderr.endswith(" a log line\n") and finished.stderr.count("\n") == 1
    assert "\r" not in finished.stderr and "\x1b" not in finished.stderr


def test_bar_is_not_redrawn_faster_than_it_can_be_read(monkeypatch):
    written = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = ConsoleHandler()
    monkeypatch.setattr(console.stream, "write", written.append)
    for _ in range(1000):
        console.show("x")
    assert len(written) < 1000


@pytest.mark.parametrize(("step", "left"), [(10, "0:00:00"), (5, "0:00:10"), (2, "no time")])
def test_line_of_a_resumed_run(step, left):
    """Two steps were done before this process: its own tell how long the others will take."""
    bar = ProgressBar(world=worlds(0), first_step=2, total_steps=10)
    line = bar.line(step, 2.0 * (step - 2))
    assert f"] {step}/10 " in line
    assert line.endswith("left 0:00:00" if left == "no time" else f"left {left}")
