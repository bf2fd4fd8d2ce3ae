"""Functions in new processes of one process group, several of them on one GPU.

NCCL refuses two ranks on one GPU; gloo, which copies through host memory, does not. So what ranks do is checked and
timed here on a single GPU, though not how fast they communicate.
"""

import argparse
import gc
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import common
from bench.gpu.part import Part
from engine.distributed.world import World


def in_processes(
    function: str, part: Part, *, ranks: int = 1, group: str = "", limit: float = 240, **options: Any
) -> list:
    """Results, by rank, of `module:name` called with (world, part, **options) in new processes.

    They write to this process's output, and rows of theirs to its file.

    Args:
        function: a module of the repository and a function in it.
        part: gives the device, which all share.
        ranks: number of processes.
        group: the process group's backend; "": none, for one process.
        limit: seconds, after which they are stopped.
        options: plain values.

    Raises:
        RuntimeError: a process failed or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, function, "--folder", folder, "--ranks", str(ranks), "--group", group]
        command += ["--device", part.device.type, "--name", part.name, "--options", json.dumps(options)]
        command += ["--quick"] if part.quick else []
        command += ["--rows", str(part.file)] if part.file else []
        running = [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(ranks)]
        try:
            codes = [process.wait(limit) for process in running]
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{function} in {ranks} processes took longer than {limit} s") from error
        finally:
            for process in running:
                process.kill()
        if any(codes):
            raise RuntimeError(f"{function} in {ranks} processes: they ended with {codes}")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("function")
    for name in ("--folder", "--group", "--device", "--name", "--options"):
        parser.add_argument(name, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.device == "cpu":
        torch.set_num_threads(1)
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    module, _, name = options.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    part = Part(options.name, device, options.quick, options.rows, common.facts(device))
    if options.group:
        store = dist.FileStore(f"{options.folder}/store", options.ranks)
        dist.init_process_group(options.group, store=store, rank=options.rank, world_size=options.ranks)
    result = function(World(options.rank, options.ranks, options.rank, device), part, **json.loads(options.options))
    torch.save(result, f"{options.folder}/{options.rank}.pt")
    if options.group:
        gc.collect()  # frees DDP's reducer, whose threads must not outlive the group
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
