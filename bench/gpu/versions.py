"""The machine: versions, clocks, and the ceilings that other numbers are compared with.

python bench/gpu/versions.py [--quick] [--device cpu] [--rows FILE]

The first part of a run: it pays for the first import of torch and for the start of the GPU, and ends with status 2
where there is none. Ceilings: a large copy on the device, counting bytes read and written; GEMM throughput on random
numbers, large and square, and of the first layer of an MLP at the models' widths.
"""

import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import common
from bench.gpu.part import Part, begin, milliseconds

WIDTHS = (192, 384, 768)  # of decoders and encoders
PRECISIONS = {"bf16": "highest", "TF32": "high", "fp32": "highest"}  # torch's setting for float32 operands


def report_machine(part: Part) -> None:
    """What the code is compiled with, and what the GPU is."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    row = {
        "gcc": shutil.which("gcc") or "",
        "g++": shutil.which("g++") or "",
        "Python.h": header.is_file(),
        "decoders": ", ".join(name for name in ("av", "decord", "torchcodec") if is_importable(name)) or "none",
    }
    if part.device.type == "cuda":
        gpu = torch.cuda.get_device_properties(part.device)
        row |= {"multiprocessors": gpu.multi_processor_count, "GiB": gpu.total_memory / 2**30}
        row |= {"L2, MiB": gpu.L2_cache_size / 2**20, "capability": f"{gpu.major}.{gpu.minor}"}
    part.row(**row)


def is_importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # blocked
        return False


def report_copy(part: Part) -> None:
    """Bandwidth of the device's memory."""
    source = torch.randn((1 << 16) if part.quick else (1 << 30), device=part.device)
    target = torch.empty_like(source)
    took = milliseconds(lambda: target.copy_(source), part.device, 5)
    part.row(copy="on the device", GB_per_s=2 * source.nbytes / took / 1e6)


def report_gemm(part: Part, rows: int, width: int, columns: int) -> None:
    """TFLOP/s of (rows, width) by (width, columns)."""
    a, b = torch.randn(rows, width, device=part.device), torch.randn(width, columns, device=part.device)
    found = {}
    for name, precision in PRECISIONS.items():
        x, y = (a.bfloat16(), b.bfloat16()) if name == "bf16" else (a, b)
        torch.set_float32_matmul_precision(precision)
        took = milliseconds(lambda x=x, y=y: x @ y, part.device, 5)
        found[f"{name}, TFLOP/s"] = 2 * rows * width * columns / took / 1e9
    torch.set_float32_matmul_precision("highest")  # torch's default
    part.row(GEMM=f"{rows} x {width} x {columns}", **found)


def main(arguments: Sequence[str] | None = None) -> None:
    part = begin("versions", __doc__, arguments)
    report_machine(part)
    with part.cell("copy"):
        report_copy(part)
    side, tokens = (64, 32) if part.quick else (8192, 64 * 1568)
    for rows, width, columns in ((side, side, side), *((tokens, width, 4 * width) for width in WIDTHS)):
        with part.cell(f"GEMM, width {width}"):
            report_gemm(part, rows, width, columns)
    if part.device.type == "cuda":
        part.row(after="the products", **common.gpu_state())
    part.finish()


if __name__ == "__main__":
    main()
