"""Two processes train as one process with the double batch does: pre-training under the real torchrun (which takes
fifteen seconds to start), fine-tuning in processes with the environment that torchrun gives."""

import numpy as np
import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_script, torchrun
from runs import load, same, series

# SGD moves with the size of the gradient (AdamW would hide a wrong factor), at a rate at which a few steps move the
# weights far, so that a difference in any step shows in the next ones.
PRETRAIN_CHANGES = {"opt": "sgd", "lr": 3}
# Random numbers that are drawn per rank, or per batch, are off; what belongs to a sample stays on.
FINETUNE_CHANGES = {"opt": "sgd", "lr": 1, "init_scale": 1, "drop_path": 0, "mixup": 0, "cutmix": 0, "reprob": 0.5}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((PRETRAIN, PRETRAIN_CHANGES), id="pretrain", marks=pytest.mark.slow),
        pytest.param((FINETUNE, FINETUNE_CHANGES), id="finetune"),
    ],
)
def runs(request, data, tmp_path_factory):
    """Script, folder of the single process, folder of the two, stdout and stderr of the two."""
    script, changes = request.param
    folder = tmp_path_factory.mktemp("ranks")
    one, two = folder / "one", folder / "two"
    assert run_script(script, *data.flags(script, one, **changes)).code == 0
    flags = data.flags(script, two, **{**changes, "batch_size": 2})
    if script == PRETRAIN:
        finished = torchrun(script, *flags)
        assert finished.returncode == 0, finished.stderr
        return script, one, two, finished.stdout, finished.stderr
    ranks = run_script(script, *flags, size=2)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].stderr + ranks[1].stderr
    assert ranks[1].stderr == ""
    return script, one, two, ranks[0].stdout + ranks[1].stdout, ranks[0].stderr


def test_losses_and_gradients_are_the_same_in_every_step(runs):
    _, one, two, *_ = runs
    names = ("step", "train/lr", "train/loss", "train/grad_norm")
    assert len(series(one, *names)) >= 4
    torch.testing.assert_close(series(two, *names), series(one, *names), rtol=2e-4, atol=1e-6)


def test_weights_are_the_same_and_have_moved(runs):
    script, one, two, *_ = runs
    a, b = load(one / "checkpoint-1.pth")["model"], load(two / "checkpoint-1.pth")["model"]
    torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)
    assert series(one, "train/loss").std() > 1e-2, script


def test_rank_1_writes_nothing(runs):
    _, one, two, stdout, stderr = runs
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    assert "rank 1" not in stderr
    assert stderr.count("total batch") == 1
    assert stdout == ""
    assert "Warning" not in stderr


def test_both_ranks_random_states_are_saved(runs):
    _, one, two, *_ = runs
    states = [load(folder / "checkpoint-1.pth")["rng"] for folder in (one, two)]
    assert [len(state) for state in states] == [1, 2]
    assert all(not same(states[1][0][name], states[1][1][name]) for name in ("torch", "numpy", "python"))


def test_test_results_are_the_same(runs):
    script, one, two, *_ = runs
    if script == PRETRAIN:
        pytest.skip("pre-training has no test")
    a, b = (np.load(folder / "test_predictions.npz") for folder in (one, two))
    np.testing.assert_allclose(b["probabilities"], a["probabilities"], atol=1e-3)
    np.testing.assert_array_equal(b["labels"], a["labels"])
    assert a["num_views"] == b["num_views"] == 4
