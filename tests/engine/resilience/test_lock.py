"""The lock on an output folder: one run at a time, and none that is gone keeps another one out."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from processes import FINETUNE, PRETRAIN, run_script, running, script_target

from engine.errors import ConfigError
from engine.resilience import lock as module
from engine.resilience.holder import process_start
from engine.resilience.lock import RunLock

TIMES = (module.BEAT, module.STALE_AFTER, module.POLL)  # as they are, in seconds


def test_a_lock_is_left_behind_after_a_minute_without_a_count():
    """As docs/running.md says; servers of NFS show a change within three seconds."""
    assert TIMES == (10, 60, 2)


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    for name, seconds in (("BEAT", 0.02), ("STALE_AFTER", 0.3), ("POLL", 0.01)):
        monkeypatch.setattr(module, name, seconds)


def edit(folder, **changes):
    """Change what the lock says of its holder."""
    file = folder / "run.lock"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def elsewhere(folder, **changes):
    """A lock that a process on another machine has left."""
    RunLock(folder).acquire()
    edit(folder, host="node17", space="another start", pid=os.getpid(), **changes)


def test_a_second_holder_is_refused_and_told_whose_it_is(tmp_path):
    first = RunLock(tmp_path / "new")
    first.acquire()
    held = json.loads((tmp_path / "new" / "run.lock").read_text())
    with pytest.raises(ConfigError) as refused:
        RunLock(tmp_path / "new").acquire()
    for word in (f"process {os.getpid()} on {held['host']}", held["started"], "--output_dir", "run.lock"):
        assert word in str(refused.value)
    first.release()
    assert not list((tmp_path / "new").iterdir())
    RunLock(tmp_path / "new").acquire()


def test_a_link_to_the_folder_is_the_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    RunLock(tmp_path / "folder").acquire()
    with pytest.raises(ConfigError):
        RunLock(tmp_path / "link").acquire()


def test_a_process_that_has_ended_holds_nothing(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=lambda: RunLock(tmp_path).acquire())
    child.start()
    while process_start(child.pid) is not None:
        time.sleep(0.01)
    RunLock(tmp_path).acquire()  # the child is a zombie still
    child.join()
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_the_number_of_a_process_is_given_again(tmp_path):
    RunLock(tmp_path).acquire()
    edit(tmp_path, process_start=process_start(os.getpid()) - 1)
    RunLock(tmp_path).acquire()


def test_a_holder_elsewhere_that_counts_is_alive(tmp_path):
    first = RunLock(tmp_path)
    first.acquire()
    first._own |= {"host": "node17", "space": "another start"}
    with first.beating():
        time.sleep(0.1)
        with pytest.raises(ConfigError, match=r"on node17, started"):
            RunLock(tmp_path).acquire()


def test_a_holder_elsewhere_that_does_not_is_gone(tmp_path, caplog):
    elsewhere(tmp_path)
    began = time.monotonic()
    RunLock(tmp_path).acquire()
    assert time.monotonic() - began >= module.STALE_AFTER
    assert "left behind by process" in caplog.text and "node17" in caplog.text


@pytest.mark.parametrize(
    ("before", "now", "gone"),
    [
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, True),
        ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}, True),
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7"}, False),  # two steps of a job
        ({"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8", "SLURM_RESTART_COUNT": "1"}, False),
        ({"TORCHELASTIC_RUN_ID": "a"}, {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "1"}, True),
        ({"TORCHELASTIC_RUN_ID": "none"}, {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"}, False),
        ({}, {}, False),
    ],
)
def test_an_earlier_start_of_the_same_job_is_gone_at_once(before, now, gone, tmp_path):
    first = RunLock(tmp_path, environment=before)
    first.acquire()
    first._own |= {"host": "node17", "space": "another start"}
    with first.beating():
        time.sleep(0.1)
        second = RunLock(tmp_path, environment=now)
        if gone:
            first.on_lost = lambda: None  # before it can notice
            second.acquire()
        else:
            with pytest.raises(ConfigError):
                second.acquire()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"host": "node17"}'])
def test_a_file_that_says_nothing_is_waited_for(content, tmp_path):
    (tmp_path / "run.lock").write_text(content)
    RunLock(tmp_path).acquire()
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_copy_of_a_folder_is_free(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    RunLock(tmp_path / "a").acquire()
    (tmp_path / "b" / "run.lock").write_bytes((tmp_path / "a" / "run.lock").read_bytes())
    RunLock(tmp_path / "b").acquire()


def test_of_many_at_once_one_takes_a_lock_that_was_left(tmp_path):
    """And one the free folder, in every round."""
    context = multiprocessing.get_context("fork")
    for number in range(2):
        folder = tmp_path / str(number)
        if number % 2:
            RunLock(folder).acquire()
            edit(folder, process_start=0)
        took, start, end = context.Value("i", 0), context.Barrier(8), context.Barrier(8)

        def contend(folder=folder, took=took, start=start, end=end):
            start.wait()
            try:
                RunLock(folder).acquire()
                with took.get_lock():
                    took.value += 1
            except ConfigError as error:
                assert "writes into this folder" in str(error)
            finally:
                end.wait()  # whoever took it lives until all have tried

        processes = [context.Process(target=contend) for _ in range(8)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 8
        assert took.value == 1


def test_whoever_loses_the_lock_stops_and_leaves_the_others(tmp_path):
    lost = []
    first = RunLock(tmp_path, on_lost=lambda: lost.append(True))
    first.acquire()
    with first.beating():
        (tmp_path / "run.lock").unlink()
        time.sleep(0.1)
        assert not lost  # the folder was emptied; nobody else is there
        second = RunLock(tmp_path)
        second.acquire()
        while not lost:
            time.sleep(0.01)
    first.release()
    assert json.loads((tmp_path / "run.lock").read_text())["token"] == second.token


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--output_dir .*file/x: cannot be written to"):
        RunLock(tmp_path / "file" / "x").acquire()


def test_two_runs_in_one_folder(data, tmp_path):
    """The second one is refused; a third follows a run that was killed, and resumes."""
    flags = data.flags(PRETRAIN, tmp_path, epochs=400, save_ckpt_steps=1)
    with running(script_target(PRETRAIN, *flags)) as run:
        while run.alive and not list(tmp_path.glob("*.pth")):
            time.sleep(0.01)
        os.kill(run.pids[0], signal.SIGSTOP)  # it takes no time from the others, and holds the lock
        for script in (PRETRAIN, FINETUNE):
            ended = run_script(script, *data.flags(script, tmp_path))
            assert ended.code == 2 and f"process {run.pids[0]} on" in ended.errors[0]
        ended = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path, dry_run=True))
        assert ended.code == 0, ended.stderr  # has a folder of its own
        os.kill(run.pids[0], signal.SIGKILL)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == run.pids[0]
    ended = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path, epochs=2))
    assert ended.code == 0 and "resumed from" in ended.stderr and not (tmp_path / "run.lock").exists()


def test_ranks_share_one_lock(data, tmp_path):
    ranks = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path, epochs=1, warmup_epochs=0, batch_size=2), size=2)
    assert [rank.code for rank in ranks] == [0, 0] and not (tmp_path / "run.lock").exists()
    RunLock(tmp_path).acquire()
    ranks = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path, batch_size=2), size=2)
    assert [rank.code for rank in ranks] == [2, 2] and all("run.lock" in rank.errors[0] for rank in ranks)
