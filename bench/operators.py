"""Where the time of our training step goes on a CPU: torch's operators by input shapes, with the throughput of GEMMs.

python bench/operators.py [--task pixel] [--size small] [--amp bf16] [--batch B] [--rows N] [--json FILE] [--quick]

By torch's profiler, over three steps of one thread, per step. Profiling adds some time to every operator.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Cell
from bench.ours import OurStep, one_process
from models.vit import VARIANTS

STEPS = 3


def rows_of(cell: Cell, clips: int, amp: str) -> list[dict]:
    """A row for each operator and shape, the slowest first; `GFLOP/s` of matrix multiplications only."""
    device = torch.device("cpu")
    batch = common.synthetic_batch(cell, clips, device)
    step = OurStep(cell, world=one_process(device), amp=amp)
    step(batch)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as profiled:
        for _ in range(STEPS):
            step(batch)
    rows = [
        {
            "operator": event.key,
            "shapes": str([shape for shape in event.input_shapes if shape]),
            "calls": event.count // STEPS,
            "ms": event.self_cpu_time_total / STEPS / 1000,
            # The profiler counts some elementwise operators too.
            "GFLOP/s": event.flops / event.self_cpu_time_total / 1000 if event.key.endswith("mm") else None,
        }
        for event in profiled.key_averages(group_by_input_shape=True)
        if event.self_cpu_time_total
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def sums(rows: Sequence[dict]) -> list[dict]:
    """The step's time by kind of operator."""
    kinds = {"matmul": 0.0, "softmax": 0.0, "copies and casts": 0.0, "other": 0.0}
    for row in rows:
        name = row["operator"]
        kind = "matmul" if row["GFLOP/s"] is not None else "softmax" if "softmax" in name else "other"
        kinds["copies and casts" if name == "aten::copy_" else kind] += row["ms"]
    return [{"kind": kind, "ms": total} for kind, total in kinds.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", choices=common.TASKS, default="pixel")
    parser.add_argument("--size", choices=sorted(VARIANTS), default="small")
    parser.add_argument("--amp", choices=["none", "bf16"], default="bf16")
    parser.add_argument("--batch", type=int, default=2, help="clips")
    parser.add_argument("--rows", type=int, default=20, help="operators shown")
    parser.add_argument("--quick", action="store_true", help="a smoke run on a tiny model, whose numbers mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and all rows there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    about = common.facts(device) | {"GEMM peak, GFLOP/s": common.gemm_flops(device, options.amp) / 1e9}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    cell = Cell(options.task, "mini" if options.quick else options.size, options.quick)
    rows = rows_of(cell, options.batch, options.amp)
    total = sums(rows)
    print(common.markdown(rows[: options.rows]))
    print(common.markdown(total))
    common.write_json(about | {"cell": cell.name, "amp": options.amp}, [*total, *rows], options.json)


if __name__ == "__main__":
    main()
