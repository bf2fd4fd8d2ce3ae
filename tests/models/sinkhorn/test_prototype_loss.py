"""The loss over prototypes: its value and gradients against float64, what is not computed, and its memory."""

import pytest
import torch
import torch.nn.functional as F

from bench.peak import peak_bytes
from models.objectives import SwappedClusterPrediction
from models.sinkhorn.prototype_loss import prototype_cross_entropy, prototype_scores

SAMPLES, PROTOTYPES, WIDTH, TEMPERATURE = 600, 37, 12, 0.1  # more samples than a block has rows, and no multiple


def rows(number, seed, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(number, width, generator=generator), dim=1).requires_grad_()


def codes(seed=2, samples=SAMPLES, prototypes=PROTOTYPES):
    return torch.randint(prototypes, (samples,), generator=torch.Generator().manual_seed(seed))


def naive(embeddings, prototypes, codes):
    """Loss and gradients, materialised in float64."""
    embeddings, prototypes = (t.detach().double().requires_grad_() for t in (embeddings, prototypes))
    loss = F.cross_entropy(embeddings @ prototypes.T / TEMPERATURE, codes)
    return loss.detach(), *torch.autograd.grad(loss, (embeddings, prototypes))


@pytest.mark.parametrize("scores", ["none", "float32", "float16"])
def test_loss_and_gradients_equal_the_naive_form_in_float64(scores):
    """Scores of lower precision must not come into the loss."""
    embeddings, prototypes = rows(SAMPLES, 0), rows(PROTOTYPES, 1)
    given = None if scores == "none" else prototype_scores((embeddings,), prototypes)[0].to(getattr(torch, scores))
    loss = prototype_cross_entropy(embeddings, prototypes, codes(), temperature=TEMPERATURE, scores_SK=given)
    (3 * loss).backward()
    expected, grad_embeddings, grad_prototypes = naive(embeddings, prototypes, codes())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(embeddings.grad.double(), 3 * grad_embeddings, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(prototypes.grad.double(), 3 * grad_prototypes, rtol=1e-4, atol=1e-7)


def test_gradients_only_where_they_are_wanted():
    embeddings, prototypes = rows(SAMPLES, 0), rows(PROTOTYPES, 1)
    _, grad_embeddings, grad_prototypes = naive(embeddings, prototypes, codes())
    prototype_cross_entropy(embeddings, prototypes.detach(), codes(), temperature=TEMPERATURE).backward()
    assert prototypes.grad is None
    torch.testing.assert_close(embeddings.grad.double(), grad_embeddings, rtol=1e-4, atol=1e-7)
    embeddings.grad = None
    prototype_cross_entropy(embeddings.detach(), prototypes, codes(), temperature=TEMPERATURE).backward()
    assert embeddings.grad is None
    torch.testing.assert_close(prototypes.grad.double(), grad_prototypes, rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        loss = prototype_cross_entropy(embeddings, prototypes, codes(), temperature=TEMPERATURE)
    assert not loss.requires_grad
    torch.testing.assert_close(loss.double(), naive(embeddings, prototypes, codes())[0], rtol=1e-6, atol=0)


def test_gradients_may_be_asked_for_twice():
    """The second time they are not those of the first, scaled once more."""
    embeddings, prototypes = rows(SAMPLES, 0), rows(PROTOTYPES, 1)
    loss = 2 * prototype_cross_entropy(embeddings, prototypes, codes(), temperature=TEMPERATURE)
    first, second = (torch.autograd.grad(loss, embeddings, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_memory_is_less_than_a_quarter_of_the_naive_form():
    """Forward and backward, with the product of embeddings and prototypes and without it."""
    samples, prototypes = 4096, 512
    x, w, labels = rows(samples, 0), rows(prototypes, 1), codes(samples=samples, prototypes=prototypes)
    scores = prototype_scores((x,), w)[0]
    leaf = scores.clone().requires_grad_()
    naive_bytes = peak_bytes(lambda: F.cross_entropy(x @ w.T / TEMPERATURE, labels).backward())
    assert naive_bytes >= 3 * scores.nbytes  # the meter sees arrays that live inside backward only
    assert peak_bytes(lambda: F.cross_entropy(leaf / TEMPERATURE, labels).backward()) >= 3 * scores.nbytes
    for given in (None, scores):
        ours = peak_bytes(
            lambda s=given: prototype_cross_entropy(x, w, labels, temperature=TEMPERATURE, scores_SK=s).backward()
        )
        assert ours < scores.nbytes / 4 < naive_bytes / 4


def branches():
    """Predictions and projections whose length is not 1, as they come out of the networks, and prototypes."""
    predicted, projected = ((2 * rows(SAMPLES, s)).detach().reshape(3, -1, WIDTH).requires_grad_() for s in (5, 6))
    return predicted, projected, (3 * rows(PROTOTYPES, 1)).detach().requires_grad_()


def test_objective_equals_the_naive_form_in_float64():
    """Normalisation and swapped codes included; the prototypes' gradient is the target branch's."""
    predicted, projected, prototypes = branches()
    out = SwappedClusterPrediction()(predicted, projected, prototypes)
    out["loss"].backward()
    x, y = (t.detach().double().requires_grad_() for t in (predicted, projected))
    w = F.normalize(prototypes.detach().double(), dim=1).requires_grad_()
    video = F.cross_entropy(F.normalize(x.flatten(0, 1), dim=1) @ w.detach().T / 0.1, out["codes_target"].flatten())
    target = F.cross_entropy(F.normalize(y.flatten(0, 1), dim=1) @ w.T / 0.1, out["codes_video"].flatten())
    (video + target).backward()
    for name, expected in (("video_loss", video), ("target_loss", target), ("loss", video + target)):
        torch.testing.assert_close(out[name].double(), expected, rtol=1e-6, atol=0)
    for ours, theirs in ((predicted, x), (projected, y), (prototypes, w)):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)


def test_two_passes_before_one_backward():
    """As with accumulation by summed losses: that the second renormalises the prototypes in place does no harm."""
    objective = SwappedClusterPrediction()
    predicted, projected, prototypes = branches()
    once = torch.autograd.grad(objective(predicted, projected, prototypes)["loss"], (predicted, projected, prototypes))
    losses = [objective(predicted, projected, prototypes)["loss"] for _ in range(2)]
    twice = torch.autograd.grad(sum(losses), (predicted, projected, prototypes))
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 2 * one, rtol=1e-4, atol=1e-7)


def test_soft_targets_are_the_other_branch_s_rows_of_the_plan():
    """Against Sinkhorn and the cross-entropy in float64, as their papers write them; balanced over all samples."""
    video, target, prototypes = rows(64, 0), rows(64, 1), rows(PROTOTYPES, 2)
    objective = SwappedClusterPrediction(epsilon=0.1, num_iters=7, temperature=TEMPERATURE, soft=True)
    out = objective(video[None], target[None], prototypes)
    out["loss"].backward()

    x, y, c = (t.detach().double().requires_grad_() for t in (video, target, prototypes))
    plans = []
    for scores in (x @ c.T, y @ c.T):
        plan = (scores.detach() / 0.1).exp()
        for _ in range(7):
            plan = plan / plan.sum(0)
            plan = plan / plan.sum(1, keepdim=True)
        plans.append(plan)
    video_loss = -(plans[1] * F.log_softmax(x @ c.detach().T / TEMPERATURE, 1)).sum(1).mean()
    target_loss = -(plans[0] * F.log_softmax(y @ c.T / TEMPERATURE, 1)).sum(1).mean()
    (video_loss + target_loss).backward()
    torch.testing.assert_close(out["video_loss"].double(), video_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(out["target_loss"].double(), target_loss, rtol=1e-5, atol=0)
    for codes_1S, plan in zip((out["codes_video"], out["codes_target"]), plans, strict=True):
        assert (codes_1S[0] == plan.argmax(1)).all()
    torch.testing.assert_close(prototypes.grad.double(), c.grad, rtol=1e-3, atol=1e-6)
    # The embeddings are normalised once more: what points along them has no gradient.
    for found, wanted, unit in ((video, x, video), (target, y, target)):
        along = (wanted.grad * unit).sum(1, keepdim=True) * unit
        torch.testing.assert_close(found.grad.double(), wanted.grad - along.double(), rtol=1e-3, atol=1e-6)
