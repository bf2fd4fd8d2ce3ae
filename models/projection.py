"""The trainable projection network: an MLP from a tubelet's pixels to the space of the prototypes."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

HIDDEN_DIMS = (1024, 1024, 512)


def projection_mlp(in_dim: int, out_dim: int, hidden_dims: Sequence[int] = HIDDEN_DIMS) -> nn.Sequential:
    """Linear layers with GELU between: in_dim -> hidden_dims -> out_dim (arXiv 2407.15447).

    `HIDDEN_DIMS` are the widths in modeling_pretrain.py of the released code: 1536-1024-1024-512-256 in all.
    """
    widths = [in_dim, *hidden_dims, out_dim]
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), nn.GELU()]
    return nn.Sequential(*layers[:-1])
