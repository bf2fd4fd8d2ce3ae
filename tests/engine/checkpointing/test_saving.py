"""Saving beside the training: what a kill, a full disk and a broken file system leave behind."""

import errno
import itertools
import os
import random
import resource
import signal
import threading
import time

import pytest
import torch
from processes import FINETUNE, LIMIT, PRETRAIN, run_in_processes, run_script, running, script_target
from runs import load, same

from engine.checkpointing import files as checkpoint_files
from engine.checkpointing import io as checkpoint_io
from engine.checkpointing.checkpoint import Checkpointer, TrainState
from engine.checkpointing.files import newest_valid
from engine.checkpointing.io import AsyncWriter, read_checkpoint
from engine.checkpointing.resume import resume
from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.errors import CheckpointError
from engine.evaluation import Evaluator
from engine.optim import build_optimizer, parameter_groups

CPU = World(0, 1, 0, torch.device("cpu"))


def new_state(width=400):
    torch.manual_seed(0)
    model = torch.nn.Linear(width, width)
    groups = parameter_groups(model, weight_decay=0.1)
    optimizer = build_optimizer(groups, opt="adamw", lr=0.1, betas=(0.9, 0.99), eps=1e-8, momentum=0)
    return TrainState(Backend(model, optimizer, world=CPU, amp="none"), steps_per_epoch=10**6)


def step(state):
    """An update whose result tells how many there were: every weight is the number of steps."""
    state.step += 1
    with torch.no_grad():
        state.backend.module.weight.fill_(state.step)


@pytest.mark.slow
def test_killed_at_fifty_random_moments_a_whole_file_is_there(tmp_path):
    """Each process resumes from the one before, saves all the time, and is killed without warning."""
    rng = random.Random(0)
    told = tmp_path / "told"
    told.write_text("0\n")

    def train():
        state = new_state()
        resume(state, explicit="", auto=True, output_dir=str(tmp_path), world=CPU)
        checkpointer = Checkpointer(str(tmp_path), 1, CPU, {}, {}, save_steps=1)
        started = state.step
        while True:
            step(state)
            checkpointer.after_step(state, sampler={}, meter={})  # returns when the one before is on the disk
            if state.step - 1 > started:
                with told.open("a") as file:
                    file.write(f"{state.step - 1}\n")

    last = 0
    for _ in range(50):
        with running(train) as run:
            before = told.stat().st_size
            while run.alive and told.stat().st_size == before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.04))
            os.kill(run.pids[0], signal.SIGKILL)
        promised = max(map(int, told.read_text().split()))
        newest = newest_valid(tmp_path)
        content = read_checkpoint(newest)
        assert content["step"] >= max(promised, last), newest
        assert (content["model"]["weight"] == content["step"]).all()  # not of two steps
        last = content["step"]
    assert last >= 50
    checkpointer = Checkpointer(str(tmp_path), 1, CPU, {}, {}, save_steps=1)
    state = new_state()
    resume(state, explicit="", auto=True, output_dir=str(tmp_path), world=CPU)
    step(state)
    checkpointer.after_step(state, sampler={}, meter={})
    checkpointer.finish()
    assert not list(tmp_path.glob("*.tmp")) and len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_weights_may_change_while_they_are_written(tmp_path, monkeypatch):
    writes = checkpoint_io.write_checkpoint

    changed = threading.Event()

    def slow(path, content):
        assert changed.wait(LIMIT)
        writes(path, content)

    monkeypatch.setattr(checkpoint_io, "write_checkpoint", slow)
    state = new_state(8)
    checkpointer = Checkpointer(str(tmp_path), 1, CPU, {}, {}, save_steps=1)
    step(state)
    checkpointer.after_step(state, sampler={}, meter={})
    assert newest_valid(tmp_path) is None  # it is still being written
    step(state)
    state.backend.module.bias.data.zero_()
    changed.set()
    checkpointer.finish()
    content = read_checkpoint(newest_valid(tmp_path))
    assert content["step"] == 1 and (content["model"]["weight"] == 1).all() and content["model"]["bias"].any()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_disk_that_fails_once_is_tried_again(number, tmp_path, monkeypatch, caplog):
    failures = iter([True, False, False, False])
    fsync = os.fsync

    def fails_once(descriptor):
        if next(failures):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(checkpoint_io, "RETRY_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(os, "fsync", fails_once)
    writer = AsyncWriter()
    writer.submit(tmp_path / "checkpoint-0.pth", {"a": torch.ones(3)}, then=lambda: None)
    writer.wait()
    assert f"could not be written ({os.strerror(number)}); trying again" in caplog.text
    found = read_checkpoint(tmp_path / "checkpoint-0.pth")
    assert same({"a": found["a"]}, {"a": torch.ones(3)})
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_is_full_for_the_second_name_is_told_of_too(tmp_path, monkeypatch):
    """Where the file system knows no links the best checkpoint is a copy."""

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_io, "RETRY_DELAYS", (0.01,))
    writer = AsyncWriter()
    writer.submit(tmp_path / "checkpoint-0.pth", {"a": torch.ones(3)}, then=full)
    with pytest.raises(CheckpointError, match="No space left"):
        writer.wait()
    assert writer.failed


