"""Sinkhorn's Triton kernels against sums in float64: on a GPU if there is one, else in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F
from processes import gloo_world

from engine.distributed.collectives import all_reduce_sum
from models.kernels import support
from models.kernels.rows import empty_rows, in_rows, num_programs
from models.sinkhorn.balance import sinkhorn, sinkhorn_codes
from models.sinkhorn.passes import SoftmaxPasses, describe_passes, passes_over

pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")
from models.kernels.sinkhorn import TritonPasses

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def kernels_on_this_device(monkeypatch):
    monkeypatch.setattr(support, "DEVICE_TYPES", ("cuda", "cpu"))
    monkeypatch.setattr("models.kernels.sinkhorn.num_programs", two_programs)


def two_programs(samples, groups, block, device, *, leave_room):
    """Each has several rows, which the interpreter takes one after the other."""
    return min(samples, 2)


def cosines(*shape, seed=0, dim=16):
    *outer, prototypes = shape
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(*outer, dim, generator=generator), dim=-1)
    return (rows @ F.normalize(torch.randn(prototypes, dim, generator=generator), dim=1).T).half()


def with_padding(scores):
    """As `prototype_scores` allocates them, with NaN behind each row."""
    out = empty_rows(scores, *scores.shape, dtype=scores.dtype)
    out._base.fill_(torch.nan)
    return out.copy_(scores)


def naive(scores_GSK, epsilon, num_iters):
    """The plan, rows and columns rescaled by turns (arXiv 1306.0895, algorithm 1), in float64."""
    plan = ((scores_GSK.double() - 1) / epsilon).exp()
    for _ in range(num_iters):
        plan = plan / plan.sum(dim=1, keepdim=True)
        plan = plan / plan.sum(dim=2, keepdim=True)
    return plan


def assert_codes_of_the_plan(codes_GS, scores_GSK, epsilon, num_iters):
    """The argmax, but where the two largest entries are closer than rounding lets one tell."""
    top = naive(scores_GSK, epsilon, num_iters).topk(min(2, scores_GSK.shape[2]), dim=2)
    tied = top.values[..., 0] - top.values[..., -1] < 1e-3 * top.values[..., 0]
    codes_GS = codes_GS.cpu()
    assert codes_GS.dtype == torch.int64
    assert ((codes_GS == top.indices[..., 0]) | tied).all()
    assert (codes_GS == top.indices[..., 0]).float().mean() > 0.95


SHAPES = [(1, 5, 1), (2, 6, 2), (1, 9, 127), (2, 7, 129), (1, 7, 1001), (2, 5, 3000), (1, 4, 16384)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epsilon", [0.1, 0.05, 0.03, 0.02, 0.005])
def test_each_pass_equals_the_sum_in_float64(shape, epsilon):
    """From 0.03 on with one shift for all rows, below with each row's maximum."""
    scores = cosines(*shape)
    spread = torch.linspace(-1 / epsilon, 1 / epsilon, shape[2]).repeat(shape[0], 1)  # all that log u can span
    passes = passes_over(with_padding(scores).to(DEVICE), epsilon)
    assert isinstance(passes, TritonPasses) and passes.wide == (epsilon < 0.0285)
    first = passes.initial_marginals().cpu()
    assert first.dtype == SoftmaxPasses(scores, epsilon).initial_marginals().dtype  # ranks may differ in their passes
    torch.testing.assert_close(first.double(), ((scores.double() - 1) / epsilon).exp().sum(dim=1), rtol=1e-4, atol=0)
    for log_u in (torch.zeros_like(spread), spread):
        logits = scores.double() / epsilon + log_u.double()[:, None]
        marginals = passes.column_marginals(log_u.to(DEVICE)).cpu().double()
        torch.testing.assert_close(marginals, torch.softmax(logits, dim=2).sum(dim=1), rtol=2e-4, atol=1e-9)
        top = logits.topk(min(2, shape[2]), dim=2)
        near = top.values[..., 0] - top.values[..., -1] < 1e-4 if shape[2] > 1 else torch.ones(shape[:2]).bool()
        assert ((passes.codes(log_u.to(DEVICE)).cpu() == logits.argmax(dim=2)) | near).all()


@pytest.mark.parametrize(("shape", "epsilon"), [((2, 30, 20), 0.05), ((1, 30, 33), 0.005)])
@pytest.mark.parametrize("padding", [True, False])
def test_codes_are_those_of_the_float64_plan(shape, epsilon, padding):
    scores = cosines(*shape)
    given = with_padding(scores) if padding else scores
    codes = sinkhorn_codes(given.to(DEVICE), epsilon=epsilon, num_iters=4)
    assert_codes_of_the_plan(codes, scores, epsilon, 4)


