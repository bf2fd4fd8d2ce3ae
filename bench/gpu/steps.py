"""Where the time of a training step goes: the four tasks on ViT-B, with the host's share and a table of kernels.

python bench/gpu/steps.py [--quick] [--device cpu] [--rows FILE]

For each task, first without torch.compile, then, all over again, with it, and at last with compiled blocks that are
replayed as CUDA graphs (pixels and SIGMA-MLP): milliseconds of a step in a series that
nothing waits in ("ms"), milliseconds in which the host alone has enqueued a step ("host ms": the GPU starves where it
is not well below "ms"), peak memory, stages; and by torch's profiler, over three steps: kernels launched in a step, how
long the GPU is busy, and the kernels that take the most time.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import common
from bench.common import Cell, Clock
from bench.gpu.part import Part, begin, synchronize
from bench.ours import OurStep, one_process

PROFILED_STEPS = 3
SHOWN_KERNELS = 10


def report(part: Part, cell: Cell, *, clips: int, compiled: bool, captured: bool) -> None:
    device = part.device
    start = time.perf_counter()
    step = OurStep(cell, world=one_process(device), amp="bf16", compiled=compiled, captured=captured)
    batch = common.synthetic_batch(cell, clips, device)
    for _ in range(3):
        step(batch)
    synchronize(device)
    ready = time.perf_counter() - start
    rounds = 2 if part.quick else 8
    stages, host = alone(step, batch, rounds)
    series = in_series(step, batch, rounds)
    named = {"cell": cell.name, "compiled": compiled, "CUDA graphs": captured, "clips": clips}
    part.row(
        **named,
        ms=1000 * series,
        **{"clips/s": clips / series},
        host_ms=1000 * host,
        seconds_to_start=ready,
        GiB=torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        stages={stage: 1000 * seconds for stage, seconds in stages.items()},
    )
    report_kernels(part, named, step, batch)


def alone(step: OurStep, batch: Any, rounds: int) -> tuple[dict[str, float], float]:
    """Medians of steps that start on an idle device: seconds by stage, and seconds until the host is through."""
    if step.clock.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found, host = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        step(batch)
        host.append(time.perf_counter() - start)
        found.append(step.clock.stages())  # waits
    medians = {stage: statistics.median(row.get(stage, 0.0) for row in found) for stage in found[0]}
    return medians, statistics.median(host)


def in_series(step: OurStep, batch: Any, rounds: int) -> float:
    """Seconds of a step among others, as in training."""
    clock = Clock(step.clock.device)
    step(batch)
    clock.start()
    for _ in range(rounds):
        step(batch)
    clock.mark("steps")
    return clock.stages()["step"] / rounds


def report_kernels(part: Part, named: dict[str, Any], step: OurStep, batch: Any) -> None:
    """What runs on the device in three steps; without a GPU, torch's operators."""
    on_gpu = part.device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        for _ in range(PROFILED_STEPS):
            step(batch)
        synchronize(part.device)
    kernels = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiled.key_averages()
        if (event.device_type == DeviceType.CUDA) == on_gpu and not event.is_user_annotation
    ]
    kernels.sort(reverse=True)
    to_ms = 1 / 1000 / PROFILED_STEPS
    launches = sum(count for _, count, _ in kernels) / PROFILED_STEPS
    part.row(**named, launches=launches, busy_ms=to_ms * sum(time for time, *_ in kernels))
    for microseconds, count, kernel in kernels[:SHOWN_KERNELS]:
        part.row(**named, kernel=kernel[:90], ms=to_ms * microseconds, calls=count / PROFILED_STEPS)


def main(arguments: Sequence[str] | None = None) -> None:
    part = begin("steps", __doc__, arguments)
    size, clips = ("mini", 2) if part.quick else ("base", 64)
    graphed = ("pixel", "mlp") if part.device.type == "cuda" else ()
    compiled_in_quick = ("pixel",) if part.quick else common.TASKS
    forms = ((False, False, common.TASKS), (True, False, compiled_in_quick), (True, True, graphed))
    for compiled, captured, tasks in forms:
        for task in tasks:
            cell = Cell(task, size, part.quick)
            with part.cell(f"{cell.name}{', compiled' if compiled else ''}{', CUDA graphs' if captured else ''}"):
                report(part, cell, clips=clips, compiled=compiled, captured=captured)
    part.finish()


if __name__ == "__main__":
    main()
