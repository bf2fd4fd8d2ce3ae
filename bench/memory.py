"""Memory of the training step: the largest batch that a GPU holds, or the peak of a process on a CPU.

python bench/memory.py [--tasks ...] [--sizes ...] [--amp bf16] [--batches 2 8] [--device cpu] [--json FILE]
                       [--rows FILE] [--implementations ...] [--quick]

Three implementations: ours, ours with --use_checkpoint (activation checkpointing), and the released code
(bench/released.py). On a GPU the peak is what torch has allocated, for each of --batches; the largest batch is
extrapolated linearly from the first two, then tried, and reduced by 5 % until it fits. On a CPU it is the most resident
memory of a separate process, less what was resident after a step of a tiny model: Python and its libraries. In that
process glibc takes memory of 1 MiB or more back at once; by default it keeps holes, which differ from run to run.
Beside each of our peaks stands what `--memory_plan` estimates (engine/memory_plan), in the same unit.
"""

import argparse
import gc
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Cell, Clock
from bench.ours import OurStep, build_model, build_optimizer_of, build_teacher_of, one_process
from bench.step import released_step
from engine.memory import most_resident
from engine.memory_plan.step import measure_step
from engine.pretraining import PretrainingForward
from engine.tasks.classification import Classification
from models.kernels.support import planned_for_gpu
from models.vit import VARIANTS

IMPLEMENTATIONS = ("released", "ours", "ours, activation checkpointing")
OURS = IMPLEMENTATIONS[1:]
STEPS = 2  # the optimizer's state exists from the second on


def peak(implementation: str, cell: Cell, clips: int, amp: str, device_name: str) -> int | None:
    """Peak memory of some steps in bytes; None if they do not fit. On a CPU only valid in a fresh process."""
    device = torch.device(device_name)
    torch.set_num_threads(1)
    before = 0 if device.type == "cuda" else resident_after_a_tiny_step(amp)
    if device.type == "cuda":
        gc.collect()  # what is left of the previous batch
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        batch = common.synthetic_batch(cell, clips, device)
        if implementation == "released":
            baseline, clock = released_step(cell, device, amp), Clock(device)
            for _ in range(STEPS):
                baseline(batch, clock)
        else:
            step = OurStep(cell, world=one_process(device), amp=amp, use_checkpoint=implementation != "ours")
            for _ in range(STEPS):
                step(batch)
    except torch.OutOfMemoryError:
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return most_resident() - before


def resident_after_a_tiny_step(amp: str) -> int:
    """Bytes of this process, once everything that a step needs of torch's libraries has been loaded."""
    cell, device = Cell("mlp", "mini", quick=True), torch.device("cpu")
    OurStep(cell, world=one_process(device), amp=amp)(common.synthetic_batch(cell, 1, device))
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def estimate(implementation: str, cell: Cell, clips: int, amp: str, device_name: str) -> int:
    """What `--memory_plan` finds for `peak` of our step, in bytes."""
    with torch.device("meta"):
        options = {} if cell.task == "finetune" else {"sinkhorn_iterations": 2}  # more take no more memory
        model = build_model(cell, use_checkpoint=implementation != "ours", **options)
        teacher = build_teacher_of(cell, model, amp) if cell.task == "dino" else None

    def batch() -> SimpleNamespace:
        return SimpleNamespace(
            clip=torch.empty(clips, 3, cell.num_frames, cell.img_size, cell.img_size),
            mask=torch.empty(clips, math.prod(cell.grid), dtype=torch.bool, device="meta"),
            label=torch.empty(clips, dtype=torch.int64),
        )

    def forward(batch: SimpleNamespace) -> dict[str, torch.Tensor]:
        if cell.task == "finetune":
            return {"loss": Classification(None, 0.1)(model, batch)["loss"]}
        return {"loss": PretrainingForward(teacher=teacher).outputs(model, batch, cell.num_masked)["loss"]}

    optimizer = partial(build_optimizer_of, cell=cell)
    with planned_for_gpu(device_name == "cuda"):
        frozen = [teacher] if teacher else []
        return measure_step(model, forward, batch=batch, optimizer=optimizer, amp=amp, frozen=frozen).total


def beside(peaks: dict[int, int], implementation: str, cell: Cell, amp: str, device_name: str) -> dict[str, float]:
    """The estimates in GiB, and by how many percent they miss what was measured."""
    row = {}
    for clips, found in peaks.items() if implementation in OURS else ():
        estimated = estimate(implementation, cell, clips, amp, device_name)
        row[f"estimate, {clips} clips"] = estimated / 2**30
        row[f"off by %, {clips} clips"] = 100 * (estimated / found - 1)
    return row


def largest(peaks: dict[int, int], measure: Callable[[int], int | None]) -> int | None:
    """The largest batch that fits into the GPU's memory; None without two peaks to extrapolate from."""
    (few, low), (many, high) = [*peaks.items(), (0, 0), (0, 0)][:2]
    if not low or not high:
        return None
    total = torch.cuda.get_device_properties(0).total_memory
    a_clip = (high - low) / (many - few)
    clips = int((total - low) / a_clip) + few
    while clips > many and measure(clips) is None:
        clips = int(0.95 * clips)
    return clips


def row_of(
    implementation: str, cell: Cell, *, batches: Sequence[int], amp: str, device_name: str
) -> dict[str, str | float | None]:
    """Measured in a child process: one for all batches on a GPU, where start-up is slow, one for each on a CPU."""
    on_gpu = device_name == "cuda"
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))  # of the child: read as it starts
    row: dict[str, str | float | None] = {"cell": cell.name, "implementation": implementation, "amp": amp}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=None if on_gpu else 1) as pool:

        def measure(clips: int) -> int | None:
            return pool.apply(peak, (implementation, cell, clips, amp, device_name))

        peaks = {clips: found for clips in batches if (found := measure(clips))}
        row |= {f"GiB, {clips} clips": peaks[clips] / 2**30 if clips in peaks else None for clips in batches}
        if on_gpu:
            row["largest batch"] = largest(peaks, measure)
    return row | beside(peaks, implementation, cell, amp, device_name)


def main(arguments: Sequence[str] | None = None) -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=common.TASKS, default=list(common.TASKS))
    parser.add_argument("--sizes", nargs="+", choices=sorted(VARIANTS), default=["base", "small"])
    parser.add_argument("--amp", choices=["none", "bf16"], default="bf16" if on_gpu else "none")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if on_gpu else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64] if on_gpu else [2, 8])
    parser.add_argument("--implementations", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny models, whose numbers mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="append each row there, as JSON lines")
    options = parser.parse_args(arguments)
    about = common.facts(torch.device(options.device))
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    common.append_rows("memory", about, [about], options.rows)
    rows: list[dict] = []
    for size in ["mini"] if options.quick else options.sizes:
        for task in options.tasks:
            cell = Cell(task, size, options.quick)
            for implementation in options.implementations:
                row = row_of(implementation, cell, batches=options.batches, amp=options.amp, device_name=options.device)
                rows.append(row)
                print(", ".join(f"{key} {common.shown(value)}" for key, value in row.items()), flush=True)
                common.append_rows("memory", about, [row], options.rows)
                common.write_json(about, rows, options.json)  # now: whatever happens to the next
            print(common.markdown(rows[-len(options.implementations) :]), flush=True)


if __name__ == "__main__":
    main()
