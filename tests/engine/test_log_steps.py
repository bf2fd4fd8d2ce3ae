"""Log steps whose values are read an update late, as on a GPU: the same lines, and nothing bad is ever saved.

`Backend.runs_ahead` alone decides; here it is set on a CPU.
"""

import json
import math

import pytest
from processes import PRETRAIN, run_in_processes, script_target
from runs import load, records, same

from engine.distributed.ddp import Backend
from engine.distributed.readout import Readout
from engine.pretraining import PretrainingForward
from engine.training import Trainer

TIMES = ("step_time", "data_time", "clips_per_second", "tflops", "memory_gib", "mfu")
STATE = {"model", "optimizer", "step", "rng", "unfinished"}
BAD_CALL = 8  # update of 12 whose loss is not finite


def run_ahead(script):
    """`script` as if the device worked behind the host."""

    def target():
        init = Backend.__init__

        def ahead(self, *args, **kwargs):
            init(self, *args, **kwargs)
            self.runs_ahead = True

        Backend.__init__ = ahead
        script()

    return target


def lines(folder):
    return [{key: value for key, value in row.items() if not key.endswith(TIMES)} for row in records(folder)]


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_lines_and_checkpoints(size, data, tmp_path):
    changes = {"batch_size": 4 // size, "print_freq": 2, "save_ckpt_steps": 2}
    for name, around in (("now", lambda script: script), ("late", run_ahead)):
        script = script_target(PRETRAIN, *data.flags(PRETRAIN, tmp_path / name, **changes))
        assert [f.code for f in run_in_processes(around(script), size=size)] == [0] * size
    assert lines(tmp_path / "late") == lines(tmp_path / "now") != []
    for file in ("checkpoint-1.pth", "checkpoint-1-step1.pth"):
        late, now = (load(tmp_path / name / file) for name in ("late", "now"))
        keys = STATE - ({"unfinished"} if file == "checkpoint-1.pth" else set())
        assert all(same(late[key], now[key]) for key in keys), file


def spoiled(script):
    """`script`, with a loss that is not finite in one update."""

    def target():
        forward, calls = PretrainingForward.__call__, []

        def spoil(self, model, batch):
            calls.append(None)
            out = forward(self, model, batch)
            return {**out, "loss": out["loss"] * math.nan} if len(calls) == BAD_CALL else out

        PretrainingForward.__call__ = spoil
        script()

    return target


@pytest.mark.parametrize(("print_freq", "last"), [(1, 7), (4, 6), (100, 6)])
def test_what_is_not_finite_stops_the_run_before_anything_is_saved(print_freq, last, data, tmp_path):
    """A checkpoint that is due just then waits for the check; the last line is of a log step or the end of an epoch."""
    flags = data.flags(PRETRAIN, tmp_path, print_freq=print_freq, save_ckpt_steps=8, batch_size=2, opt="sgd", lr=1)
    (ended,) = run_in_processes(spoiled(run_ahead(script_target(PRETRAIN, *flags))))
    assert ended.code == 2 and "step 8: the loss of rank 0 is not finite" in ended.errors[0], ended.stderr[-2000:]
    assert not list(tmp_path.glob("checkpoint*")) and (tmp_path / "nonfinite-step8-rank0.json").exists()
    assert records(tmp_path)[-1]["step"] == last


@pytest.mark.slow
def test_policies(data, tmp_path):
    """The update is left out as by a host that sees it at once: the same weights in the end."""
    changes = {"target_type": "pixel", "opt": "sgd", "lr": 1, "batch_size": 2, "save_ckpt_steps": 2}
    for name, policy in (("now", "skip"), ("late", "skip"), ("late", "rollback")):
        flags = data.flags(PRETRAIN, tmp_path / name / policy, on_nonfinite=policy, **changes)
        around = run_ahead if name == "late" else lambda script: script
        (ended,) = run_in_processes(spoiled(around(script_target(PRETRAIN, *flags))))
        assert ended.code == 0 and f"--on_nonfinite {policy}: 1 of 10" in ended.stderr, ended.stderr[-2000:]
        now = load(tmp_path / "now" / "skip" / "checkpoint-1.pth")
        found = load(tmp_path / name / policy / "checkpoint-1.pth")
        assert all(same(found[key], now[key]) for key in ("model", "optimizer", "step"))
        assert [row["step"] for row in records(tmp_path / name / policy)] == list(range(1, 13))


def test_a_bad_update_behind_another_counts_once(data, tmp_path):
    """The one that was enqueued before the rollback, and is done again after it."""
    changes = {"on_nonfinite": "rollback", "nonfinite_limit": 2, "batch_size": 2, "save_ckpt_steps": 4}

    def target():
        update, forward, steps = Trainer.update, PretrainingForward.__call__, []

        def updating(self, *args, **options):
            steps.append(self.state.step)
            return update(self, *args, **options)

        def spoil(self, model, batch):
            out = forward(self, model, batch)
            return {**out, "loss": out["loss"] * math.nan} if steps[-1] in (8, 9) else out

        Trainer.update, PretrainingForward.__call__ = updating, spoil
        run_ahead(script_target(PRETRAIN, *data.flags(PRETRAIN, tmp_path, **changes)))()

    (ended,) = run_in_processes(target)
    assert ended.code == 0 and ended.stderr.count("--on_nonfinite rollback: ") == 2, ended.stderr[-2000:]
    assert [row["step"] for row in records(tmp_path)] == list(range(1, 13))


def test_no_value_of_the_newest_update_is_read(data, tmp_path):
    """Between log steps nothing is read at all, and at one the values of the update before: the host never waits for
    what it has just enqueued, but at the end of an epoch."""
    flags = data.flags(PRETRAIN, tmp_path, print_freq=2, epochs=2)

    def target():
        step, start, read, updates, ages = Backend.step, Readout.__init__, Readout.read, [], []

        def stepping(self):
            updates.append(None)
            return step(self)

        def starting(self, *args):
            start(self, *args)
            self.born = len(updates)

        def reading(self):
            ages.append((len(updates), len(updates) - self.born))
            return read(self)

        Backend.step, Readout.__init__, Readout.read = stepping, starting, reading
        try:
            run_ahead(script_target(PRETRAIN, *flags))()
        finally:
            (tmp_path / "ages").write_text(json.dumps(ages))

    (ended,) = run_in_processes(target)
    assert ended.code == 0, ended.stderr[-2000:]
    # (updates enqueued, those behind the one that is read): step 2 behind step 3, then the end of the epoch (the log
    # step and the epoch's means); step 4 behind step 5, and step 6 with the epoch
    assert json.loads((tmp_path / "ages").read_text()) == [[3, 1], [3, 0], [3, 0], [5, 1], [6, 0], [6, 0]]
