"""Balanced codes: models.sinkhorn against the plan rescaled in place, alternating in one process, one thread.

python bench/sinkhorn.py; 2,816 samples (two clips of 1,408 masked tokens) x 3,000 prototypes, 10 iterations.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.sinkhorn import sinkhorn_codes

SAMPLES, PROTOTYPES, WIDTH, ITERATIONS, REPEATS = 2816, 3000, 256, 10, 7


def rescaled_plan_codes(scores: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The plan itself, its columns and rows normalised in turn; the oracle when given float64."""
    plan = (scores / epsilon).exp()
    plan /= plan.sum()
    for _ in range(ITERATIONS):
        plan /= plan.sum(0, keepdim=True) * PROTOTYPES
        plan /= plan.sum(1, keepdim=True) * SAMPLES
    return plan.argmax(1)


def seconds(function: Callable[[], torch.Tensor]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    samples, prototypes = (
        F.normalize(torch.randn(number, WIDTH, generator=generator), dim=-1) for number in (SAMPLES, PROTOTYPES)
    )
    scores = samples @ prototypes.T
    print(f"torch {torch.__version__}, {SAMPLES} x {PROTOTYPES}, {ITERATIONS} iterations, medians of {REPEATS}")
    for epsilon in (0.05, 0.03):
        ours = lambda e=epsilon: sinkhorn_codes(scores, epsilon=e, num_iters=ITERATIONS)  # noqa: E731
        plain = lambda e=epsilon: rescaled_plan_codes(scores, e)  # noqa: E731
        times = [(seconds(plain), seconds(ours)) for _ in range(REPEATS)]
        plain_time, our_time = (statistics.median(column) for column in zip(*times, strict=True))
        equal = (ours() == rescaled_plan_codes(scores.double(), epsilon)).float().mean().item()
        print(
            f"eps {epsilon}: rescaled plan {plain_time:.3f} s, ours {our_time:.3f} s, {plain_time / our_time:.2f}x, "
            f"{100 * equal:.2f} % of the codes equal to float64's"
        )


if __name__ == "__main__":
    main()
