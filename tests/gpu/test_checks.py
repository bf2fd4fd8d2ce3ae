"""A GPU against the CPU, by the checks of bench/gpu/checks.py.

    bash scripts/test.sh -m gpu

Elsewhere they are skipped. SIGMA_TEST_DEVICE=cpu runs them with the CPU in the GPU's place; the quick ones always run
so, and the checks have to notice what is wrong on purpose.
"""

import pytest
import torch

from bench.gpu import compare, model_checks, run_checks
from bench.gpu.checks import CHECKS
from bench.gpu.compare import NotHere

CPU = torch.device("cpu")
ALWAYS = [
    "loss and gradients, mlp, none",
    "loss and gradients, pixel, bf16",
    "loss and gradients, finetune, bf16",
    "Sinkhorn's plan",
    "loss against prototypes",
    "targets and masks",
    "normalisation",
]


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_gpu_agrees_with_the_cpu(name, accelerator):
    try:
        CHECKS[name](accelerator)
    except NotHere as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", ALWAYS)
def test_checks_run_on_a_cpu(name):
    found = CHECKS[name](CPU)
    assert found and all(isinstance(value, float | int) for value in found.values())


def test_what_has_no_meaning_on_a_cpu_says_so():
    for name in ("fp16 and its scaler", "no wait in a step", "prefetching", "captured blocks"):
        with pytest.raises(NotHere, match=r"CPU|GPU"):
            CHECKS[name](CPU)


# ------------------------------------------------------------------------------------- what is wrong is noticed


def test_a_wrong_weight(monkeypatch):
    made = model_checks.tiny_step

    def wrong(*arguments, **options):
        step = made(*arguments, **options)
        monkeypatch.setattr(model_checks, "tiny_step", made)  # the reference is made next
        with torch.no_grad():
            step.model.encoder.blocks[0].attn.qkv.weight *= 1.05
        return step

    monkeypatch.setattr(model_checks, "tiny_step", wrong)
    with pytest.raises(AssertionError, match="pixel"):
        model_checks.loss_and_gradients(CPU, "pixel", "none")


def test_codes_that_are_not_balanced(monkeypatch):
    monkeypatch.setattr(model_checks, "sinkhorn_codes", lambda scores, **_: scores.argmax(dim=-1))
    with pytest.raises(AssertionError, match="codes, 300 prototypes"):
        model_checks.sinkhorn_plan(CPU)


def test_a_wrong_temperature(monkeypatch):
    loss = model_checks.prototype_cross_entropy
    monkeypatch.setattr(
        model_checks, "prototype_cross_entropy", lambda *a, **options: loss(*a, **{**options, "temperature": 0.1001})
    )
    with pytest.raises(AssertionError, match="loss, from the scores"):
        model_checks.loss_against_prototypes(CPU)


def test_masks_in_another_order(monkeypatch):
    split = model_checks.split_by_mask
    flipped = iter([True])
    monkeypatch.setattr(
        model_checks,
        "split_by_mask",
        lambda *a: tuple(index.flip(1) for index in split(*a)) if next(flipped, False) else split(*a),
    )
    with pytest.raises(AssertionError, match="positions"):
        model_checks.targets_and_masks(CPU)


def test_a_run_that_resumes_elsewhere(monkeypatch):
    weights = {"mlp w": torch.ones(2), "mlp loss": torch.ones(())}
    other = {**weights, "mlp w": torch.tensor([1.0, 1.0 + 2**-23])}
    found = {f"{kind} {n}": t for kind, run in (("whole", weights), ("resumed", other)) for n, t in run.items()}
    monkeypatch.setattr(run_checks, "in_processes", lambda *_: [found])
    with pytest.raises(AssertionError, match="resumed: mlp w differs"):
        run_checks.resuming(CPU)


def test_comparisons():
    one = torch.ones(4)
    assert compare.close(one * 1.001, one, 2e-3, "x") == pytest.approx(1e-3, rel=1e-3)
    for wrong in (one * 1.1, one * torch.nan, one[:3], one.index_fill(0, torch.tensor([1]), torch.inf)):
        with pytest.raises(AssertionError, match="x"):
            compare.close(wrong, one, 2e-3, "x")
    with pytest.raises(AssertionError, match="b"):
        compare.all_close({"a": one}, {"a": one, "b": one}, 1, "x")
    with pytest.raises(AssertionError, match=r"50\.00 %"):
        compare.equal_share(torch.tensor([1, 2]), torch.tensor([1, 3]), 0.9, "x")
