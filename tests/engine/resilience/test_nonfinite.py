"""A loss that is not finite on one rank: all ranks leave the update out, write down what led there, and obey."""

import json
import math

import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_in_processes, script_target
from runs import load, records, same

from engine.distributed.world import World
from engine.errors import NonFiniteError
from engine.pretraining import PretrainingForward
from engine.resilience.nonfinite import NonFiniteGuard, RollbackRequested
from engine.tasks.classification import Classification

BAD_STEP = 7  # of 12
STEPS_OF_EPOCH = 2  # of fine-tuning


def run(data, folder, *, size=1, bad_rank=0, times=1, value=math.nan, **changes):
    """Pre-training whose loss is not finite on one rank in some updates, from BAD_STEP on; a list of Finished."""
    changes = {"batch_size": 2 // size, "save_ckpt_steps": 2, "opt": "sgd", "lr": 1, **changes}
    script = script_target(PRETRAIN, *data.flags(PRETRAIN, folder, **changes))

    def target():
        forward, calls = PretrainingForward.__call__, []

        def spoiled(self, model, batch):
            out = forward(self, model, batch)
            calls.append(torch.distributed.get_rank() if size > 1 else 0)
            if BAD_STEP < len(calls) <= BAD_STEP + times and calls[-1] == bad_rank:
                out["loss"] = out["loss"] * value
            return out

        PretrainingForward.__call__ = spoiled
        script()

    return run_in_processes(target, size=size)


@pytest.mark.parametrize("value", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_stopping(value, data, tmp_path):
    ended = run(data, tmp_path, size=2, bad_rank=1, value=value)
    assert [f.code for f in ended] == [2, 2]
    assert all(len(f.errors) == 1 and "step 8: the loss of rank 1 is not finite" in f.errors[0] for f in ended)
    assert "--lr" in ended[0].errors[0]
    newest = load(tmp_path / "checkpoint-1-step0.pth")
    assert newest["step"] == 6 and all(tensor.isfinite().all() for tensor in newest["model"].values())
    for rank in (0, 1):
        noted = json.loads((tmp_path / f"nonfinite-step8-rank{rank}.json").read_text())
        (batch,) = noted["batches"]
        assert isinstance(batch["loss"], str) is (rank == 1)
        assert (noted["step"], noted["epoch"], noted["rank"]) == (8, 1, rank) and noted["lr"] > 0
        assert len(batch["videos"]) == 1 and all(str(data.folder) in path for path in batch["videos"].values())
    assert records(tmp_path)[-1]["step"] == 7


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_skipping_and_rolling_back_leave_out_the_same_update(size, data, tmp_path):
    """Both end with the weights of a run that never saw the batch; the log has every step once."""
    for policy in ("skip", "rollback"):
        # Not with prototypes, which are normalized, and rounded again, by a skipped update too.
        changes = {"on_nonfinite": policy, "target_type": "pixel"}
        ended = run(data, tmp_path / policy, size=size, bad_rank=size - 1, **changes)
        assert [f.code for f in ended] == [0] * size, ended[0].stderr[-3000:]
        assert f"--on_nonfinite {policy}: 1 of 10" in ended[0].stderr
    a, b = (load(tmp_path / policy / "checkpoint-1.pth") for policy in ("skip", "rollback"))
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "step"))
    assert all(tensor.isfinite().all() for tensor in a["model"].values())
    for policy in ("skip", "rollback"):
        assert [record["step"] for record in records(tmp_path / policy)] == list(range(1, 13))
        losses = [record.get("train/loss", 0.0) for record in records(tmp_path / policy)]
        assert all(math.isfinite(loss) for loss in losses)
    assert "resumed from" in ended[0].stderr and "checkpoint-1-step0.pth" in ended[0].stderr


def test_the_limit(data, tmp_path):
    (ended,) = run(data, tmp_path, times=4, value=math.inf, on_nonfinite="skip", nonfinite_limit=2)
    assert ended.code == 2 and "These are 3, and --nonfinite_limit is 2" in ended.errors[0]


def test_rolling_back_needs_a_checkpoint(data, tmp_path):
    (ended,) = run(data, tmp_path, on_nonfinite="rollback", save_ckpt_steps=0)
    assert ended.code == 2 and "no checkpoint yet" in ended.errors[0] and "--save_ckpt_steps" in ended.errors[0]


def test_rolling_back_to_a_checkpoint_before_a_validation(data, tmp_path):
    """It is made when the epoch is trained; what its validation found, and the best so far, are not forgotten."""
    flags = {"epochs": 3, "on_nonfinite": "rollback", "test_num_segment": 1, "test_num_crop": 1}
    script = script_target(FINETUNE, *data.flags(FINETUNE, tmp_path, **flags))

    def target():
        forward, calls = Classification.__call__, []

        def spoiled(self, model, batch):
            out = forward(self, model, batch)
            calls.append(None)
            return {**out, "loss": out["loss"] * math.nan} if len(calls) == STEPS_OF_EPOCH + 1 else out

        Classification.__call__ = spoiled
        script()

    (ended,) = run_in_processes(target)
    assert ended.code == 0, ended.stderr[-3000:]
    assert f"checkpoint-0-step{STEPS_OF_EPOCH}.pth" in ended.stderr
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    accuracies = [line["val/top1"] for line in lines if "val/top1" in line]
    assert len(accuracies) == 3
    assert load(tmp_path / "checkpoint-2.pth")["best"] == max(accuracies)


def recorded(policy, finite, limit=10, output_dir=""):
    guard = NonFiniteGuard(
        policy, limit=limit, output_dir=output_dir, world=World(0, 1, 0, torch.device("cpu")), paths=[]
    )
    for number, is_finite in enumerate(finite):
        facts = {"is_finite": torch.tensor(is_finite), "grad_norm": torch.tensor(1.0), "indices": [], "outputs": []}
        guard.record(number, epoch=0, lr=0.1, **facts)
    return guard


def test_several_updates_between_two_checks():
    """On a GPU the host checks at log steps only."""
    guard = recorded("rollback", [True, False, True, False])
    with pytest.raises(RollbackRequested, match=r"step 2, 4: the loss is finite, the gradient not"):
        guard.check()
    assert guard.skipped_steps == {1, 3}
    guard.check()  # nothing new
    with pytest.raises(NonFiniteError, match="step 2: "):
        recorded("stop", [True, False, False]).check()
    guard = recorded("skip", [False] * 3, limit=3)
    guard.check()
    assert guard.num_skipped == 3 and not guard.skipped_steps


def test_a_diagnosis_that_cannot_be_written_stops_no_rank(tmp_path, caplog):
    """The other ranks wait for this one, and `skip` continues."""
    guard = recorded("skip", [False], output_dir=str(tmp_path / "gone"))
    guard.check()
    assert guard.num_skipped == 1 and "nonfinite-step1-rank0.json: could not be written" in caplog.text
