"""The loss from stored scores against float64: on a GPU if there is one, else in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels import support
from models.kernels.rows import empty_rows
from models.objectives import SwappedClusterPrediction
from models.sinkhorn.prototype_loss import prototype_cross_entropy, prototype_scores

pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")
from models.kernels.cross_entropy import ERROR_SCALE, _like, cross_entropy, fused_cross_entropy

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TEMPERATURE = 0.1


@pytest.fixture(autouse=True)
def kernels_on_this_device(monkeypatch):
    monkeypatch.setattr(support, "DEVICE_TYPES", ("cuda", "cpu"))
    few = lambda samples, groups, block, device, leave_room=False: min(samples, 3)  # noqa: E731
    monkeypatch.setattr("models.kernels.cross_entropy.num_programs", few)  # each has several rows
    monkeypatch.setattr("models.kernels.sinkhorn.num_programs", few)


def problem(samples, prototypes, width=16):
    """Unit rows, prototypes around which half of them lie, and codes, most of them the nearest prototype."""
    generator = torch.Generator().manual_seed(samples + prototypes)
    w = F.normalize(torch.randn(prototypes, width, generator=generator), dim=1)
    x = torch.randn(samples, width, generator=generator)
    x[::2] = 0.05 * x[::2] + w[torch.randint(prototypes, (len(x[::2]),), generator=generator)]
    x = F.normalize(x, dim=1)
    codes = (x @ w.T).argmax(dim=1)
    codes[0] = prototypes - 1
    return x.to(DEVICE).requires_grad_(), w.to(DEVICE).requires_grad_(), codes.to(DEVICE)


def naive(x, w, codes, temperature=TEMPERATURE):
    """Loss and gradients from unrounded scores, in float64."""
    x, w = (t.detach().cpu().double().requires_grad_() for t in (x, w))
    loss = F.cross_entropy(x @ w.T / temperature, codes.cpu())
    return loss.item(), *torch.autograd.grad(loss, (x, w))


def distance(ours, expected):
    return ((ours.cpu().double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("shape", [(9, 1), (10, 2), (30, 127), (12, 129), (7, 1001), (6, 3000), (4, 16384)], ids=str)
def test_loss_and_gradients_equal_float64(shape):
    x, w, codes = problem(*shape)
    scores = prototype_scores((x, x), w)[1]
    assert scores.dtype == torch.float16 and scores.stride(0) % 8 == 0
    before = scores.clone()
    loss = prototype_cross_entropy(x, w, codes, temperature=TEMPERATURE, scores_SK=scores)
    (3 * loss).backward()
    expected, grad_x, grad_w = naive(x, w, codes)
    assert torch.equal(scores, before) and loss.dtype == x.grad.dtype == w.grad.dtype == torch.float32
    rounded = F.cross_entropy(scores.cpu().double() / TEMPERATURE, codes.cpu()).item()
    assert loss.item() == pytest.approx(rounded, rel=1e-5, abs=1e-6)
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    if shape[1] == 1:  # a softmax over one prototype is 1
        assert x.grad.abs().max() < 1e-6 and w.grad.abs().max() < 1e-6
        return
    assert distance(x.grad, 3 * grad_x) < 1e-3 and distance(w.grad, 3 * grad_w) < 1e-3


@pytest.mark.parametrize("scores", [empty_rows(torch.empty(0), 1, 129, dtype=torch.float16), torch.empty(1, 129)])
def test_the_error_of_a_single_row_has_its_padding(scores):
    """The kernel fills it: without, it would write behind the array."""
    like = _like(scores)
    assert like.stride() == scores.stride() and like.dtype == scores.dtype
    assert like.untyped_storage().nbytes() == scores.untyped_storage().nbytes()


def test_rounding_of_the_scores_is_small_on_average():
    x, w, codes = problem(200, 60, width=64)
    x.grad = w.grad = None
    loss = prototype_cross_entropy(x, w, codes, temperature=TEMPERATURE, scores_SK=prototype_scores((x,), w)[0])
    loss.backward()
    expected, grad_x, grad_w = naive(x, w, codes)
    assert loss.item() == pytest.approx(expected, rel=2e-4)
    assert distance(x.grad, grad_x) < 5e-4 and distance(w.grad, grad_w) < 5e-4


def test_small_probabilities_are_in_the_error():
    """Without ERROR_SCALE, float16 has nothing below 6e-8 and three digits less at 1e-6."""
    scores = torch.linspace(-1, 1, 40, device=DEVICE).half()[None].repeat(2, 1)
    error = torch.empty_like(scores)
    codes = torch.tensor([39, 0], device=DEVICE)
    cross_entropy(scores, codes, temperature=0.08, error_SK=error)
    expected = torch.softmax(scores.cpu().double() / 0.08, dim=1) - F.one_hot(codes.cpu(), 40)
    assert expected[0, 0] < 1e-10
    found = error.cpu().double() / ERROR_SCALE
    significant = expected.abs() > 4e-9
    torch.testing.assert_close(found[significant], expected[significant], rtol=1e-3, atol=0)
    assert (found - expected)[~significant].abs().max() < 2e-12


@pytest.mark.parametrize("temperature", [1.0, 0.02, 0.005])
def test_any_temperature(temperature):
    """Below 0.0286 each row's maximum is subtracted."""
    x, w, codes = problem(12, 30)
    scores = prototype_scores((x,), w)[0]
    loss = fused_cross_entropy(x, w, codes, scores, temperature=temperature)
    rounded = F.cross_entropy(scores.cpu().double() / temperature, codes.cpu())
    assert loss.item() == pytest.approx(rounded.item(), rel=1e-4)


