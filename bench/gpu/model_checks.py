"""A device against the CPU: loss and gradients of the four tasks, Sinkhorn, the loss, targets, masks, normalisation.

Models are tiny and the reference is computed on the CPU in float32 or float64 (see checks.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from bench import common
from bench.common import Cell
from bench.gpu.compare import NotHere, all_close, close, equal_share
from bench.gpu.copies import load_without_decoders
from bench.ours import OurStep, one_process
from bench.sinkhorn import rescaled_codes
from engine.distributed.ddp import set_matmul_precision
from models.sinkhorn.balance import sinkhorn_codes
from models.sinkhorn.passes import SoftmaxPasses
from models.sinkhorn.prototype_loss import prototype_cross_entropy, prototype_scores
from models.targets import PixelTarget
from models.tokens import split_by_mask

CPU = torch.device("cpu")
CLIPS = 4
LIMITS = {"none": (1e-4, 3e-3), "bf16": (5e-3, 0.04)}  # of the loss, and of all gradients as one vector
Gradients = dict[str, torch.Tensor]


@contextmanager
def matmul_precision(device: torch.device, amp: str) -> Iterator[None]:
    """As in a run of this precision; afterwards torch's default."""
    set_matmul_precision(device, amp)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def tiny_step(task: str, device: torch.device, amp: str, *, compiled: bool = False, **options: Any) -> OurStep:
    """A step of a tiny model without stochastic depth, with the same weights on every device."""
    options = {"drop_path_rate": 0.0, **options} if task == "finetune" else options
    cell = Cell(task, "mini", quick=True)
    return OurStep(cell, world=one_process(device), amp=amp, compiled=compiled, **options)


def batch_on(device: torch.device, task: str, clips: int = CLIPS) -> Any:
    """The same clips, masks and labels on every device."""
    batch = common.synthetic_batch(Cell(task, "mini", quick=True), clips, CPU)
    batch.clip, batch.label = batch.clip.to(device), batch.label.to(device)
    return batch


def gradients(step: OurStep, batch: Any, codes: torch.Tensor | None = None) -> tuple[dict[str, Any], Gradients]:
    """Outputs and gradients of one step; with `codes` (2, S) those are learnt from instead of Sinkhorn's."""
    backend, device = step.backend, step.backend.device
    if codes is not None:
        step.model.objective.codes = lambda scores: codes.to(scores.device).reshape(scores.shape[:-1])
    with matmul_precision(device, backend.amp):
        with backend.autocast():
            out = step.forward(backend.model, batch)
        backend.backward(out["loss"], update_freq=1)
    return out, {name: p.grad for name, p in step.model.named_parameters() if p.grad is not None}


def codes_of(out: dict[str, Any]) -> torch.Tensor | None:
    """(2, S) codes of both branches, if the task has any."""
    if "codes_video" not in out:
        return None
    return torch.stack([out[name].flatten() for name in ("codes_video", "codes_target")])


def loss_and_gradients(device: torch.device, task: str, amp: str) -> dict[str, float]:
    """Against the CPU in float32, which is given the codes of the device: a near tie may fall to either side."""
    out, found = gradients(tiny_step(task, device, amp), batch_on(device, task))
    codes = codes_of(out)
    reference, expected = gradients(tiny_step(task, CPU, "none"), batch_on(CPU, task), codes)
    given = codes_of(reference)
    if codes is not None and given is not None:
        assert torch.equal(codes.cpu(), given), "the reference did not learn from the codes of the device"
    limit, gradient_limit = LIMITS[amp]
    return {
        "loss error": close(out["loss"], reference["loss"], limit, f"loss of {task}, {amp}"),
        "gradient error": all_close(found, expected, gradient_limit, f"gradients of {task}, {amp}"),
    }


def codes_of_a_step(device: torch.device) -> dict[str, float]:
    """Codes that the device's own embeddings get, in float32."""
    shares = {}
    for task in ("dino", "mlp"):
        found, expected = (
            codes_of(gradients(tiny_step(task, where, "none"), batch_on(where, task))[0]) for where in (device, CPU)
        )
        assert found is not None and expected is not None
        shares[f"equal codes, {task}"] = equal_share(found, expected, 0.95, f"codes of {task}")
    return shares


