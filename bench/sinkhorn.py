"""Codes and loss of the two branches, ours against the released code: alternating, medians, one run.

python bench/sinkhorn.py [--device cuda] [--clips N] [--quick] [--json FILE]

On the CPU milliseconds are CPU time of one thread; on CUDA they are wall time. 1,408 masked tokens per clip, 3,000
prototypes, 10 iterations. The baselines are written out here: as in the released code (the scores of each branch
balanced separately, the plan normalised in place by turns, the loss from permuted logits), and the leanest form that
keeps the plan. Where Triton kernels run, the loss from stored scores is compared with that in plain torch, and a pass
of Sinkhorn is measured by itself, in both forms and with four and eight warps. Memory is the peak that the call adds to
its arguments. `--quick` is a smoke run, whose numbers mean nothing.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peak import peak_bytes
from bench.released import ITERATIONS, TEMPERATURE, plan_codes
from engine.distributed.ddp import set_matmul_precision
from models.kernels.support import use_kernels
from models.objectives import SwappedClusterPrediction
from models.sinkhorn.balance import sinkhorn_codes
from models.sinkhorn.passes import SoftmaxPasses
from models.sinkhorn.prototype_loss import prototype_cross_entropy, prototype_scores

WIDTHS = {"MLP": 256, "DINO ViT-B": 768}  # of the embeddings, by target network


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    tokens: int = 1408
    prototypes: int = 3000
    rounds: int = 9


QUICK = Scale(tokens=40, prototypes=70, rounds=2)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    implementation: str
    milliseconds: float
    ratio: float
    megabytes: float
    equal_codes: float | None = None  # fraction of the tokens whose code is the float64 plan's


Implementations = dict[str, Callable[[], Any]]  # the first is the baseline

# ---- codes ----


def rescaled_codes(scores: torch.Tensor, epsilon: float) -> torch.Tensor:
    """One branch, in the leanest form that keeps the plan; in float64 the reference for all others."""
    plan = (scores / epsilon).to(torch.promote_types(scores.dtype, torch.float32)).exp_()
    for _ in range(ITERATIONS):
        plan /= plan.sum(dim=0)
        plan /= plan.sum(dim=1, keepdim=True)
    return plan.argmax(dim=1)


def bench_codes(scores_GSK: torch.Tensor, scale: Scale) -> list[Row]:
    rows = []
    for epsilon in (0.05, 0.03):
        runs: Implementations = {
            "released": lambda e=epsilon: torch.stack([plan_codes(s, e) for s in scores_GSK]),
            "plan rescaled, leanest": lambda e=epsilon: torch.stack([rescaled_codes(s, e) for s in scores_GSK]),
            "ours": lambda e=epsilon: sinkhorn_codes(scores_GSK, epsilon=e, num_iters=ITERATIONS),
        }
        reference = torch.stack([rescaled_codes(s.double(), epsilon) for s in scores_GSK])
        equal = [(function() == reference).float().mean().item() for function in runs.values()]
        rows += compare(f"codes, epsilon {epsilon}", runs, scale, scores_GSK.device.type, equal)
    return rows


def bench_passes(scores_GSK: torch.Tensor, scale: Scale) -> list[Row]:
    """One pass of ten: in plain torch, and by each form of the kernels."""
    from models.kernels.sinkhorn import TritonPasses  # here, because it imports Triton

    log_u_GK = torch.zeros(len(scores_GSK), scores_GSK.shape[2], device=scores_GSK.device)
    plain = SoftmaxPasses(scores_GSK, 0.05)
    marginals: Implementations = {"plain torch": lambda: plain.column_marginals(log_u_GK)}
    codes: Implementations = {"plain torch": lambda: plain.codes(log_u_GK)}
    for warps in (4, 8):
        for wide, form in ((False, "one shift for all rows"), (True, "row maximum")):
            passes = TritonPasses(scores_GSK, 0.05, wide=wide)
            passes.options["num_warps"] = warps
            marginals[f"{form}, {warps} warps"] = lambda p=passes: p.column_marginals(log_u_GK)
        codes[f"kernel, {warps} warps"] = lambda p=passes: p.codes(log_u_GK)
    device = scores_GSK.device.type
    return compare("a pass: marginals", marginals, scale, device) + compare("a pass: codes", codes, scale, device)


# ---- loss ----


def permuted_cross_entropy(
    embeddings: torch.Tensor, prototypes: torch.Tensor, codes: torch.Tensor, tokens: int
) -> torch.Tensor:
    """As in the released code: prototypes moved to the second axis of (B, M, K)."""
    logits = (embeddings @ prototypes.T / TEMPERATURE).unflatten(0, (-1, tokens))
    return F.cross_entropy(logits.permute(0, 2, 1).contiguous(), codes.reshape(-1, tokens))


def bench_loss(branches: Sequence[torch.Tensor], prototypes: torch.Tensor, scale: Scale, target: str) -> list[Row]:
    """Forward and backward of the target branch, whose prototypes get a gradient too."""
    x = branches[0].detach().requires_grad_()
    scores = prototype_scores((x,), prototypes)[0]
    codes = sinkhorn_codes(scores, epsilon=0.05, num_iters=ITERATIONS)
    loss = lambda s: prototype_cross_entropy(x, prototypes, codes, temperature=TEMPERATURE, scores_SK=s)  # noqa: E731
    runs: Implementations = {
        "released": lambda: permuted_cross_entropy(x, prototypes, codes, scale.tokens).backward(),
        "F.cross_entropy, flat": lambda: F.cross_entropy(x @ prototypes.T / TEMPERATURE, codes).backward(),
        "ours": lambda: loss(None).backward(),
    }
    if hasattr(F, "linear_cross_entropy"):  # torch 2.13
        chunked = torch.nn.LinearCrossEntropyOptions()
        runs["F.linear_cross_entropy, chunked"] = lambda: F.linear_cross_entropy(
            x / TEMPERATURE, prototypes, codes, options=chunked
        ).backward()
    if scores.dtype == torch.float32 or use_kernels(scores.device):  # else they would be ignored
        runs["ours, with Sinkhorn's scores"] = lambda: loss(scores).backward()
    return compare(f"cross-entropy, {target}", runs, scale, x.device.type)


def released_objective(branches: Sequence[torch.Tensor], prototypes: torch.Tensor, tokens: int) -> None:
    """Scores, codes, both losses, backward; the scores in half precision on CUDA, as under the released autocast."""
    dtype = torch.float16 if prototypes.is_cuda else torch.float32
    weights = (prototypes.detach(), prototypes)
    embeddings = [F.normalize(branch, dim=-1) for branch in branches]
    scores = [x.to(dtype) @ w.to(dtype).T for x, w in zip(embeddings, weights, strict=True)]
    codes = [plan_codes(s.detach(), 0.05) for s in scores]
    losses = []
    for score, code in zip(scores, reversed(codes), strict=True):
        logits = (score / TEMPERATURE).unflatten(0, (-1, tokens)).permute(0, 2, 1)
        losses.append(F.cross_entropy(logits.float().contiguous(), code.reshape(-1, tokens)))
    (losses[0] + losses[1]).backward()


def bench_objective(branches: Sequence[torch.Tensor], prototypes: torch.Tensor, scale: Scale, target: str) -> list[Row]:
    leaves = [branch.detach().requires_grad_() for branch in branches]
    objective = SwappedClusterPrediction(epsilon=0.05, num_iters=ITERATIONS)
    clips = [leaf.unflatten(0, (-1, scale.tokens)) for leaf in leaves]
    runs: Implementations = {
        "released": lambda: released_objective(leaves, prototypes, scale.tokens),
        "ours": lambda: objective(*clips, prototypes)["loss"].backward(),
    }
    return compare(f"objective, forward and backward, {target}", runs, scale, prototypes.device.type)


# ---- measuring ----


def seconds(function: Callable[[], Any], device: str) -> float:
    """Of one call: CPU time, or on CUDA wall time until the device is idle."""
    if device == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    what: str, runs: Implementations, scale: Scale, device: str, equal_codes: Sequence[float | None] | None = None
) -> list[Row]:
    """Medians of alternating calls; the ratios are medians of the rounds' ratios."""
    peaks = [peak_bytes(function, device) / 1e6 for function in runs.values()]  # also warms up
    rounds = [[seconds(function, device) for function in runs.values()] for _ in range(scale.rounds)]
    rows = []
    for i, (name, equal) in enumerate(zip(runs, equal_codes or [None] * len(runs), strict=True)):
        ratio = statistics.median(times[0] / max(times[i], 1e-9) for times in rounds)
        rows.append(Row(what, name, 1000 * statistics.median(t[i] for t in rounds), ratio, peaks[i], equal))
    return rows


