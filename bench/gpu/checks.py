"""A GPU against the CPU: what training computes there, and what a run relies on.

python bench/gpu/checks.py [--quick] [--device cpu] [--rows FILE]

A row for each check, with the errors that it found; one that fails says so, and the next one runs. tests/gpu has the
same checks as tests. `--device cpu` puts the CPU in the GPU's place, which shows that the checks themselves run.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import common
from bench.gpu import model_checks, run_checks
from bench.gpu.compare import NotHere
from bench.gpu.part import begin

# The most telling first, those that start processes or compile last. Each takes a device, returns what it measured, and
# raises AssertionError, or NotHere where it has no meaning.
CHECKS: dict[str, Callable[[torch.device], dict[str, float]]] = {
    **{
        f"loss and gradients, {task}, {amp}": functools.partial(model_checks.loss_and_gradients, task=task, amp=amp)
        for amp in ("none", "bf16")
        for task in common.TASKS
    },
    "codes of a step": model_checks.codes_of_a_step,
    "Sinkhorn's plan": model_checks.sinkhorn_plan,
    "Triton kernels": model_checks.triton_kernels,
    "loss against prototypes": model_checks.loss_against_prototypes,
    "targets and masks": model_checks.targets_and_masks,
    "normalisation": model_checks.normalisation,
    "fp16 and its scaler": run_checks.fp16_scaler,
    "no wait in a step": run_checks.no_wait,
    "prefetching": run_checks.prefetching,
    "captured blocks": run_checks.captured_blocks,
    "resuming": run_checks.resuming,
    "compiled blocks": run_checks.compiled_blocks,
    "DDP with compiled blocks": run_checks.ddp_with_compiled_blocks,
}
SLOW = {"resuming", "compiled blocks", "DDP with compiled blocks"}  # they compile, or start processes


def main(arguments: Sequence[str] | None = None) -> None:
    part = begin("checks", __doc__, arguments)
    for name, check in CHECKS.items():
        if part.quick and name in SLOW:
            continue
        start = time.perf_counter()
        with part.cell(name):
            try:
                found = check(part.device)
            except NotHere as reason:
                part.row(check=name, skipped=str(reason))
                continue
            part.row(check=name, passed=True, seconds=time.perf_counter() - start, **found)
    part.finish()


if __name__ == "__main__":
    main()
