"""Attention in bf16 by backend, on queries, keys and values that are views of one array, as the layers give them.

python bench/gpu/attention.py [--quick] [--device cpu] [--rows FILE]

For each shape: as the models call it, and by each of torch's backends; the teacher forward only, the others forward and
backward. TFLOP/s count 4 N^2 E multiply-adds per head forward and 2.5 times as many more backward (arXiv 2307.08691).
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gpu.part import Part, begin, milliseconds
from models.attention import attend

HEAD_WIDTH = 64
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True)
class Shape:
    """Rows, heads and tokens of one call in a step of 64 clips."""

    name: str
    batch: int
    heads: int
    tokens: int
    backward: bool = True


SHAPES = (
    Shape("encoder, ViT-B", 64, 12, 160),
    Shape("teacher, ViT-B", 512, 12, 197, backward=False),
    Shape("decoder, ViT-B", 64, 6, 1568),
    Shape("fine-tuning, ViT-B", 16, 12, 1568),
)


def views_of(shape: Shape, device: torch.device) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """(B, N, 3 H E), and its queries, keys and values (B, H, N, E), which share its memory."""
    qkv = torch.randn(shape.batch, shape.tokens, 3 * shape.heads * HEAD_WIDTH, device=device, dtype=torch.bfloat16)
    qkv.requires_grad_(shape.backward)
    parts = qkv.unflatten(-1, (3, shape.heads, HEAD_WIDTH)).unbind(2)
    return qkv, tuple(part.transpose(1, 2) for part in parts)


def chosen_backend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str:
    """The backend that torch takes by itself."""
    return SDPBackend(torch._fused_sdp_choice(q, k, v)).name


def report(part: Part, shape: Shape) -> None:
    qkv, parts = views_of(shape, part.device)
    grad = torch.randn_like(parts[0])

    def call(attention: Callable[..., torch.Tensor]) -> None:
        if not shape.backward:
            with torch.no_grad():
                attention(*parts)
            return
        torch.autograd.grad(attention(*parts), qkv, grad, retain_graph=True)

    def by(backend: SDPBackend) -> None:
        with sdpa_kernel(backend):
            call(F.scaled_dot_product_attention)

    work = 4 * shape.batch * shape.heads * shape.tokens**2 * HEAD_WIDTH * (3.5 if shape.backward else 1) / 1e9
    runs: dict[str, Callable[[], None]] = {"as the models call it": lambda: call(attend)}
    runs |= {name: lambda b=backend: by(b) for name, backend in BACKENDS.items()}
    for name, run in runs.items():
        row = {"attention": shape.name, "shape": f"{shape.batch} x {shape.heads} x {shape.tokens}", "backend": name}
        if name == "as the models call it":
            row["torch takes"] = chosen_backend(*parts)
        try:
            took = milliseconds(run, part.device, 3 if part.quick else 20)
        except RuntimeError as error:  # torch has no such kernel for this device or shape
            part.row(**row, unavailable=str(error).partition("\n")[0][:100])
            continue
        part.row(**row, ms=took, TFLOP_per_s=work / took)


def main(arguments: Sequence[str] | None = None) -> None:
    part = begin("attention", __doc__, arguments)
    for shape in SHAPES:
        with part.cell(shape.name):
            report(part, replace(shape, batch=1, heads=2, tokens=shape.tokens // 8) if part.quick else shape)
    part.finish()


if __name__ == "__main__":
    main()
