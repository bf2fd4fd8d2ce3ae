"""The trainable projection network: an MLP from a tubelet's pixels to the space of the prototypes."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def projection_mlp(in_dim: int, out_dim: int, hidden_dims: Sequence[int]) -> nn.Sequential:
    """Linear layers with GELU between: in_dim -> hidden_dims -> out_dim (arXiv 2407.15447).

    The released code (modeling_pretrain.py) has 1536-1024-1024-512-256.
    """
    widths = [in_dim, *hidden_dims, out_dim]
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), nn.GELU()]
    return nn.Sequential(*layers[:-1])
