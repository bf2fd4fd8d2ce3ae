"""runs.py: what a run is doing, from its files, whatever moment they are read at."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT

from engine.resilience.lock import RunLock
from engine.tasks.table import TASKS
from scripts import runs
from scripts.reporting.listing import HEADER, Listing, as_text, screen
from scripts.reporting.run_folder import LOWER, METRICS, Run, read_run
from scripts.reporting.state import age, clock, seconds_left, state_of

from .conftest import make_log, make_record, make_test


def made(folder, *, steps=20, **options):
    make_log(folder, steps=steps)
    make_record(folder, **options)
    return folder


def kind(folder):
    return state_of(read_run(folder)).kind


def test_states(tmp_path):
    run = made(tmp_path / "run")
    assert kind(run) == "failed"
    (run / "console.txt").write_text("x\n12:00:00 stopped by SIGTERM after 20 steps; the same command resumes\n")
    assert (kind(run), state_of(read_run(run)).why) == ("interrupted", "by SIGTERM")
    lock = RunLock(run)
    lock.acquire()
    assert kind(run) == "training"
    assert state_of(read_run(run)).seconds_left == pytest.approx(20 * 0.5)
    make_log(run, steps=40)
    assert kind(run) == "testing"
    make_test(run, ["a"])
    lock.release()
    assert kind(run) == "finished"


def test_a_pretraining_is_finished_without_a_test(tmp_path):
    assert kind(made(tmp_path / "run", steps=40, mask_ratio=0.9)) == "finished"
    assert kind(made(tmp_path / "tuned", steps=40)) == "failed"  # its test is missing


def test_a_test_alone_is_finished(tmp_path):
    make_test(tmp_path, ["a", "b"])
    assert kind(tmp_path) == "finished"


def test_a_process_that_was_killed_and_a_copy(tmp_path):
    run = made(tmp_path / "run")
    RunLock(run).acquire()
    shutil.copytree(run, tmp_path / "copy")
    assert (kind(tmp_path / "copy"), kind(run)) == ("interrupted", "training")
    holder = json.loads((run / "run.lock").read_text())
    (run / "run.lock").write_text(json.dumps({**holder, "process_start": 0}))
    assert (kind(run), state_of(read_run(run)).why) == ("failed", "its process is gone")
    (run / "nonfinite-step21-rank0.json").write_text("{}")
    assert "nonfinite-step21" in state_of(read_run(run)).why


def test_a_process_elsewhere_runs_while_it_writes_its_lock(tmp_path):
    run = made(tmp_path / "run")
    RunLock(run).acquire()
    holder = json.loads((run / "run.lock").read_text())
    (run / "run.lock").write_text(json.dumps({**holder, "host": "node17", "pid": 0}))
    assert kind(run) == "training"
    os.utime(run / "run.lock", (time.time() - 100,) * 2)
    assert kind(run) == "failed"


def test_steps_of_a_run_whose_record_does_not_say(tmp_path):
    run = made(tmp_path / "run", steps=15, total=None)
    assert read_run(run).total_steps == 40
    made(run, steps=9, total=None)
    assert read_run(run).total_steps is None


def test_time_left_is_by_the_last_steps_alone():
    """Slow steps since the last twenty lines: 100 - 60 steps of 2 s."""
    records = [{"step": step, "train/step_time": 0.1 if step <= 40 else 2.0} for step in range(1, 61)]
    assert seconds_left(Run(Path("run"), records, [{"total_steps": 100}])) == pytest.approx(80)


@pytest.mark.parametrize(
    ("seconds", "as_clock", "as_age"),
    [
        (0.4, "0:00:00", "0 s"),
        (59.7, "0:01:00", "60 s"),
        (150, "0:02:30", "2 min"),
        (5461, "1:31:01", "2 h"),
        (360_000, "100:00:00", "4 d"),
    ],
)
def test_times_in_words(seconds, as_clock, as_age):
    assert (clock(seconds), age(seconds)) == (as_clock, as_age) and clock(None) == ""


def test_what_is_better_is_what_the_tasks_say():
    for row in TASKS.values():
        selection = row.cls.selection
        assert (METRICS[selection.metric.lower()] == LOWER) == selection.lower_is_better


@pytest.mark.parametrize(
    ("keys", "main"),
    [
        (["train/loss", "val/loss", "val/top5", "val/top1"], "val/top1"),
        (["val/loss", "val/mAP"], "val/mAP"),
        (["val/loss", "online/x"], "val/loss"),
        (["online/x"], "online/x"),
        (["train/loss", "train_epoch/top1"], "train/loss"),
    ],
)
def test_a_run_is_judged_by_its_accuracy_where_there_is_one(keys, main):
    assert Run(Path("run"), [{"step": 1, **dict.fromkeys(keys, 1.0)}]).main_metric() == main


def test_best_of_an_error_is_the_lowest(tmp_path):
    make_log(tmp_path)
    lines = (tmp_path / "log.txt").read_text().replace("val/top1", "val/mae")
    (tmp_path / "log.txt").write_text(lines)
    run = read_run(tmp_path)
    values = [value for _, value in run.values("val/mae")]
    assert run.main_metric() == "val/mae" and run.best("val/mae") == min(values) != max(values)


def table(lines):
    """Rows of cells, as they are seen."""
    return [re.split(r" {2,}", line.rstrip()) for line in lines]


def test_lines(tmp_path, finished, capsys):
    made(tmp_path / "b" / "run\x1b[31m")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "log.txt").write_text("step,loss\n1,2\n")
    (tmp_path / "data" / "videos").mkdir(parents=True)
    shutil.copytree(finished, tmp_path / "a")
    RunLock(tmp_path / "b" / "run\x1b[31m").acquire()
    runs.main([str(tmp_path)])
    header, *rows = table(capsys.readouterr().out.splitlines())
    assert set(header) <= set(HEADER)
    by_name = {row[0]: row for row in rows}
    assert next(iter(by_name)) == r"b/run\x1b[31m" and len(by_name) == 3
    top1 = json.loads((finished / "test.json").read_text())["test/top1"]
    assert by_name["a"][1:4] == ["finished", "40/40 100%", "val/top1"] and f"top1 {top1:.5g}" in by_name["a"]
    assert by_name[r"b/run\x1b[31m"][1:3] == ["training", "20/40 50%"] and "0:00:10" in by_name[r"b/run\x1b[31m"]
    assert by_name["foreign"][1] == "unreadable" and "log.txt: not the log of a run" in by_name["foreign"][-1]


class Stream(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_watching_a_run_that_writes(tmp_path, monkeypatch, is_terminal):
    """From one look to the next: half a line, the whole of it, nothing new, a log that is gone for a moment."""
    run = made(tmp_path / "run")
    RunLock(run).acquire()
    log = run / "log.txt"
    line = json.dumps({"step": 21, "epoch": 2, "train/loss": 0.5}) + "\n"
    whole = log.read_text()
    moments = iter([lambda: log.write_text(whole + line[:9]), lambda: log.write_text(whole + line), lambda: None])

    def sleep(_):
        try:
            next(moments)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(runs.time, "sleep", sleep)
    stream = Stream(is_terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    runs.main([str(tmp_path), "--watch"])
    shown = stream.getvalue()
    assert re.findall(r"(\d+)/40", shown) == (["20", "20", "21", "21"] if is_terminal else ["20", "21"])
    assert ("\x1b" in shown) == is_terminal


def test_a_screen_holds_what_fits(tmp_path):
    for number in range(9):
        made(tmp_path / f"run {number} with a long name", steps=1)
    lines = Listing(tmp_path).lines()
    drawn = screen(lines, columns=30, rows=6)
    rows = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", drawn).splitlines()
    assert len(rows) == 5 and all(len(row) < 30 for row in rows) and rows[-1] == "... 6 more"
    assert len(as_text(lines)) == 10


def test_files_are_read_once(tmp_path, monkeypatch):
    made(tmp_path / "run")
    listing = Listing(tmp_path)
    before = listing.lines()
    monkeypatch.setattr("scripts.reporting.listing.read_while_written", None)
    assert [line.progress for line in listing.lines()] == [line.progress for line in before]


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_without_runs_is_one_line(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as ended:
        runs.main([str(tmp_path / name)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and str(tmp_path / name) in error


@pytest.mark.slow
def test_it_starts_without_torch():
    program = "import sys; sys.path.insert(0, '.'); import scripts.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
