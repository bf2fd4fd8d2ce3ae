"""Balanced assignment: against recorded plans, a float64 plan and POT, in degenerate cases, and over ranks."""

from pathlib import Path

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from processes import gloo_world

import models.sinkhorn.balance
from engine.distributed.collectives import all_reduce_sum
from models.sinkhorn.balance import sinkhorn, sinkhorn_codes
from models.sinkhorn.passes import SoftmaxPasses, StoredPasses

GOLDEN = Path(__file__).parents[2] / "golden"


def cosines(num_samples, num_prototypes, seed=0, dim=16):
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(num_samples, dim, generator=generator), dim=1)
    return rows @ F.normalize(torch.randn(num_prototypes, dim, generator=generator), dim=1).T


def naive(scores, epsilon, num_iters):
    """Rows and columns of the plan rescaled by turns (arXiv 1306.0895, algorithm 1), in float64."""
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


def test_problems_side_by_side_are_those_alone():
    both = torch.stack((cosines(300, 70), cosines(300, 70, seed=1)))
    for epsilon in (0.05, 0.01):
        options = {"epsilon": epsilon, "num_iters": 4}
        plans, codes = sinkhorn(both, **options), sinkhorn_codes(both, **options)
        assert plans.shape == both.shape and codes.shape == (2, 300)
        for scores, plan, code in zip(both, plans, codes, strict=True):
            assert torch.equal(sinkhorn(scores, **options), plan)
            assert torch.equal(sinkhorn_codes(scores, **options), code)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_order_of_the_samples_does_not_matter(epsilon):
    scores = cosines(300, 20)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    plan = sinkhorn(scores, epsilon=epsilon, num_iters=10)
    shuffled = sinkhorn(scores[order], epsilon=epsilon, num_iters=10)
    torch.testing.assert_close(shuffled, plan[order], rtol=1e-4, atol=1e-7)


# ------------------------------------------------------------------------------------------- against the plan, float64


def branches(num_samples, num_prototypes, kind, dim=32):
    """(2, S, K) cosines of unit rows with prototypes that they are, or are not, gathered around."""
    generator = torch.Generator().manual_seed(5)
    prototypes = F.normalize(torch.randn(num_prototypes, dim, generator=generator), dim=1)
    rows = torch.randn(2, num_samples, dim, generator=generator)
    if kind == "clustered":
        rows = 0.1 * rows + prototypes[torch.randint(num_prototypes, (2, num_samples), generator=generator)]
    return F.normalize(rows, dim=2) @ prototypes.T


def assert_codes_of_the_plan(codes_GS, scores_GSK, epsilon, num_iters=10):
    for codes, scores in zip(codes_GS, scores_GSK, strict=True):
        top = naive(scores, epsilon, num_iters).topk(2, dim=1)
        same = codes.cpu() == top.indices[:, 0]
        assert same.float().mean() >= 0.999
        assert same[top.values[:, 0] - top.values[:, 1] > 1e-3].all()


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("passes", [SoftmaxPasses, StoredPasses])
def test_codes_are_those_of_the_float64_plan(passes, kind, monkeypatch):
    monkeypatch.setattr(models.sinkhorn.balance, "passes_over", passes)
    for scores in (branches(1000, 150, kind), branches(1000, 150, kind).half(), branches(1000, 150, kind)[:1]):
        assert_codes_of_the_plan(sinkhorn_codes(scores, epsilon=0.05, num_iters=10), scores, 0.05)


@pytest.mark.parametrize("epsilon", [0.03, 0.01, 0.005, 0.003])
def test_codes_at_a_small_epsilon(epsilon):
    """exp(-1 / epsilon), of a prototype at a right angle, is nothing in float32."""
    scores = branches(700, 100, "random", dim=64)
    assert_codes_of_the_plan(sinkhorn_codes(scores, epsilon=epsilon, num_iters=10), scores, epsilon)


# --------------------------------------------------------------------------------------------------------- over ranks


def share(world, scores, cases, num_iters):
    """For every epsilon and split: plan and codes of this rank's samples, and the sizes of what was reduced."""

    def balance(epsilon, sizes):
        own = scores.split(sizes, dim=-2)[world.rank]
        reduced = []

        def all_reduce(tensor):
            reduced.append(tensor.numel())
            return all_reduce_sum(tensor)

        plan = sinkhorn(own, epsilon=epsilon, num_iters=num_iters, all_reduce=all_reduce_sum)
        return plan, sinkhorn_codes(own, epsilon=epsilon, num_iters=num_iters, all_reduce=all_reduce), reduced

    return [balance(*case) for case in cases]


