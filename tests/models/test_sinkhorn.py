"""Balanced assignment: against recorded plans, against POT, in degenerate cases, and over ranks."""

from pathlib import Path

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from processes import gloo_world

from engine.distributed import all_reduce_sum
from models.sinkhorn import sinkhorn, sinkhorn_codes

GOLDEN = Path(__file__).parents[1] / "golden"


def cosines(num_samples, num_prototypes, seed=0, dim=16):
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(num_samples, dim, generator=generator), dim=1)
    return rows @ F.normalize(torch.randn(num_prototypes, dim, generator=generator), dim=1).T


def naive(scores, epsilon, num_iters):
    """design.md, section 5, in float64."""
    plan = ((scores.double() - 1) / epsilon).exp()
    for _ in range(num_iters):
        plan = plan / plan.sum(dim=0)
        plan = plan / plan.sum(dim=1, keepdim=True)
    return plan


@pytest.mark.parametrize("name", ["small", "wide", "3it"])
def test_golden(name):
    golden = np.load(GOLDEN / f"sinkhorn_{name}.npz")
    scores = torch.from_numpy(golden["scores"])
    options = {"epsilon": float(golden["eps"]), "num_iters": int(golden["iterations"])}
    plan = sinkhorn(scores, **options)
    np.testing.assert_allclose(plan, golden["q"], rtol=1e-3, atol=1e-6)
    decided = golden["margin"] >= 1e-3
    assert decided.mean() > 0.95
    codes = sinkhorn_codes(scores, **options).numpy()
    assert (codes[decided] == golden["assign"][decided]).all()
    assert (codes == plan.argmax(dim=1).numpy()).mean() > 0.99


@pytest.mark.parametrize(("shape", "num_iters"), [((64, 9), 1), ((64, 9), 2), ((40, 100), 10)])
def test_equals_the_naive_form(shape, num_iters):
    scores = cosines(*shape)
    plan = sinkhorn(scores, epsilon=0.05, num_iters=num_iters)
    torch.testing.assert_close(plan.double(), naive(scores, 0.05, num_iters), rtol=1e-4, atol=1e-7)


def test_converges_to_pot():
    """POT's plan has marginals 1/S and 1/K; ours, once converged, is S times that."""
    scores = cosines(60, 8, dim=64)
    expected = ot.sinkhorn(np.full(60, 1 / 60), np.full(8, 1 / 8), 1 - scores.double().numpy(), 0.1, stopThr=1e-12)
    np.testing.assert_allclose(sinkhorn(scores, epsilon=0.1, num_iters=500), 60 * expected, rtol=1e-3, atol=1e-6)


def test_rows_sum_to_one_and_prototypes_have_equal_mass():
    scores = cosines(400, 20)
    plan = sinkhorn(scores, epsilon=0.05, num_iters=100)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(400))
    torch.testing.assert_close(plan.sum(dim=0), torch.full((20,), 20.0), rtol=1e-3, atol=0)
    unbalanced = torch.softmax(scores / 0.05, dim=1).sum(dim=0)
    assert unbalanced.max() / unbalanced.min() > 3
    assert plan.dtype == torch.float32


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize(
    "scores",
    [
        torch.full((30, 7), 0.3),  # constant features, prototypes all alike
        cosines(1, 50).expand(30, 50),  # constant features
        cosines(5, 100),  # fewer samples than prototypes
        cosines(1, 3),
        torch.cat((cosines(20, 6), torch.full((20, 1), -1.0)), dim=1),  # a prototype far from every sample
        cosines(30, 9).bfloat16(),
        cosines(30, 9).half(),
    ],
    ids=["all alike", "constant", "few samples", "one sample", "lonely prototype", "bfloat16", "float16"],
)
def test_degenerate_input_stays_finite(scores, epsilon):
    for num_iters in (1, 3, 10):
        plan = sinkhorn(scores, epsilon=epsilon, num_iters=num_iters)
        assert torch.isfinite(plan).all() and (plan >= 0).all()
        torch.testing.assert_close(plan.sum(dim=1), torch.ones(len(scores)))
        codes = sinkhorn_codes(scores, epsilon=epsilon, num_iters=num_iters)
        assert codes.dtype == torch.int64 and codes.shape == (len(scores),)
        assert codes.min() >= 0 and codes.max() < scores.shape[1]


def test_codes_are_the_argmax_of_the_plan():
    """A ratio of plan entries is that of the scores and log u; only rounding in a near tie may choose another."""
    for seed, epsilon in ((0, 0.05), (1, 0.03), (2, 0.01), (3, 0.5)):
        scores = cosines(300, 40, seed)
        plan = sinkhorn(scores, epsilon=epsilon, num_iters=5)
        codes = sinkhorn_codes(scores, epsilon=epsilon, num_iters=5)
        torch.testing.assert_close(plan.gather(1, codes[:, None])[:, 0], plan.amax(dim=1), rtol=1e-4, atol=0)


def test_input_is_left_alone_and_no_gradient_is_kept():
    scores = cosines(10, 4).requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores, epsilon=0.05, num_iters=3).requires_grad
    sinkhorn_codes(scores, epsilon=0.05, num_iters=3)
    assert torch.equal(scores, before)


def share(world, scores, epsilon):
    own = scores.tensor_split(world.size)[world.rank]
    options = {"epsilon": epsilon, "num_iters": 10, "all_reduce": all_reduce_sum}
    return sinkhorn(own, **options), sinkhorn_codes(own, **options)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_two_ranks_balance_together(epsilon):
    """Also with unequal shares: 61 samples."""
    scores = cosines(61, 8)
    expected = sinkhorn(scores, epsilon=epsilon, num_iters=10)
    plans, codes = zip(*gloo_world(share, scores, epsilon), strict=True)
    torch.testing.assert_close(torch.cat(plans), expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(torch.cat(codes), sinkhorn_codes(scores, epsilon=epsilon, num_iters=10))
    alone = sinkhorn(scores[:31], epsilon=epsilon, num_iters=10)
    assert (plans[0] - alone).abs().max() > 0.01  # each rank by itself would have done something else