def test_what_was_written_is_read_back(tmp_path, monkeypatch):
    """A file system that says it wrote and did not."""
    monkeypatch.setattr(checkpoint_io, "RETRY_DELAYS", ())
    saves = torch.save

    def loses_the_end(content, file):
        saves(content, file)
        file.truncate(file.tell() // 2)

    whole = tmp_path / "checkpoint-0.pth"
    checkpoint_io.write_checkpoint(whole, {"a": torch.ones(3)})
    before = whole.read_bytes()
    monkeypatch.setattr(torch, "save", loses_the_end)
    writer = AsyncWriter()
    writer.submit(whole, {"a": torch.zeros(3)}, then=lambda: None)
    with pytest.raises(CheckpointError, match=r"checkpoint-0\.pth: could not be written .*just written"):
        writer.wait()
    assert writer.failed and whole.read_bytes() == before


@pytest.mark.parametrize(
    ("number", "size"),
    [
        (errno.ENOSPC, 1),
        pytest.param(errno.EIO, 1, marks=pytest.mark.slow),
        pytest.param(errno.ENOSPC, 2, marks=pytest.mark.slow),
        pytest.param(errno.EIO, 2, marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_stays_full_stops_all_ranks_with_one_line(number, size, data, tmp_path):
    """From the third file on no write succeeds; the run ends at once, and resumes when there is space again."""
    flags = data.flags(PRETRAIN, tmp_path, batch_size=4 // size, save_ckpt_steps=1)
    script, writes = script_target(PRETRAIN, *flags), checkpoint_io.write_checkpoint

    def target():
        numbers = itertools.count()

        def full(path, content):
            if next(numbers) >= 2:
                raise OSError(number, os.strerror(number))
            writes(path, content)

        checkpoint_io.write_checkpoint, checkpoint_io.RETRY_DELAYS = full, (0.01,)
        script()

    ended = run_in_processes(target, size=size)
    assert [f.code for f in ended] == [2] * size, [f.stderr[-1500:] for f in ended]
    (line,) = [line for f in ended for line in f.errors]
    assert os.strerror(number) in line and "checkpoint-1-step0" in line and "resumes from the newest" in line
    assert load(newest_valid(tmp_path))["step"] == 2
    go_on = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path, save_ckpt_steps=1))
    assert go_on.code == 0 and "0 epochs and 2 steps" in go_on.stderr


def test_the_best_epoch_is_kept(data, tmp_path):
    """Of accuracies that rise and fall; an epoch that is equally good does not take its place."""
    found = iter([10.0, 30.0, 30.0, 20.0])
    flags = {"epochs": 4, "save_ckpt_freq": 1, "batch_size": 8, "test_num_crop": 1}
    script = script_target(FINETUNE, *data.flags(FINETUNE, tmp_path, **flags))

    def target():
        evaluate, first = Evaluator.evaluate, {}

        def evaluate_as_found(self, models, name):
            if name not in first:  # what is really found is not looked at
                first[name] = evaluate(self, models, name)
            metrics, predictions = first[name]
            return (metrics | {"val/top1": next(found)} if name == "val" else metrics), predictions

        Evaluator.evaluate = evaluate_as_found
        script()

    (ended,) = run_in_processes(target)
    assert ended.code == 0, ended.stderr[-3000:]
    assert [load(tmp_path / f"checkpoint-{epoch}.pth")["best"] for epoch in range(4)] == [10, 30, 30, 30]
    best = load(tmp_path / "checkpoint-best.pth")
    assert (best["epoch"], best["best"]) == (1, 30)


def test_best_is_the_best_and_is_never_resumed_from(tmp_path):
    state = new_state(8)
    state.steps_per_epoch = 1
    checkpointer = Checkpointer(str(tmp_path), 3, CPU, {}, {}, save_steps=0)
    for state.epoch, improved in enumerate([True, False, True, False]):
        step(state)
        checkpointer.after_epoch(state, last=state.epoch == 3, improved=improved)
        checkpointer.finish()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-2.pth", "checkpoint-3.pth", "checkpoint-best.pth"]
    assert read_checkpoint(tmp_path / checkpoint_files.BEST)["step"] == 3
    (tmp_path / "checkpoint-2.pth").unlink()  # another name of the same file
    assert read_checkpoint(tmp_path / checkpoint_files.BEST)["step"] == 3
    (tmp_path / "checkpoint-3.pth").unlink()
    assert newest_valid(tmp_path) is None


def test_a_file_that_cannot_be_removed_does_not_stop_training(tmp_path, monkeypatch, caplog):
    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    state = new_state(8)
    checkpointer = Checkpointer(str(tmp_path), 1, CPU, {}, {}, save_steps=1, keep=1)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    for _ in range(3):
        step(state)
        checkpointer.after_step(state, sampler={}, meter={})
    checkpointer.finish()
    assert "could not be removed (Permission denied)" in caplog.text
    assert read_checkpoint(newest_valid(tmp_path))["step"] == 3


def test_no_room_for_the_log_is_one_line(data, tmp_path):
    """A process that may not write more than 6,000 bytes into any file, as if the disk were full."""
    script = script_target(PRETRAIN, *data.flags(PRETRAIN, tmp_path, epochs=60, save_ckpt_freq=100))

    def target():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
        script()

    (ended,) = run_in_processes(target)
    assert ended.code == 2 and len(ended.errors) == 1, ended.stderr[-2000:]
    assert "could not be written: File too large" in ended.errors[0]
