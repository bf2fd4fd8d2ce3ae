"""Two processes on one GPU: DDP with compiled blocks, torch's optimizer for DDP (`optimize_ddp`) on and off.

python bench/gpu/ddp.py [--quick] [--device cpu] [--rows FILE]

Pixels, ViT-B, 16 clips per rank. Two ranks over gloo show that it works, and what it launches; their communication
goes through host memory, so their milliseconds are not those of two GPUs. One rank in a process group of its own (NCCL
on a GPU), whose model is wrapped in DDP all the same, shows what DDP and the cutting of graphs cost without it.
"graphs" counts what torch.compile made.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import common
from bench.common import Cell, Clock
from bench.gpu.part import Part, begin, synchronize
from bench.gpu.processes import in_processes
from bench.ours import OurStep
from engine.distributed.world import World

MODES = {  # compiled, optimize_ddp
    "compiled, optimize_ddp off": (True, False),
    "compiled, optimize_ddp on": (True, True),
    "not compiled": (False, False),
}


def measure(world: World, part: Part, *, size: str, clips: int, rounds: int) -> None:
    """All modes in the processes of one group; the main rank writes the rows."""
    cell = Cell("pixel", size, part.quick)
    batch = common.synthetic_batch(cell, clips, world.device)
    for mode, (compiled, optimize_ddp) in MODES.items():
        if part.quick and optimize_ddp:
            continue
        torch._dynamo.reset()
        counters.clear()
        step = OurStep(cell, world=world, amp="bf16", compiled=compiled)
        if world.size == 1:
            step.backend.model = DistributedDataParallel(step.model, gradient_as_bucket_view=True)
        # After the blocks have been set up to be compiled, which may set it too.
        torch._dynamo.config.optimize_ddp = optimize_ddp
        start = time.perf_counter()
        for _ in range(2):
            loss = step(batch)
        synchronize(world.device)
        ready = time.perf_counter() - start
        clock = Clock(world.device)
        clock.start()
        start = time.perf_counter()
        for _ in range(rounds):
            loss = step(batch)
        clock.mark("steps")
        synchronize(world.device)
        seconds = time.perf_counter() - start
        if world.is_main:
            part.row(
                ddp=mode,
                ranks=world.size,
                clips=clips,
                ms=1000 * seconds / rounds,
                stream_ms=1000 * clock.stages()["step"] / rounds,
                seconds_to_start=ready,
                graphs=counters["stats"]["unique_graphs"],
                loss=loss.item(),
            )


def main(arguments: Sequence[str] | None = None) -> None:
    part = begin("ddp", __doc__, arguments)
    options = {"size": "mini", "clips": 2, "rounds": 1} if part.quick else {"size": "base", "clips": 16, "rounds": 6}
    alone = "nccl" if part.device.type == "cuda" else "gloo"
    for ranks, group in ((2, "gloo"), (1, alone)):
        with part.cell(f"{ranks} rank(s), {group}"):
            in_processes("bench.gpu.ddp:measure", part, ranks=ranks, group=group, **options)
    part.finish()


if __name__ == "__main__":
    main()
