"""Parts of the models on a CPU: position tables, and attention fused, unfused and ours.

python bench/parts.py [--rounds R] [--json FILE] [--quick]; implementations alternate, medians; one thread, CPU seconds.
On a GPU bench/gpu/attention.py and bench/gpu/versions.py measure attention and GEMM throughput.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import common
from bench.common import Clock
from models.attention import attend
from models.positions import sincos_table

CPU = torch.device("cpu")
TABLES = ((1568, 768), (1568, 384))  # tokens and width of ViT-B's encoder and decoder
SHAPES = {"encoder, ViT-S": (2, 6, 160), "decoder, ViT-S": (2, 3, 1568), "teacher, ViT-B": (16, 12, 197)}  # B, H, N


def looped_table(tokens: int, dim: int) -> torch.Tensor:
    """Angle by angle."""
    angles = [[p / np.power(10000, 2 * (column // 2) / dim) for column in range(dim)] for p in range(tokens)]
    table = np.array(angles)
    table[:, 0::2], table[:, 1::2] = np.sin(table[:, 0::2]), np.cos(table[:, 1::2])
    return torch.tensor(table, dtype=torch.float32).unsqueeze(0)


def timed(work: Callable[[], object]) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        clock = Clock(CPU)
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run, whose numbers mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write facts and rows there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about = common.facts(CPU)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    first = position_rows(options.rounds, ((16, 8),) if options.quick else TABLES)
    second = attention_rows(1 if options.quick else options.rounds)
    for rows in (first, second):
        print(common.markdown(rows), flush=True)
    common.write_json(about, [*first, *second], options.json)


if __name__ == "__main__":
    main()
