"""What a block of our transformers launches in a training step: an operator that comes back shows here."""

import pytest
import torch

from bench.common import Cell
from bench.launches import Launches, count, objective_launches

# (forward, backward) of a block by precision: with mixed precision 20 casts of inputs, weights and gradients more
LAUNCHES = {"none": (12, 19), "bf16": (22, 31)}


@pytest.mark.parametrize("amp", LAUNCHES)
@pytest.mark.parametrize("part", ["encoder_depth", "decoder_depth"])
def test_launches_of_a_block(part, amp):
    two, three = (count(Cell("pixel", "mini", quick=True), amp, **{part: depth}) for depth in (2, 3))
    one = three.number - two.number
    assert (one["forward"], one["backward"]) <= LAUNCHES[amp]
    assert one.total() <= sum(LAUNCHES[amp])
    assert not (three.operators - two.operators)["aten::clone"]  # every copy is a cast, or stacks three gradients


@pytest.mark.parametrize(("projection_learns", "most"), [(False, 103), (True, 123)])
def test_launches_of_the_objective(projection_learns, most):
    """Ten passes over the scores, the codes, two losses, and small operators on marginals and embeddings."""
    pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")
    assert 13 < objective_launches(projection_learns=projection_learns) <= most


def test_views_launch_nothing():
    x = torch.ones(2, 3)
    with Launches() as launches:
        x.T.reshape(3, 2)[1:].unsqueeze(0)
        assert not launches.number
        x.exp()
    assert dict(launches.number) == {"rest": 1} and launches.bytes["rest"] == 2 * 2 * 3 * 4
