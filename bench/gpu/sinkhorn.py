"""Sinkhorn, its passes apart and in every form, and the loss against prototypes in both ways.

python bench/gpu/sinkhorn.py [--quick] [--device cpu] [--rows FILE]

Both branches of 32 and 64 clips of 1,408 masked tokens, 3,000 prototypes, 10 iterations, random embeddings. GB/s count
the scores read once (the loss: also its error written once). Codes are compared with those of a plan in float64, which
is made of the first 4,096 samples of a branch.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gpu.part import Part, begin, milliseconds
from bench.released import ITERATIONS, TEMPERATURE
from bench.sinkhorn import released_objective, rescaled_codes
from engine.distributed.ddp import set_matmul_precision
from models.objectives import SwappedClusterPrediction
from models.sinkhorn.balance import sinkhorn_codes
from models.sinkhorn.passes import Passes, passes_over
from models.sinkhorn.prototype_loss import prototype_cross_entropy, prototype_scores

EPSILON = 0.05
WIDTHS = {"MLP": 256, "DINO ViT-B": 768}  # of the embeddings, by target network


@dataclass(frozen=True)
class Scale:
    """Sizes of a measurement."""

    tokens: int = 1408
    prototypes: int = 3000
    clips: tuple[int, ...] = (32, 64)
    rounds: int = 10


QUICK = Scale(tokens=20, prototypes=24, clips=(1,), rounds=1)


def embeddings(scale: Scale, clips: int, width: int, device: torch.device) -> list[torch.Tensor]:
    """Prototypes (K, P), with gradient, and two branches (S, P), all of unit rows."""
    generator = torch.Generator(device).manual_seed(0)
    sizes = (scale.prototypes, clips * scale.tokens, clips * scale.tokens)
    return [
        F.normalize(torch.randn(size, width, generator=generator, device=device), dim=1).requires_grad_()
        for size in sizes
    ]


def backward(loss: torch.Tensor, rows: Sequence[torch.Tensor]) -> None:
    """Gradients of the rows, not added to those of the call before, which would take its own time."""
    for row in rows:
        row.grad = None
    loss.backward()


def report_codes(part: Part, scores_GSK: torch.Tensor, scale: Scale, clips: int) -> None:
    """All iterations, and their result."""
    for epsilon in (EPSILON, 0.03, 0.02):
        took = milliseconds(
            lambda e=epsilon: sinkhorn_codes(scores_GSK, epsilon=e, num_iters=ITERATIONS), part.device, scale.rounds
        )
        few_SK = scores_GSK[0, :4096]
        expected = rescaled_codes(few_SK.double(), epsilon)
        equal = (sinkhorn_codes(few_SK, epsilon=epsilon, num_iters=ITERATIONS) == expected).double().mean().item()
        part.row(sinkhorn="codes of both branches", clips=clips, epsilon=epsilon, ms=took, equal_codes=equal)


def forms_of(passes: Passes) -> list[tuple[str, Passes]]:
    """The kernels with each number of warps, with and without a row's maximum; none of plain PyTorch."""
    options = getattr(passes, "options", None)
    if options is None:
        return []
    forms = []
    for wide in (False, True):
        for warps in (4, 8):
            form: Any = type(passes).__new__(type(passes))
            form.__dict__ = {**vars(passes), "wide": wide, "options": {**options, "num_warps": warps}}
            forms.append((f"{'row maximum' if wide else 'one shift'}, {warps} warps", form))
    return forms


def report_passes(part: Part, scores_GSK: torch.Tensor, scale: Scale, clips: int) -> None:
    """Each pass alone; the default form has the row "as chosen"."""
    chosen = passes_over(scores_GSK, EPSILON)
    log_u_GK = -chosen.initial_marginals().clamp_min(1e-30).log().float()
    for form, passes in [("as chosen", chosen), *forms_of(chosen)]:
        for name, call in (
            ("initial_marginals", passes.initial_marginals),
            ("column_marginals", lambda p=passes: p.column_marginals(log_u_GK)),
            ("codes", lambda p=passes: p.codes(log_u_GK)),
        ):
            took = milliseconds(call, part.device, scale.rounds)
            gigabytes = scores_GSK.nbytes / took / 1e6
            part.row(**{"pass": name}, form=form, clips=clips, ms=took, GB_per_s=gigabytes)


def report_loss(part: Part, rows: Sequence[torch.Tensor], scale: Scale, clips: int, target: str) -> None:
    """Loss and gradients of the target branch: from Sinkhorn's scores, and from scores computed again in blocks."""
    prototypes, branch, _ = rows
    scores = prototype_scores((branch.detach(),), prototypes)[0]
    codes = sinkhorn_codes(scores, epsilon=EPSILON, num_iters=ITERATIONS)
    for name, given in (("from the stored scores", scores), ("computed again", None)):

        def call(given: torch.Tensor | None = given) -> None:
            loss = prototype_cross_entropy(branch, prototypes, codes, temperature=TEMPERATURE, scores_SK=given)
            backward(loss, rows)

        took = milliseconds(call, part.device, scale.rounds)
        part.row(loss=name, target=target, clips=clips, ms=took, GB_per_s=2 * scores.nbytes / took / 1e6)


def report_objective(part: Part, rows: Sequence[torch.Tensor], scale: Scale, clips: int, target: str) -> None:
    """Forward and backward of the whole objective, and of the released code's."""
    prototypes, *branches = rows
    objective = SwappedClusterPrediction(epsilon=EPSILON, num_iters=ITERATIONS)

    def call() -> None:
        loss = objective(*(branch.unflatten(0, (clips, -1)) for branch in branches), prototypes)["loss"]
        backward(loss, rows)

    ours = milliseconds(call, part.device, scale.rounds)
    part.row(objective="ours", target=target, clips=clips, ms=ours)

    def released() -> None:
        for row in rows:
            row.grad = None
        released_objective(branches, prototypes, scale.tokens)

    theirs = milliseconds(released, part.device, 3)
    part.row(objective="released", target=target, clips=clips, ms=theirs, speed_up=theirs / ours)


def main(arguments: Sequence[str] | None = None) -> None:
    part = begin("sinkhorn", __doc__, arguments)
    scale = QUICK if part.quick else Scale()
    set_matmul_precision(part.device, "bf16")  # as in bf16 training
    for clips in scale.clips:
        for target, width in WIDTHS.items():
            rows = embeddings(scale, clips, width, part.device)
            if target == "MLP":
                scores_GSK = prototype_scores(tuple(row.detach() for row in rows[1:]), rows[0])
                with part.cell(f"codes, {clips} clips"):
                    report_codes(part, scores_GSK, scale, clips)
                with part.cell(f"passes, {clips} clips"):
                    report_passes(part, scores_GSK, scale, clips)
                del scores_GSK
            with part.cell(f"loss, {target}, {clips} clips"):
                report_loss(part, rows, scale, clips, target)
            with part.cell(f"objective, {target}, {clips} clips"):
                report_objective(part, rows, scale, clips, target)
    part.finish()


if __name__ == "__main__":
    main()