def facts(device: str, clips: int) -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": date.today().isoformat(),
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu, one thread",
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "clips": str(clips),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def markdown(found: Sequence[Row]) -> str:
    lines = ["| what | implementation | ms | speed-up | MB | codes as in float64, % |", "|---|---|---|---|---|---|"]
    for row in found:
        equal = "" if row.equal_codes is None else f"{100 * row.equal_codes:.2f}"
        numbers = f"{row.milliseconds:.4g} | {row.ratio:.2f} | {row.megabytes:.0f}"
        lines.append(f"| {row.what} | {row.implementation} | {numbers} | {equal} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clips", type=int, help="batch size; 2 on the CPU, 32 on CUDA")
    parser.add_argument("--quick", action="store_true", help="a smoke run of some seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    set_matmul_precision(torch.device(options.device), "bf16")  # as in bf16 training; for all implementations
    scale = QUICK if options.quick else Scale()
    clips = options.clips or (2 if options.device == "cpu" else 32)
    found = []
    for target, width in WIDTHS.items():
        generator = torch.Generator().manual_seed(0)
        sizes = (scale.prototypes, clips * scale.tokens, clips * scale.tokens)
        prototypes, *branches = (
            F.normalize(torch.randn(size, width, generator=generator), dim=1).to(options.device) for size in sizes
        )
        prototypes.requires_grad_()
        if not found:
            scores_GSK = prototype_scores(tuple(branches), prototypes)
            found += bench_codes(scores_GSK, scale)
            found += bench_passes(scores_GSK, scale) if use_kernels(scores_GSK.device) else []
            del scores_GSK
        found += bench_loss(branches, prototypes, scale, target)
        found += bench_objective(branches, prototypes, scale, target)
    about = facts(options.device, clips)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(markdown(found))
    if options.json:
        options.json.write_text(json.dumps({"facts": about, "rows": [asdict(row) for row in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
