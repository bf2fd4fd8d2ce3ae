"""Shared by the parts of bench/gpu.sh: options, rows that are printed and kept as they come, timing."""

import argparse
import gc
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import common
from bench.common import Clock

NO_GPU = 2  # exit status of a part that needs a GPU where there is none


@dataclass
class Part:
    """One part of a run. A row is printed and appended to `file` at once: what ends the process later loses none."""

    name: str
    device: torch.device
    quick: bool
    file: Path | None
    about: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def row(self, **values: Any) -> None:
        """A result: `names=values`, with underscores for blanks."""
        row = {key.replace("_", " "): value for key, value in values.items()}
        print(f"{self.name}: " + ", ".join(f"{key} {common.shown(value)}" for key, value in row.items()), flush=True)
        common.append_rows(self.name, self.about, [row], self.file)

    @contextmanager
    def cell(self, what: str) -> Iterator[None]:
        """What is measured or checked together: if it fails, a row says so and the part goes on with the next."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001  (out of memory, a missing kernel, a wrong result: others are unharmed)
            self.failed.append(what)
            if not isinstance(error, torch.OutOfMemoryError | AssertionError):
                traceback.print_exc(limit=-4)
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            self.row(cell=what, failed=f"{type(error).__name__}: {reason}", seconds=time.perf_counter() - start)
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def finish(self) -> None:
        """End the process: with 1 if a cell failed."""
        if self.failed:
            print(f"{self.name}: FAILED: {', '.join(self.failed)}", flush=True)
        sys.exit(bool(self.failed))


def begin(name: str, description: str | None, arguments: Sequence[str] | None = None) -> Part:
    """The part of a command line, its facts printed and kept. Ends the process without the GPU that it needs."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda, or with --quick what is there")
    parser.add_argument("--quick", action="store_true", help="a smoke run on tiny models, whose numbers mean nothing")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="append each row there, as JSON lines")
    options = parser.parse_args(arguments)
    with_gpu = torch.cuda.is_available()
    device = torch.device(options.device or ("cuda" if with_gpu or not options.quick else "cpu"))
    if device.type == "cuda" and not with_gpu:
        print("error: no CUDA GPU here: --quick --device cpu is a smoke run without one", file=sys.stderr)
        sys.exit(NO_GPU)
    if device.type == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
        torch.set_num_threads(1)
    part = Part(name, device, options.quick, options.rows, common.facts(device))
    part.row(**part.about)
    return part


def milliseconds(function: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median time of a call, after two: of the CUDA stream, which the host fills ahead, or CPU time."""
    for _ in range(2):
        function()
    clocks = [Clock(device) for _ in range(rounds)]
    for clock in clocks:
        clock.start()
        function()
        clock.mark("call")
    return 1000 * statistics.median(clock.stages()["step"] for clock in clocks)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
