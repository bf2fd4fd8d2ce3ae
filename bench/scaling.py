"""Scaling of the training step over processes: 1, 2, ... ranks on one machine, by torchrun.

python bench/scaling.py [--ranks 1 2] [--tasks mlp pixel] [--sizes small] [--batch 4] [--amp bf16] [--device cpu]
                        [--rounds R] [--compile] [--json FILE] [--quick]

Weak: every rank has --batch clips. Strong: all ranks together have --batch x the largest number of ranks. Efficiency is
clips a second of n ranks, over n times those of one. Seconds are the wall clock's, medians, all ranks in step; on a CPU
each rank has one thread, so n ranks need n free cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Cell
from bench.ours import OurStep
from engine.distributed.world import all_reduce_sum, distributed
from models.vit import VARIANTS


def worker(options: argparse.Namespace) -> None:
    """One rank: times steps, and leaves their median in --result."""
    torch.set_num_threads(1)
    cell = Cell(options.tasks[0], options.sizes[0], options.quick)
    with distributed(options.device) as world:
        balanced = {} if cell.task == "finetune" else {"all_reduce": all_reduce_sum}
        step = OurStep(cell, world=world, amp=options.amp, compiled=options.compile, **balanced)
        batch = common.synthetic_batch(cell, options.batch, world.device)
        seconds = []
        for _ in range(options.rounds + 2):
            all_reduce_sum(torch.zeros(1, device=world.device)).item()  # all ranks begin together
            start = time.perf_counter()
            loss = step(batch)
            all_reduce_sum(loss.reshape(1).clone()).item()  # and end together
            seconds.append(time.perf_counter() - start)
        if world.is_main:
            options.result.write_text(json.dumps(statistics.median(seconds[2:])))


def seconds_of(options: argparse.Namespace, cell: Cell, ranks: int, clips: int) -> float:
    """Of a step of so many ranks with so many clips each."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command += [__file__, "--result", str(result), "--tasks", cell.task, "--sizes", cell.size]
        command += ["--batch", str(clips), "--rounds", str(options.rounds), "--device", options.device]
        command += ["--amp", options.amp, *(["--compile"] if options.compile else [])]
        subprocess.run([*command, *(["--quick"] if cell.quick else [])], check=True)
        return float(json.loads(result.read_text()))


def rows_of(options: argparse.Namespace, cell: Cell) -> list[dict]:
    rows = []
    for kind in ("weak", "strong"):
        total = options.batch * max(options.ranks)
        alone = None
        for ranks in options.ranks:
            clips = options.batch if kind == "weak" else total // ranks
            seconds = seconds_of(options, cell, ranks, clips)
            rate = ranks * clips / seconds
            alone = alone or rate / ranks
            rows.append(
                {
                    "cell": cell.name,
                    "scaling": kind,
                    "ranks": ranks,
                    "clips a rank": clips,
                    "s / step": seconds,
                    "clips / s": rate,
                    "efficiency": rate / ranks / alone,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="the first is what others are compared to")
    parser.add_argument("--tasks", nargs="+", choices=common.TASKS, default=["mlp", "pixel"])
    parser.add_argument("--sizes", nargs="+", choices=sorted(VARIANTS), default=["small"])
    parser.add_argument("--batch", type=int, default=64 if on_gpu else 2, help="clips of a rank")
    parser.add_argument("--amp", choices=["none", "bf16"], default="bf16" if on_gpu else "none")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if on_gpu else "cpu")
    parser.add_argument("--rounds", type=int, default=10 if on_gpu else 3, help="steps")
    parser.add_argument("--compile", action="store_true", help="with compiled blocks")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny models, whose numbers mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)  # of a rank
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes = ["mini"]
    if options.result:
        worker(options)
        return
    about = common.facts(torch.device(options.device))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows: list[dict] = []
    for size in options.sizes:
        for task in options.tasks:
            found = rows_of(options, Cell(task, size, options.quick))
            print(common.markdown(found), flush=True)
            rows += found
            common.write_json(about, rows, options.json)


if __name__ == "__main__":
    main()
