"""Checkpoint files: whole or not there, damage found, nothing in them executed, everything restored."""

import argparse
import logging
import os
import pickle
import random
import resource
import zipfile

import numpy as np
import pytest
import torch
from processes import gloo_world, run_in_processes
from runs import same
from torch import nn

from engine.checkpointing import io as checkpoint_io
from engine.checkpointing import resume as resume_module
from engine.checkpointing.checkpoint import Checkpointer, TrainState
from engine.checkpointing.files import find_damage, newest_valid, remove_older_steps
from engine.checkpointing.io import read_checkpoint
from engine.checkpointing.random_state import random_state, set_random_state
from engine.checkpointing.read_weights import read_weights
from engine.checkpointing.resume import check_finished, restore, resume
from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.errors import CheckpointError
from engine.optim import build_optimizer, parameter_groups

CPU = World(0, 1, 0, torch.device("cpu"))


def state_of(width=5, seed=0, steps=2):
    """A model and optimizer that have made some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))
    groups = parameter_groups(model, weight_decay=0.1)
    optimizer = build_optimizer(groups, opt="adamw", lr=0.1, betas=(0.9, 0.99), eps=1e-8, momentum=0)
    for _ in range(steps):
        model(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return TrainState(Backend(model, optimizer, world=CPU, amp="none"), epoch=1, step=steps, best=62.5)


def save(path, state=None, **extra):
    parts = {"args": {"lr": 0.1, "betas": [0.9, 0.99]}, "rng": [random_state(CPU.device)], **extra}
    checkpoint_io.write_checkpoint(path, {**(state or state_of()).content(), **parts})
    return path


@pytest.fixture
def file(tmp_path):
    return save(tmp_path / "checkpoint-1.pth")


def test_round_trip_restores_everything(tmp_path):
    saved = state_of()
    drawn = torch.rand(2), np.random.rand(2), random.random()  # noqa: NPY002
    file = save(tmp_path / "checkpoint-1.pth", saved, class_names=["a", "b"])
    expected = torch.rand(2), np.random.rand(2), np.random.normal(), random.random(), random.gauss(0, 1)  # noqa: NPY002
    state = state_of(seed=7, steps=1)
    content = read_checkpoint(file)
    restore(state, content, world=CPU, path=file)
    assert same(dict(state.backend.module.state_dict()), dict(saved.backend.module.state_dict()))
    assert same(state.backend.optimizer.state_dict(), saved.backend.optimizer.state_dict())
    assert (state.epoch, state.step, state.best) == (1, 2, 62.5)
    got = torch.rand(2), np.random.rand(2), np.random.normal(), random.random(), random.gauss(0, 1)  # noqa: NPY002
    assert torch.equal(got[0], expected[0]) and np.array_equal(got[1], expected[1]) and got[2:] == expected[2:]
    assert not torch.equal(got[0], drawn[0])
    assert content["class_names"] == ["a", "b"] and content["args"] == {"lr": 0.1, "betas": [0.9, 0.99]}


def test_random_state_in_the_middle_of_a_gaussian_pair(tmp_path):
    """numpy and random draw normal numbers in pairs and keep the second: it is part of the state."""
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    np.random.normal(), random.gauss(0, 1)  # noqa: NPY002
    file = save(tmp_path / "checkpoint-1.pth")
    expected = np.random.normal(), random.gauss(0, 1)  # noqa: NPY002
    restore(state_of(), read_checkpoint(file), world=CPU, path=file)
    assert (np.random.normal(), random.gauss(0, 1)) == expected  # noqa: NPY002


def test_keys_users_rely_on(file):
    assert torch.load(file, weights_only=True).keys() >= {"model", "optimizer", "epoch", "scaler", "args"}


def test_failing_save_is_loud_and_leaves_the_old_file(file):
    """A process that may not write more than 2,000 bytes into a file, as if the disk were full."""
    before = file.read_bytes()

    def save_in_little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        save(file, state_of(seed=9))

    (finished,) = run_in_processes(save_in_little_room)
    assert finished.code == 1 and "Error" in finished.stderr
    assert file.read_bytes() == before
    save(file, state_of(seed=9))
    assert file.read_bytes() != before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("part", [0, 0.3, 0.9, 0.999])
def test_truncated(part, file):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    assert find_damage(file)
    with pytest.raises(CheckpointError, match=str(file)):
        read_checkpoint(file)


def test_a_flipped_byte_is_found_or_harmless(file):
    """Every place of the file in turn (a prime stride): what is not noticed must not change what is read."""
    whole, expected = file.read_bytes(), read_checkpoint(file)
    found = 0
    places = range(0, len(whole), 211)
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        file.write_bytes(flipped)
        try:
            assert same(read_checkpoint(file), expected), f"byte {place} of {len(whole)}"
        except CheckpointError:
            found += 1
    assert found > 10


def test_a_flipped_byte_of_a_weight_is_found(file):
    with zipfile.ZipFile(file) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("/data/0"))
    whole = bytearray(file.read_bytes())
    start = info.header_offset + 30
    name, extra = (int.from_bytes(whole[start - 4 + 2 * i : start - 2 + 2 * i], "little") for i in range(2))
    whole[start + name + extra + 1] ^= 1
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"fails its checksum"):
        read_checkpoint(file)


def test_not_a_checkpoint(tmp_path):
    cases = {"text.pth": b"<html>404</html>", "empty.pth": b"", "numbers.pth": bytes(range(256))}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        read_checkpoint(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("a.txt", "no weights")
    with pytest.raises(CheckpointError, match=r"zip\.pth"):
        read_checkpoint(tmp_path / "zip.pth")


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_file_executes_nothing(legacy, tmp_path):
    target, file = tmp_path / "executed", tmp_path / "checkpoint-1.pth"
    content = {"model": {}, "epoch": Malicious(target)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"holds an object of type io\.open, which can execute code") as error:
        read_checkpoint(file)
    assert not target.exists()
    assert "\n" not in str(error.value)
    torch.load(file, weights_only=False)  # the trap works
    assert target.exists()


def test_plain_pickle_is_refused(tmp_path):
    target, file = tmp_path / "executed", tmp_path / "checkpoint-1.pth"
    for protocol in range(2, 5):
        file.write_bytes(pickle.dumps({"model": Malicious(target)}, protocol=protocol))
        with pytest.raises(CheckpointError):
            read_checkpoint(file)
    assert not target.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_released_files_hold_a_namespace(legacy, tmp_path):
    file = tmp_path / "released.pth"
    content = {"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1, betas=[0.9, 0.95], opt=None)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(file)
    assert found["args"].lr == 0.1 and torch.equal(found["model"]["w"], torch.ones(2))
    with pytest.raises(pickle.UnpicklingError):  # allowed in `read` only, not from then on
        torch.load(file, weights_only=True)


def write_version(path, version):
    """A checkpoint of this code, as one that writes another version would save it."""
    save(path)
    torch.save({**torch.load(path, weights_only=True), "format_version": version}, path)
    return path


def test_files_say_their_format(file):
    assert torch.load(file, weights_only=True)["format_version"] == 1


@pytest.mark.parametrize("version", [2, 1000, "2.0", None])
def test_a_later_format_is_refused_before_anything_is_touched(version, tmp_path):
    newer = write_version(tmp_path / "checkpoint-2.pth", version)
    words = rf"^{newer}: has format version {version}, .* reads versions up to 1: update this code[^\n]*$"
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(newer)
    with pytest.raises(CheckpointError, match=words):
        read_weights(newer)
    state = state_of(seed=7, steps=1)
    before = {name: tensor.clone() for name, tensor in state.backend.module.state_dict().items()}
    for explicit in (str(newer), ""):  # named, and the only one in the folder: never from scratch
        with pytest.raises(CheckpointError, match=words):
            resume(state, explicit=explicit, auto=True, output_dir=str(tmp_path), world=CPU)
    with pytest.raises(CheckpointError, match=words):
        check_finished(newer, CPU, options={}, fingerprint="")
    assert same(dict(state.backend.module.state_dict()), before) and state.step == 1


def test_resuming_takes_the_file_before_one_of_a_later_format(tmp_path, caplog):
    """Which is not lost when the run that resumes saves under its name."""
    older, newer = save(tmp_path / "checkpoint-1.pth"), write_version(tmp_path / "checkpoint-2.pth", 2)
    before = newer.read_bytes()
    assert resume(state_of(), explicit="", auto=True, output_dir=str(tmp_path), world=CPU) == older
    assert f"{newer}: has format version 2, and this code reads versions up to 1" in caplog.text
    assert "trying the one before" in caplog.text and newer.read_bytes() == before
    for _ in range(2):  # the second time its own file is replaced
        save(newer)
    assert (tmp_path / "checkpoint-2.pth.format-2").read_bytes() == before
    assert resume(state_of(), explicit="", auto=True, output_dir=str(tmp_path), world=CPU) == newer
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix != ".lock") == [
        "checkpoint-1.pth", "checkpoint-2.pth", "checkpoint-2.pth.format-2",
    ]  # fmt: skip


def test_files_without_a_format_are_read_as_ever(tmp_path):
    file = save(tmp_path / "checkpoint-1.pth")
    content = torch.load(file, weights_only=True)
    del content["format_version"]
    torch.save(content, file)
    assert resume(state_of(), explicit="", auto=True, output_dir=str(tmp_path), world=CPU) == file


def test_newest_valid_is_by_number_and_passes_over_damage(tmp_path, caplog):
    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "absent") is None
    for number in (9, 10, 99, 100):
        save(tmp_path / f"checkpoint-{number}.pth")
    save(tmp_path / "checkpoint-best.pth")
    (tmp_path / "checkpoint-101.pth.tmp").write_bytes(b"")
    assert newest_valid(tmp_path).name == "checkpoint-100.pth"
    (tmp_path / "checkpoint-100.pth").write_bytes(b"")
    whole = (tmp_path / "checkpoint-99.pth").read_bytes()
    (tmp_path / "checkpoint-99.pth").write_bytes(whole[:-1000])
    with caplog.at_level(logging.WARNING):
        assert newest_valid(tmp_path).name == "checkpoint-10.pth"
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        str(tmp_path / f"checkpoint-{number}.pth") for number in (100, 99)
    ]


def test_resume_prefers_the_file_that_is_named(tmp_path):
    for epoch in (1, 2):
        state = state_of()
        state.epoch = epoch
        save(tmp_path / f"checkpoint-{epoch}.pth", state)
    named = str(tmp_path / "checkpoint-1.pth")
    for explicit, auto, expected in ((named, True, 1), (named, False, 1), ("", True, 2)):
        state = state_of()
        state.epoch = -1
        resume(state, explicit=explicit, auto=auto, output_dir=str(tmp_path), world=CPU)
        assert state.epoch == expected
    with pytest.raises(
        CheckpointError, match=r"--no_auto_resume.*checkpoint-2\.pth"
    ):  # it would be taken for ours later
        resume(state_of(), explicit="", auto=False, output_dir=str(tmp_path), world=CPU)
    (tmp_path / "checkpoint-1.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"):  # never another one instead
        resume(state_of(), explicit=named, auto=True, output_dir=str(tmp_path), world=CPU)


WIDER = state_of(6).backend.module.state_dict()
ALIEN = {  # what is in the file -> words of the message
    "weights only": (lambda whole: {"model": whole["model"]}, r"no optimizer, epoch, scaler, step, .*--finetune"),
    "other keys": (lambda whole: {"state_dict": whole["model"]}, r"no model"),
    "other width": (
        lambda whole: whole | {"model": WIDER},
        r"size mismatch for 0\.weight",
    ),
    "other optimizer": (lambda whole: whole | {"optimizer": {"state": {}, "param_groups": []}}, r"does not fit"),
    "not an optimizer": (lambda whole: whole | {"optimizer": {"lr": 1}}, r"does not fit"),
    "no optimizer": (lambda whole: whole | {"optimizer": None}, r"does not fit"),
    "no model": (lambda whole: whole | {"model": 3}, r"does not fit"),
}


@pytest.mark.parametrize(("change", "words"), ALIEN.values(), ids=ALIEN)
def test_alien_files_fail_with_one_clear_message(change, words, file):
    torch.save(change(read_checkpoint(file)), file)
    with pytest.raises(CheckpointError, match=words) as error:
        restore(state_of(), read_checkpoint(file), world=CPU, path=file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_another_number_of_updates_an_epoch_is_refused(tmp_path):
    state = state_of()
    state.steps_per_epoch = 4
    file = save(tmp_path / "checkpoint-1.pth", state)
    for steps_per_epoch, fits in ((4, True), (8, False)):
        state = state_of()
        state.steps_per_epoch = steps_per_epoch
        if fits:
            restore(state, read_checkpoint(file), world=CPU, path=file)
        else:
            with pytest.raises(CheckpointError, match=r"4 updates an epoch, now 8.*--batch_size"):
                restore(state, read_checkpoint(file), world=CPU, path=file)


def test_options_of_the_optimizer_come_from_the_command_line(file):
    state = state_of(steps=0)
    for group in state.backend.optimizer.param_groups:
        group["betas"], group["eps"] = (0.5, 0.6), 1e-3
    restore(state, read_checkpoint(file), world=CPU, path=file)
    assert {(group["betas"], group["eps"]) for group in state.backend.optimizer.param_groups} == {((0.5, 0.6), 1e-3)}
    moments = [entry["exp_avg"] for entry in state.backend.optimizer.state.values()]
    assert len(moments) == 4 and all(moment.abs().sum() > 0 for moment in moments)


def test_resuming_with_another_precision_is_refused(file):
    state = state_of()
    state.backend.scaler = torch.amp.GradScaler("cpu", enabled=True)  # what --amp fp16 makes
    with pytest.raises(CheckpointError, match="--amp"):
        restore(state, read_checkpoint(file), world=CPU, path=file)


def test_a_rank_that_was_not_there_keeps_its_own_random_state(file):
    state, content = state_of(), read_checkpoint(file)
    draws = []
    for rank in (1, 1, 0):
        torch.manual_seed(123)
        restore(state, content, world=World(rank, 2, rank, CPU.device), path=file)
        draws.append(torch.rand(1))
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(("save_every", "kept"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (3, [2, 4]), (9, [4])])
def test_when_checkpoints_are_written(save_every, kept, tmp_path):
    checkpointer = Checkpointer(str(tmp_path), save_every, CPU, {"lr": 1}, {"fingerprint": "abc"})
    state = state_of()
    for state.epoch in range(5):
        checkpointer.after_epoch(state, last=state.epoch == 4)
    checkpointer.finish()
    assert sorted(int(p.stem.split("-")[1]) for p in tmp_path.iterdir()) == kept
    assert read_checkpoint(tmp_path / "checkpoint-4.pth")["fingerprint"] == "abc"
    Checkpointer("", 1, CPU, {}, {}).after_epoch(state, last=True)  # no output folder: nothing to do


def test_inside_epochs_the_newest_two_files_are_kept(tmp_path):
    """Five steps an epoch, a file every three: after the fifth step the epoch has to end first."""
    checkpointer = Checkpointer(str(tmp_path), 100, CPU, {}, {}, save_steps=3)
    state = state_of()
    state.steps_per_epoch, state.epoch, written = 5, -1, []
    for epoch in range(3):
        for state.step in range(5 * epoch + 1, 5 * epoch + 6):
            if checkpointer.is_due_in_epoch(state):
                checkpointer.after_step(state, sampler={"position": state.step}, meter={"count": 1})
                checkpointer.finish()
                written.append(sorted(path.name for path in tmp_path.iterdir()))
        state.epoch = epoch
        checkpointer.after_epoch(state, last=False)
    checkpointer.finish()
    assert written[:3] == [
        ["checkpoint-0-step3.pth"],
        ["checkpoint-0-step3.pth", "checkpoint-1-step1.pth"],
        ["checkpoint-1-step1.pth", "checkpoint-1-step4.pth"],
    ]
    assert written[3] == ["checkpoint-1-step4.pth", "checkpoint-2-step2.pth"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-2-step2.pth", "checkpoint-3-step0.pth"]  # step 15 ends epoch 2
    content = read_checkpoint(tmp_path / "checkpoint-2-step2.pth")
    assert content["epoch"] == 1 and content["step"] == 12
    assert content["unfinished"] == {"step": 2, "sampler": {"position": 12}, "meters": [{"count": 1}]}
    content = read_checkpoint(tmp_path / "checkpoint-3-step0.pth")
    assert content["epoch"] == 2 and content["step"] == 15 and "unfinished" not in content


@pytest.mark.parametrize(
    ("save_every", "save_steps", "kept"),
    [
        (100, 4, ["6-step0", "7-step0", "7"]),  # at the end of every epoch
        (100, 2, ["7-step0", "7-step2", "7"]),
        (3, 4, ["2", "5", "5-step0", "7-step0", "7"]),
        (1, 4, [*"01234567"]),
    ],
)
def test_ends_of_epochs_are_kept_by_save_ckpt_freq_alone(save_every, save_steps, kept, tmp_path):
    """Eight epochs of four steps; nothing is ever removed that is newer than what would be left."""
    checkpointer = Checkpointer(str(tmp_path), save_every, CPU, {}, {}, save_steps=save_steps)
    state = state_of()
    state.steps_per_epoch, state.epoch = 4, -1
    for epoch in range(8):
        for state.step in range(4 * epoch + 1, 4 * epoch + 5):
            if checkpointer.is_due_in_epoch(state):
                checkpointer.after_step(state, sampler={}, meter={})
        state.epoch = epoch
        checkpointer.after_epoch(state, last=epoch == 7)
        checkpointer.finish()
        if state.step % save_steps == 0:
            newest = newest_valid(tmp_path)
            assert read_checkpoint(newest)["step"] == state.step
    assert sorted(path.stem.partition("-")[2] for path in tmp_path.iterdir()) == sorted(kept)


def test_a_file_at_the_end_of_an_epoch_comes_between_that_and_the_next(tmp_path):
    for name in ("2", "3-step0", "3-step1", "2-step9"):
        save(tmp_path / f"checkpoint-{name}.pth")
    order = []
    while newest := newest_valid(tmp_path):
        order.append(newest.stem.partition("-")[2])
        newest.unlink()
    assert order == ["3-step1", "3-step0", "2", "2-step9"]


def test_what_is_not_a_file_is_passed_over(tmp_path, caplog):
    whole = save(tmp_path / "checkpoint-1.pth")
    (tmp_path / "checkpoint-9.pth").mkdir()
    (tmp_path / "checkpoint-8.pth").symlink_to(tmp_path / "gone")
    (tmp_path / "checkpoint-7.pth").symlink_to(tmp_path / "checkpoint-7.pth")
    os.mkfifo(tmp_path / "checkpoint-6.pth")
    assert newest_valid(tmp_path) == whole
    for number in (9, 8, 7, 6):
        file = tmp_path / f"checkpoint-{number}.pth"
        assert find_damage(file) and f"{file}: {find_damage(file)}; trying" in caplog.text


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch):
    whole = save(tmp_path / "checkpoint-1.pth")
    broken = save(tmp_path / "checkpoint-2.pth")
    archive = zipfile.ZipFile

    def disk_error(path, *args):
        if path == broken:
            raise OSError(5, "Input/output error")
        return archive(path, *args)

    monkeypatch.setattr(zipfile, "ZipFile", disk_error)
    assert newest_valid(tmp_path) == whole
    assert "Input/output error" in find_damage(broken)


def test_damaged_files_do_not_count_as_kept(tmp_path):
    """The newest valid file before the one just written stays, however many damaged ones follow it."""
    for step in (1, 2, 3, 4):
        save(tmp_path / f"checkpoint-1-step{step}.pth")
    for step in (3, 4):
        (tmp_path / f"checkpoint-1-step{step}.pth").write_bytes(b"")
    (tmp_path / "checkpoint-0-step9.pth").mkdir()
    remove_older_steps(save(tmp_path / "checkpoint-1-step5.pth"), keep=2)
    left = sorted(path.name for path in tmp_path.glob("checkpoint-1*"))
    assert left == [f"checkpoint-1-step{step}.pth" for step in (2, 3, 4, 5)]
    (tmp_path / "checkpoint-1-step5.pth").write_bytes(b"")
    assert newest_valid(tmp_path).name == "checkpoint-1-step2.pth"
    for step in (5, 6):
        remove_older_steps(save(tmp_path / f"checkpoint-1-step{step}.pth"), keep=2)
    left = sorted(path.name for path in tmp_path.glob("checkpoint-1*"))
    assert left == ["checkpoint-1-step5.pth", "checkpoint-1-step6.pth"]


def test_the_name_is_on_the_disk_too(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def note_fsync(descriptor):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", lambda *args: (done.append("replace"), replace(*args)))
    save(tmp_path / "checkpoint-1.pth")
    assert done == ["checkpoint-1.pth.tmp", "replace", tmp_path.name]


def test_files_inside_an_epoch_come_before_its_end(tmp_path):
    for name in ("2-step100", "2-step9", "3-step10", "3-step9", "10-step1", "10", "2"):
        save(tmp_path / f"checkpoint-{name}.pth")
    order = []
    while newest := newest_valid(tmp_path):
        order.append(newest.stem.partition("-")[2])
        newest.unlink()
    assert order == ["10", "10-step1", "3-step10", "3-step9", "2", "2-step100", "2-step9"]


def test_going_on_from_an_older_file_does_not_remove_what_was_written(tmp_path):
    """Newer files of the run that was given up are the user's; the one just written stays."""
    checkpointer = Checkpointer(str(tmp_path), 100, CPU, {}, {}, save_steps=1)
    for name in ("8-step1", "9-step1", "9-step2", "1-step1", "1-step2"):
        save(tmp_path / f"checkpoint-{name}.pth")
    state = state_of()
    state.steps_per_epoch, state.epoch, state.step = 4, 0, 7
    checkpointer.after_step(state, sampler={}, meter={})
    checkpointer.finish()
    left = sorted(path.stem.partition("-")[2] for path in tmp_path.iterdir())
    assert left == ["1-step2", "1-step3", "8-step1", "9-step1", "9-step2"]