def embeddings(device: torch.device, samples: int, prototypes: int, width: int) -> list[torch.Tensor]:
    """Unit rows, drawn on the host: two branches (S, P), prototypes (K, P)."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(size, width, generator=generator) for size in (samples, samples, prototypes)]
    return [F.normalize(row, dim=1).to(device) for row in rows]


def sinkhorn_plan(device: torch.device) -> dict[str, float]:
    """Codes against a plan in float64 of the same scores, also below the epsilon of the fast kernels."""
    found = {}
    for prototypes in (300, 77):
        video, target, weights = embeddings(device, 900, prototypes, 64)
        scores_GSK = prototype_scores((video, target), weights)
        for epsilon in (0.05, 0.03, 0.02):
            codes = sinkhorn_codes(scores_GSK, epsilon=epsilon, num_iters=10)
            expected = torch.stack([rescaled_codes(scores.cpu().double(), epsilon) for scores in scores_GSK])
            what = f"codes, {prototypes} prototypes, epsilon {epsilon}"
            found[what] = equal_share(codes, expected, 0.998, what)
    return found


def triton_kernels(device: torch.device) -> dict[str, float]:
    """The kernels against plain PyTorch in the same place; without a GPU in Triton's interpreter, if that is on."""
    from models.sinkhorn.passes import passes_over

    video, target, weights = embeddings(device, 60, 77, 32)
    scores_GSK = prototype_scores((video, target), weights)
    kernels, plain = passes_over(scores_GSK, 0.05), SoftmaxPasses(scores_GSK, 0.05)
    if type(kernels).__name__ != "TritonPasses":
        if device.type == "cuda":
            raise AssertionError("Triton's kernels do not run on this GPU: the warning says why")
        raise NotHere("Triton's kernels are for GPUs")
    first = plain.initial_marginals()
    log_u_GK = -first.log().float()
    return {
        "initial marginals": close(kernels.initial_marginals(), first, 1e-5, "initial marginals"),
        "column marginals": close(
            kernels.column_marginals(log_u_GK), plain.column_marginals(log_u_GK), 1e-5, "column marginals"
        ),
        "codes": equal_share(kernels.codes(log_u_GK), plain.codes(log_u_GK), 0.99, "codes of the kernels"),
    }


def loss_against_prototypes(device: torch.device) -> dict[str, float]:
    """Cross-entropy and its gradients against autograd in float64, from Sinkhorn's scores and without them."""
    found = {}
    branch, _, weights = embeddings(CPU, 700, 77, 64)
    codes = torch.arange(700) % 77
    exact = [branch.double().requires_grad_(), weights.double().requires_grad_()]
    expected = F.cross_entropy(exact[0] @ exact[1].T / 0.1, codes)
    expected.backward()
    for name in ("from the scores", "computed again"):
        x, w = (row.to(device, copy=True).requires_grad_() for row in (branch, weights))
        scores = prototype_scores((x.detach(),), w)[0] if name == "from the scores" else None
        loss = prototype_cross_entropy(x, w, codes.to(device), temperature=0.1, scores_SK=scores)
        loss.backward()
        found[f"loss, {name}"] = close(loss, expected, 1e-5, f"loss, {name}")
        for what, row, reference in (("embeddings", x, exact[0]), ("prototypes", w, exact[1])):
            assert row.grad is not None and reference.grad is not None
            found[f"gradient of {what}, {name}"] = close(row.grad, reference.grad, 2e-3, f"gradient of {what}, {name}")
    return found


def targets_and_masks(device: torch.device) -> dict[str, float]:
    """Pixel targets; positions of the masked tokens, which have to be equal; motion-guided masks of a given flow."""
    load_without_decoders()
    from datasets.masks.flow_guided import guided_mask

    batch = batch_on(CPU, "pixel")
    for mask in (batch.mask, batch.mask.to(device)):
        for found, expected in zip(split_by_mask(mask, device), split_by_mask(batch.mask, CPU), strict=True):
            assert torch.equal(found.cpu(), expected), "positions of the tokens differ"
    _, masked_BM = split_by_mask(batch.mask, CPU)
    target = PixelTarget((2, 8, 8))
    expected = target(batch.clip, masked_BM)
    error = close(target.to(device)(batch.clip.to(device), masked_BM.to(device)), expected, 1e-5, "pixel targets")
    grid, generator = (2, 4, 4), torch.Generator().manual_seed(1)
    base = torch.rand(CLIPS, 16, generator=generator).argsort(dim=1).ge(4).repeat(1, 2)
    flow = 8 * torch.randn(CLIPS, 3, 2, 1, 1, generator=generator).expand(-1, -1, -1, 32, 32).contiguous()
    guided = guided_mask(base.to(device), flow.to(device), grid, 4)
    assert (guided.view(CLIPS, 2, -1).sum(dim=2) == 12).all(), "a slot has another number of masked tokens"
    share = equal_share(guided, guided_mask(base, flow, grid, 4), 0.9, "motion-guided masks")
    return {"pixel targets": error, "equal motion-guided masks": share}


def normalisation(device: torch.device) -> dict[str, float]:
    """uint8 clips with the channels last in memory, as decoded, through `Batch.to`."""
    load_without_decoders()
    from datasets.loading.batch import Batch

    clip = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    moved = Batch(clip=clip, index=torch.arange(3)).to(device)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (clip.transpose(1, 2).double() / 255 - mean) / std
    assert moved.clip.dtype == torch.float32 and moved.clip.device.type == device.type
    return {"normalised clips": close(moved.clip, expected, 1e-6, "normalised clips")}
