"""The classifiers that are trained on frozen features.

Letters: B samples, N tokens, D width, K classes.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

INIT_SCALE = 0.001  # of the linear head, as in fine-tuning


class ProbeError(ValueError):
    """Features, lists or options that no probe can be made of; the message says what to change."""


class LinearHead(nn.Module):
    """A norm and a linear layer on pooled features: what `--linear_probing` trains.

    Args:
        trains_norm: whether the norm has learned weights (as SIGMA's released probe), or is the plain standardisation.
    """

    def __init__(self, dim: int, num_classes: int, *, trains_norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=trains_norm)
        self.linear = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.weight.mul_(INIT_SCALE)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        return self.linear(self.norm(features_BD))


class PoolerHead(nn.Module):
    """One cross-attention of a learned query over normed tokens, dropout, a linear layer: VideoGLUE's frozen pooler.

    Sizes and initial values are those of github.com/tensorflow/models, official/projects/videoglue
    (modeling/heads/simple.py, commit 467fbf7).
    """

    def __init__(self, dim: int, num_classes: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        for weight in (*self.attention.in_proj_weight.chunk(3), self.attention.out_proj.weight):
            nn.init.xavier_uniform_(weight)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, num_classes)
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        tokens = self.norm(tokens_BND)
        query = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.attention(query, tokens, tokens, need_weights=False)
        return self.linear(self.dropout(pooled[:, 0]))


class CrossAttention(nn.Module):
    """Attention of queries over tokens, without a projection of the result."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)

    def forward(self, queries_BQD: torch.Tensor, tokens_BND: torch.Tensor) -> torch.Tensor:
        """(B, Q, D)."""
        parts = (self.q(queries_BQD), *self.kv(tokens_BND).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class AttentiveHead(nn.Module):
    """Self-attention blocks over the tokens, then one cross-attention block with a learned query: V-JEPA 2's probe.

    `depth` counts all blocks. Sizes and initial values are those of github.com/facebookresearch/vjepa2
    (src/models/attentive_pooler.py, commit c2963a4).
    """

    def __init__(self, dim: int, num_classes: int, *, num_heads: int, depth: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, num_heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth - 1)
        )
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.norm1, self.cross = nn.LayerNorm(dim), CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.apply(_initialise)
        block: Any
        for number, block in enumerate(self.blocks, start=1):
            _shrink(number, block.self_attn.out_proj, block.linear2)
        last: Any = self.mlp[2]
        _shrink(max(depth - 1, 1), last)
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(dim, num_classes)

    def forward(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        pooled = self.query.expand(len(tokens_BND), -1, -1)
        pooled = pooled + self.cross(pooled, self.norm1(tokens_BND))
        pooled = pooled + self.mlp(self.norm2(pooled))
        return self.linear(self.dropout(pooled[:, 0]))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.trunc_normal_(module.in_proj_weight, std=0.02)


@torch.no_grad()
def _shrink(number: int, *layers: nn.Linear) -> None:
    """The last layers of residual branches start smaller with depth."""
    for layer in layers:
        layer.weight.div_(math.sqrt(2 * number))


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ProbeError for a number of heads that does not divide the width."""
    if dim % num_heads:
        raise ProbeError(f"--probe_heads {num_heads} does not divide the encoder's width {dim}: choose another number")


def build_head(
    probe: str, dim: int, num_classes: int, *, num_heads: int, dropout: float, trains_norm: bool
) -> nn.Module:
    """The head of `--probe`. Raises ProbeError."""
    if probe == "linear":
        return LinearHead(dim, num_classes, trains_norm=trains_norm)
    kind = PoolerHead if probe == "pooler1" else AttentiveHead
    return kind(dim, num_classes, num_heads=num_heads, dropout=dropout)
