"""Parts of the models: position tables and attention on a CPU; attention and GEMM throughput on a GPU.

python bench/parts.py [--device cuda] [--rounds R] [--json FILE] [--quick]; implementations alternate, medians.

CPU: one thread, CPU seconds; attention fused, unfused and ours. GPU: attention in bf16 by each of torch's backends, 64
clips, and GEMM throughput at the models' widths in bf16, TF32 and fp32.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Clock
from models.attention import attend
from models.positions import sincos_table

CPU = torch.device("cpu")
TABLES = ((1568, 768), (1568, 384))  # tokens and width of ViT-B's encoder and decoder
GPU_SHAPES = {"encoder, ViT-B": (64, 12, 160), "decoder, ViT-B": (64, 6, 1568), "teacher, ViT-B": (512, 12, 197)}
GPU_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
SHAPES = {"encoder, ViT-S": (2, 6, 160), "decoder, ViT-S": (2, 3, 1568), "teacher, ViT-B": (16, 12, 197)}  # B, H, N


def looped_table(tokens: int, dim: int) -> torch.Tensor:
    """Angle by angle."""
    angles = [[p / np.power(10000, 2 * (column // 2) / dim) for column in range(dim)] for p in range(tokens)]
    table = np.array(angles)
    table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
    return torch.tensor(table, dtype=torch.float32).unsqueeze(0)


def timed(work: Callable[[], object], device: torch.device = CPU) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        clock = Clock(device)
        clock.start()
        work()
        clock.mark("work")
        return clock.stages()

    return run


def position_rows(rounds: int, shapes: Sequence[tuple[int, int]]) -> list[dict]:
    make = {"loops": looped_table, "ours": sincos_table}
    runs = {name: timed(lambda m=maker: [m(*shape) for shape in shapes]) for name, maker in make.items()}
    medians = common.alternate(runs, rounds)
    slow, fast = medians["loops"]["step"], medians["ours"]["step"]
    same = all(torch.equal(looped_table(*shape), sincos_table(*shape)) for shape in shapes)
    return [
        {"position tables": str(shapes), "loops, s": slow, "ours, s": fast, "ratio": slow / fast, "same bits": same}
    ]


def unfused_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """With the N x N attention weights of all heads in memory."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def attention_rows(rounds: int) -> list[dict]:
    """Forward and backward of attention alone; 64 channels per head."""
    rows = []
    for name, shape in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            inputs = [torch.randn(*shape, 64, dtype=dtype, requires_grad=True) for _ in range(3)]
            forms = {"fused": F.scaled_dot_product_attention, "unfused": unfused_attention, "ours": attend}
            runs = {form: timed(lambda f=f, i=inputs: f(*i).sum().backward()) for form, f in forms.items()}
            medians = common.alternate(runs, rounds)
            row = {"attention": f"{name}: {shape}", "dtype": str(dtype)}
            rows.append(row | {f"{form}, ms": 1000 * found["step"] for form, found in medians.items()})
    return rows


def backend_rows(
    device: torch.device, rounds: int, shapes: Mapping[str, tuple[int, int, int]], backends: Mapping[str, SDPBackend]
) -> list[dict]:
    """Forward and backward of attention in bf16, by each backend that runs here and as the models call it."""
    rows = []
    for name, shape in shapes.items():
        inputs = [torch.randn(*shape, 64, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(3)]

        def run(backend: SDPBackend, inputs: list[torch.Tensor] = inputs) -> None:
            with sdpa_kernel(backend):
                F.scaled_dot_product_attention(*inputs).sum().backward()

        runs = {"ours": timed(lambda i=inputs: attend(*i).sum().backward(), device)}
        for label, backend in backends.items():
            try:
                run(backend)
            except RuntimeError as error:  # torch has no such kernel for this device
                print(f"{label}: {str(error).partition(chr(10))[0]}")
                continue
            runs[label] = timed(lambda b=backend, r=run: r(b), device)
        medians = common.alternate(runs, rounds)
        row = {"attention, bf16": f"{name}: {shape}"}
        rows.append(row | {f"{label}, ms": 1000 * found["step"] for label, found in medians.items()})
    return rows


def gemm_rows(device: torch.device, rounds: int, tokens: int, widths: Sequence[int]) -> list[dict]:
    """GEMM throughput of the first layer of an MLP: (tokens, width) by (width, 4 x width)."""
    rows = []
    for width in widths:
        a, b = torch.randn(tokens, width, device=device), torch.randn(width, 4 * width, device=device)
        halves = a.bfloat16(), b.bfloat16()

        def single(precision: str, a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            torch.set_float32_matmul_precision(precision)
            a @ b
            torch.set_float32_matmul_precision("highest")  # torch's default

        runs = {
            "bf16": timed(lambda h=halves: h[0] @ h[1], device),
            "TF32": timed(lambda s=single: s("high"), device),
            "fp32": timed(lambda s=single: s("highest"), device),
        }
        medians = common.alternate(runs, rounds)
        work = 2 * tokens * width * 4 * width / 1e12
        rows.append(
            {"GEMM": f"{tokens} x {width} x {4 * width}"}
            | {f"{label}, TFLOP/s": work / found["step"] for label, found in medians.items()}
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run, whose numbers mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args(arguments)
    device, rounds = torch.device(options.device), 1 if options.quick else options.rounds
    torch.set_num_threads(1)
    about = common.facts(device)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if device.type == "cuda":
        first = backend_rows(device, rounds, GPU_SHAPES, GPU_BACKENDS)
        second = gemm_rows(device, rounds, 64 * 1568, (192, 384, 768))
    else:
        first = position_rows(options.rounds, ((16, 8),) if options.quick else TABLES)
        second = attention_rows(rounds)
    for rows in (first, second):
        print(common.markdown(rows), flush=True)
    common.write_json(about, [*first, *second], options.json)


if __name__ == "__main__":
    main()