def test_the_extremes_of_the_range_neither_overflow_nor_vanish():
    """Rows of -1 and of 1, and a prototype that only one row is near, at the smallest epsilon of the shared shift."""
    epsilon = 2 / 70
    scores = torch.full((1, 24, 200), -1.0)
    scores[:, :10] = 1.0
    scores[:, 10:20, :100] = torch.linspace(-1, 1, 100)
    scores[:, :, 7] = -1.0
    scores[:, 3, 7] = 0.9
    for num_iters in (1, 2, 6):
        plan = sinkhorn(scores.half().to(DEVICE), epsilon=epsilon, num_iters=num_iters).cpu().double()
        torch.testing.assert_close(plan, naive(scores.half(), epsilon, num_iters), rtol=1e-3, atol=1e-7)


def test_degenerate_input():
    for scores in (cosines(1, 3), cosines(0, 5), torch.full((4, 1), 0.3), torch.full((3, 7), torch.nan)):
        for epsilon in (0.05, 0.01):
            codes = sinkhorn_codes(scores.half().to(DEVICE), epsilon=epsilon, num_iters=2)
            assert codes.shape == (len(scores),) and ((codes >= 0) & (codes < scores.shape[1])).all()


def test_a_row_of_nan_makes_every_sum_nan():
    scores = cosines(1, 9, 130)
    scores[0, 4] = torch.nan
    for epsilon in (0.05, 0.01):
        passes = passes_over(scores.to(DEVICE), epsilon)
        assert passes.initial_marginals().isnan().all()
        assert passes.column_marginals(torch.zeros(1, 130, device=DEVICE)).isnan().all()


def test_memory_layouts():
    """Scores are read where they lie if their rows are regular and what is read is theirs; else they are copied."""
    scores = cosines(2, 6, 13)
    padded = with_padding(scores)
    wide = torch.zeros(2, 6, 16, dtype=torch.float16)
    for given, in_place in (
        (scores, True),
        (padded, True),
        (padded[:1], True),
        (padded[1], True),
        (padded[:, :4], False),
        (wide[..., 3:], False),  # the padding of its last row would be behind its memory
        (scores.transpose(1, 2).contiguous().transpose(1, 2), False),
        (scores[:, ::2], False),
    ):
        rows = in_rows(given)
        assert torch.equal(rows, given)
        assert (rows.data_ptr() == given.data_ptr()) == in_place, given.stride()
        if given is not wide:
            codes = sinkhorn_codes(given.to(DEVICE), epsilon=0.05, num_iters=1)
            assert torch.equal(codes, sinkhorn_codes(given.contiguous().to(DEVICE), epsilon=0.05, num_iters=1))


def test_programs_leave_room_for_communication(monkeypatch):
    monkeypatch.setattr("models.kernels.rows.num_processors", lambda device: 132)  # an H100
    device = torch.device("cuda")
    assert num_programs(10**6, 1, 4096, device) == 4 * 132
    assert num_programs(10**6, 2, 4096, device) == 2 * 132
    assert num_programs(10**6, 1, 4096, device, leave_room=True) == 4 * 132 - 16
    assert num_programs(5, 1, 4096, device) == 5
    assert num_programs(10**6, 1, 16384, device) == 132


def test_description_names_what_runs(monkeypatch):
    device = torch.device(DEVICE)
    assert describe_passes(device, 3000, 0.05) == "Triton kernels"
    assert describe_passes(device, 3000, 0.01) == "Triton kernels, those for a small epsilon"
    assert "at most 16384 prototypes" in describe_passes(device, 16385, 0.05)
    assert not isinstance(passes_over(torch.zeros(1, 1, 16385, device=DEVICE).half(), 0.05), TritonPasses)
    monkeypatch.setattr(support, "DEVICE_TYPES", ())
    assert describe_passes(device, 3000, 0.05) == "plain PyTorch: Triton kernels need a GPU"


def own_codes(world, scores, sizes, epsilon):
    own = scores.split(sizes, dim=1)[world.rank]
    return sinkhorn_codes(own, epsilon=epsilon, num_iters=4, all_reduce=all_reduce_sum)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_two_ranks_balance_together(epsilon):
    if DEVICE == "cuda":
        pytest.skip("the ranks are forked from this process, which CUDA does not survive")
    scores = cosines(2, 30, 20)
    ranks = gloo_world(own_codes, scores, (21, 9), epsilon)
    assert_codes_of_the_plan(torch.cat(ranks, dim=1), scores, epsilon, 4)