def resume_with(file, **samples):
    return resume(state_of(), explicit=str(file), auto=True, output_dir=str(file.parent), world=CPU, **samples)


def save_with(file, *, inside, num_sample=None, **extra):
    unfinished = {"unfinished": {"step": 1, "sampler": {}, "meters": [{}]}} if inside else {}
    args = {} if num_sample is None else {"num_sample": num_sample}
    return save(file, rng=[], args=args, **extra, **unfinished)


def test_another_list_is_refused_inside_an_epoch_and_warned_of_at_its_end(tmp_path, caplog):
    file = save_with(tmp_path / "checkpoint-2-step1.pth", inside=True, fingerprint="aaa")
    assert resume_with(file, fingerprint="aaa") == file
    with pytest.raises(
        CheckpointError, match=r"another list, fingerprint aaa, now bbb: .*--data_path.*--resume"
    ) as error:
        resume_with(file, fingerprint="bbb")
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)
    file = save_with(tmp_path / "checkpoint-2.pth", inside=False, fingerprint="aaa")
    with caplog.at_level(logging.WARNING):
        assert resume_with(file, fingerprint="aaa") == file
        assert not caplog.records
        assert resume_with(file, fingerprint="bbb") == file
    assert "another list, fingerprint aaa, now bbb" in caplog.text


