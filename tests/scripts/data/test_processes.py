"""Processes that work on tasks: a crash, a hang, a bug, a full disk, the end of the main process."""

import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from data_tools import call
from misbehaving import misbehave

from engine.errors import ConfigError
from scripts.data.processes import Task, run_tasks


def test_a_crash_and_a_hang_cost_one_result_each():
    works = ["1", "crash", "2", "hang", "3", "crash", "4"]
    tasks = [Task(str(place), work) for place, work in enumerate(works)]
    start = time.monotonic()
    results = {task.key: result for task, result in run_tasks(tasks, misbehave, workers=2, timeout=3)}
    assert time.monotonic() - start < 100
    assert [results[str(place)].get("did") for place in (0, 2, 4, 6)] == ["1", "2", "3", "4"]
    assert "SIGKILL" in results["1"]["error"]
    assert "SIGKILL" in results["5"]["error"]
    assert "hangs" in results["3"]["error"]


def test_bugs_and_full_disks_stop_a_job():
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(run_tasks([Task("x", "bug")], misbehave, workers=1, timeout=9))
    with pytest.raises(ConfigError, match=r"/disk/x\.mp4: No space left"):
        list(run_tasks([Task("x", "full")], misbehave, workers=1, timeout=9))
    assert not multiprocessing.active_children()


def test_an_engine_that_is_not_installed_is_named_before_any_work(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as stopped:
        call("check", videos.list, "--out", tmp_path / "out", "--engine", "ray")
    assert stopped.value.code == 2
    assert re.match(r'error: --engine ray needs Ray: pip install "ray.*"', capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_end_of_the_main_process_ends_its_workers_in_the_middle_of_their_work(tmp_path):
    def work():
        (tmp_path / "pids").write_text("\n".join(str(result["did"]) for _, result in results(["pid"] * 2)))
        list(results(["hang"] * 2))

    def results(works):
        return run_tasks([Task(str(place), work) for place, work in enumerate(works)], misbehave, workers=2, timeout=99)

    running = multiprocessing.get_context("fork").Process(target=work)
    running.start()
    deadline = time.monotonic() + 60
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while not (tmp_path / "pids").exists() or len(pids := children.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # they are at it
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if state(pid) != "Z"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # gone
        return "Z"