def test_scores_are_overwritten_only_on_request_and_only_if_a_gradient_is_needed():
    x, w, codes = problem(20, 13)
    scores = prototype_scores((x,), w)[0]
    before = scores.clone()
    options = {"temperature": TEMPERATURE, "scores_SK": scores}
    with torch.no_grad():
        value = prototype_cross_entropy(x, w, codes, overwrite_scores=True, **options)
    prototype_cross_entropy(x.detach(), w.detach(), codes, overwrite_scores=True, **options)
    kept = torch.autograd.grad(prototype_cross_entropy(x, w, codes, **options), (x, w))
    assert torch.equal(scores, before) and not value.requires_grad
    loss = prototype_cross_entropy(x, w, codes, overwrite_scores=True, **options)
    assert torch.equal(loss.detach(), value) and not torch.equal(scores, before)
    for grads in (torch.autograd.grad(loss, (x, w), retain_graph=True) for _ in range(2)):
        assert all(torch.equal(a, b) for a, b in zip(grads, kept, strict=True))


def test_gradients_only_where_they_are_wanted():
    x, w, codes = problem(20, 13)
    _, grad_x, grad_w = naive(x, w, codes)
    scores = prototype_scores((x,), w)[0]
    prototype_cross_entropy(x, w.detach(), codes, temperature=TEMPERATURE, scores_SK=scores).backward()
    assert w.grad is None and distance(x.grad, grad_x) < 1e-3
    x.grad = None
    prototype_cross_entropy(x.detach(), w, codes, temperature=TEMPERATURE, scores_SK=scores).backward()
    assert x.grad is None and distance(w.grad, grad_w) < 1e-3


def test_nan_and_codes_that_are_no_prototype_make_the_loss_nan():
    x, w, codes = problem(20, 13)
    scores = prototype_scores((x,), w)[0]
    for bad in (-1, 13):
        wrong = codes.clone()
        wrong[7] = bad
        assert cross_entropy(scores, wrong, temperature=TEMPERATURE).isnan()
    scores[4, 2] = torch.nan
    for temperature in (TEMPERATURE, 0.01):
        loss = fused_cross_entropy(x, w, codes, scores, temperature=temperature)
        assert loss.isnan()
    loss.backward()
    assert x.grad[4].isnan().all() and w.grad.isnan().all() and x.grad[5].isfinite().all()


def test_padding_is_never_read_as_scores():
    x, w, codes = problem(20, 13)
    padded = empty_rows(x, 20, 13, dtype=torch.float16)
    padded._base.fill_(torch.nan)
    padded.copy_(prototype_scores((x,), w)[0])
    plain = padded.contiguous()
    losses = [fused_cross_entropy(x, w, codes, scores, temperature=TEMPERATURE) for scores in (padded, plain)]
    assert torch.equal(*losses)
    for a, b in zip(*(torch.autograd.grad(loss, (x, w)) for loss in losses), strict=True):
        torch.testing.assert_close(a, b)


def test_the_objective_with_kernels_equals_the_plain_one(monkeypatch):
    """Scores, Sinkhorn and loss together; twice, as the scores of one pass must not enter the next."""
    x, w, _ = problem(12, 21)
    y = problem(12, 22)[0].detach()
    branches = [(2 * b).reshape(2, 6, -1).detach().requires_grad_() for b in (x, y)]
    results = []
    for types in (("cuda", "cpu"), ()):
        monkeypatch.setattr(support, "DEVICE_TYPES", types)
        prototypes = (3 * w).detach().requires_grad_()
        objective = SwappedClusterPrediction(num_iters=3, all_reduce=lambda tensor: tensor)
        outs = [objective(*branches, prototypes) for _ in range(2)]
        grads = torch.autograd.grad(outs[0]["loss"] + outs[1]["loss"], (*branches, prototypes))
        results.append((outs[0], grads))
    (fused, fused_grads), (plain, plain_grads) = results
    for name in ("loss", "video_loss", "target_loss"):
        assert fused[name].item() == pytest.approx(plain[name].item(), rel=1e-4)
    assert torch.equal(fused["codes_video"], plain["codes_video"])
    for a, b in zip(fused_grads, plain_grads, strict=True):
        assert distance(a, b.cpu().double()) < 2e-3
