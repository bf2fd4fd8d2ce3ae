"""Scaling of the training step over processes: 1, 2, ... ranks on one machine, by torchrun.

python bench/scaling.py [--ranks 1 2] [--tasks mlp pixel] [--sizes small] [--batch 4] [--amp bf16] [--device cpu]
                        [--rounds R] [--compile] [--json FILE] [--quick]

Weak scaling: every rank has --batch clips. Strong: all ranks together have --batch x the largest number of ranks.
Efficiency is clips per second of n ranks over n times those of one. Seconds are wall time, medians, all ranks in step;
on a CPU each rank has one thread, so n ranks need n free cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Cell
from bench.ours import OurStep
from engine.distributed.collectives import all_reduce_sum
from engine.distributed.world import distributed
from models.vit import VARIANTS


@dataclass(frozen=True)
class Setup:
    """How a step is made and how often it is timed."""

    device: str
    amp: str
    rounds: int
    compiled: bool


def worker(setup: Setup, cell: Cell, *, clips: int, result: Path) -> None:
    """One rank: times steps; rank 0 writes their median to `result`."""
    torch.set_num_threads(1)
    with distributed(setup.device) as world:
        balanced = {} if cell.task == "finetune" else {"all_reduce": all_reduce_sum}
        step = OurStep(cell, world=world, amp=setup.amp, compiled=setup.compiled, **balanced)
        batch = common.synthetic_batch(cell, clips, world.device)
        seconds = []
        for _ in range(setup.rounds + 2):
            all_reduce_sum(torch.zeros(1, device=world.device)).item()  # all ranks start together
            start = time.perf_counter()
            loss = step(batch)
            all_reduce_sum(loss.reshape(1).clone()).item()  # and finish together
            seconds.append(time.perf_counter() - start)
        if world.is_main:
            result.write_text(json.dumps(statistics.median(seconds[2:])))


def seconds_of(setup: Setup, cell: Cell, *, ranks: int, clips: int) -> float:
    """Seconds per step of so many ranks with so many clips each."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command += [__file__, "--result", str(result), "--tasks", cell.task, "--sizes", cell.size]
        command += ["--batch", str(clips), "--rounds", str(setup.rounds), "--device", setup.device]
        command += ["--amp", setup.amp, *(["--compile"] if setup.compiled else [])]
        subprocess.run([*command, *(["--quick"] if cell.quick else [])], check=True)
        return float(json.loads(result.read_text()))


def rows_of(setup: Setup, cell: Cell, *, all_ranks: Sequence[int], batch: int) -> list[dict]:
    """One row per kind of scaling and number of ranks; the first number is what the others are compared with."""
    rows = []
    for kind in ("weak", "strong"):
        total = batch * max(all_ranks)
        alone = None
        for ranks in all_ranks:
            clips = batch if kind == "weak" else total // ranks
            seconds = seconds_of(setup, cell, ranks=ranks, clips=clips)
            clips_per_second = ranks * clips / seconds
            alone = alone or clips_per_second / ranks
            rows.append(
                {
                    "cell": cell.name,
                    "scaling": kind,
                    "ranks": ranks,
                    "clips per rank": clips,
                    "s / step": seconds,
                    "clips / s": clips_per_second,
                    "efficiency": clips_per_second / ranks / alone,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="the first is the reference")
    parser.add_argument("--tasks", nargs="+", choices=common.TASKS, default=["mlp", "pixel"])
    parser.add_argument("--sizes", nargs="+", choices=sorted(VARIANTS), default=["small"])
    parser.add_argument("--batch", type=int, default=64 if on_gpu else 2, help="clips per rank")
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
    setup = Setup(options.device, options.amp, options.rounds, options.compile)
    if options.result:
        cell = Cell(options.tasks[0], options.sizes[0], options.quick)
        worker(setup, cell, clips=options.batch, result=options.result)
        return
    about = common.facts(torch.device(options.device))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows: list[dict] = []
    for size in options.sizes:
        for task in options.tasks:
            cell = Cell(task, size, options.quick)
            found = rows_of(setup, cell, all_ranks=options.ranks, batch=options.batch)
            print(common.markdown(found), flush=True)
            rows += found
            common.write_json(about, rows, options.json)


if __name__ == "__main__":
    main()