def test_two_ranks_balance_together():
    """Also with unequal shares, and one that is empty; with one message an iteration for both problems."""
    scores = torch.stack((cosines(61, 8), cosines(61, 8, seed=1)))
    cases = [(epsilon, sizes) for epsilon in (0.05, 0.01) for sizes in ((31, 30), (0, 61))]
    for (epsilon, _), *ranks in zip(cases, *gloo_world(share, scores, cases, 10), strict=True):
        plans, codes, reduced = zip(*ranks, strict=True)
        expected = sinkhorn(scores, epsilon=epsilon, num_iters=10)
        torch.testing.assert_close(torch.cat(plans, dim=1), expected, rtol=1e-3, atol=1e-6)
        assert torch.equal(torch.cat(codes, dim=1), sinkhorn_codes(scores, epsilon=epsilon, num_iters=10))
        assert_codes_of_the_plan(torch.cat(codes, dim=1), scores, epsilon)
        assert reduced == ([2 * 8] * 10,) * 2
        alone = sinkhorn(scores[:, :31], epsilon=epsilon, num_iters=10)
        assert (expected[:, :31] - alone).abs().max() > 0.01  # a rank by itself would have done something else


class TakesTurns:
    """Sums over one rank, as one of several would, and keeps a record of what happens when."""

    num_ranks = 2

    def __init__(self):
        self.record = []

    def __call__(self, tensor):
        raise AssertionError("one problem would wait for the other")

    def start(self, tensor):
        problem = sum(what == "start" for what, _ in self.record) % 2
        self.record.append(("start", problem))

        def wait():
            self.record.append(("wait", problem))
            return tensor

        return wait


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_by_turns_the_codes_are_the_same_to_the_bit(epsilon):
    scores = torch.stack((cosines(300, 70), cosines(300, 70, seed=1)))
    turns = TakesTurns()
    codes = sinkhorn_codes(scores, epsilon=epsilon, num_iters=4, all_reduce=turns)
    assert torch.equal(codes, sinkhorn_codes(scores, epsilon=epsilon, num_iters=4))
    # While the sums of one are on their way, the other's are waited for and its next pass is done.
    once = [("wait", 0), ("start", 0), ("wait", 1), ("start", 1)]
    assert turns.record == [("start", 0), ("start", 1), *3 * once, ("wait", 0), ("wait", 1)]


def test_one_rank_or_one_problem_takes_no_turns():
    class OneRank(TakesTurns):
        num_ranks = 1

        def __call__(self, tensor):
            self.record.append(tensor.shape)
            return tensor

    scores = torch.stack((cosines(30, 7), cosines(30, 7, seed=1)))
    sinkhorn_codes(scores, epsilon=0.05, num_iters=3, all_reduce=(one := OneRank()))
    assert one.record == [(2, 7)] * 3
    several = OneRank()
    several.num_ranks = 2
    sinkhorn_codes(scores[0], epsilon=0.05, num_iters=3, all_reduce=several)
    assert several.record == [(1, 7)] * 3


def codes_by_turns(world, scores, sizes):
    """Of this rank's samples, by turns and jointly, for two values of epsilon."""
    own = scores.split(sizes, dim=1)[world.rank]
    joint = lambda tensor: all_reduce_sum(tensor)  # noqa: E731  (without `start`)
    assert all_reduce_sum.num_ranks == 2
    return [
        [sinkhorn_codes(own, epsilon=epsilon, num_iters=10, all_reduce=sums) for sums in (all_reduce_sum, joint)]
        for epsilon in (0.05, 0.01)
    ]


@pytest.mark.parametrize("sizes", [(31, 30), (0, 61)])
def test_two_ranks_take_turns(sizes):
    scores = torch.stack((cosines(61, 8), cosines(61, 8, seed=1)))
    ranks = gloo_world(codes_by_turns, scores, sizes)
    for epsilon, *cases in zip((0.05, 0.01), *ranks, strict=True):
        by_turns, joint = (torch.cat(codes, dim=1) for codes in zip(*cases, strict=True))
        assert torch.equal(by_turns, joint)
        assert_codes_of_the_plan(by_turns, scores, epsilon)