def test_another_number_of_clips_is_refused_inside_an_epoch_only(tmp_path):
    file = save_with(tmp_path / "checkpoint-2-step1.pth", inside=True, num_sample=2)
    assert resume_with(file, num_sample=2) == file
    with pytest.raises(CheckpointError, match=r"--num_sample 2, now 4: .*Keep --num_sample 2"):
        resume_with(file, num_sample=4)
    file = save_with(tmp_path / "checkpoint-2.pth", inside=False, num_sample=2)
    assert resume_with(file, num_sample=4) == file


def test_files_that_do_not_say_what_they_were_made_with_pass(tmp_path, caplog):
    file = save_with(tmp_path / "checkpoint-2-step1.pth", inside=True)
    assert resume_with(file, fingerprint="bbb", num_sample=4) == file
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def resumed(world, folder):
    """A rank in a folder of its own: how often it read a file, and what it resumed from `a.pth` or why it did not."""
    reads, read = [], resume_module.read_checkpoint

    def noted(path, **options):
        reads.append(path)
        return read(path, **options)

    resume_module.read_checkpoint = noted
    os.chdir(folder / str(world.rank))
    state = state_of(seed=7, steps=1)
    try:
        path = resume_module.resume(state, explicit="a.pth", auto=True, output_dir="", world=world)
    except CheckpointError as error:
        return len(reads), str(error)
    return len(reads), str(path), state.step, dict(state.backend.module.state_dict())


def test_the_main_process_reads_the_file_for_all(tmp_path):
    """The other rank has another file under that name; a damaged one is an error of all, in the same words."""
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    saved = state_of()
    save(tmp_path / "0" / "a.pth", saved)
    save(tmp_path / "1" / "a.pth", state_of(seed=3, steps=5))
    for rank, found in enumerate(gloo_world(resumed, tmp_path)):
        assert same(found, (1 - rank, "a.pth", 2, dict(saved.backend.module.state_dict())))
    file = tmp_path / "0" / "a.pth"
    file.write_bytes(file.read_bytes()[:-100])
    (main, why), (other, same_why) = gloo_world(resumed, tmp_path)
    assert (main, other) == (1, 0) and why == same_why and why.startswith("a.pth: ")


def test_random_states_of_earlier_files(tmp_path):
    """They held Python's state as a list."""
    state = random_state(CPU.device)
    expected = random.random(), random.gauss(0, 1)
    version, internal, gauss_next = state["python"]
    for python in ([version, internal.tolist(), gauss_next], [version, internal, gauss_next]):
        set_random_state({**state, "python": python}, CPU.device)
        assert (random.random(), random.gauss(0, 1)) == expected
