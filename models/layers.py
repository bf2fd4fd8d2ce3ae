"""Transformer layers. Parameter names equal those of the released checkpoints.

Letters: B clips, N tokens, D width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .attention import attend
from .tokens import Tubelet, patchify


class LinearWithGivenBias(nn.Linear):
    """A linear layer that gets its bias with the input, because it is made of several parameters.

    A module of its own, and not a weight that the attention reads: what wraps linear layers, such as adapters, takes
    part in the call.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(..., in) and (out,) -> (..., out)."""
        return F.linear(x, self.weight, bias)


class Attention(nn.Module):
    """Multi-head self-attention with a bias on queries and values; one on keys would cancel in the softmax."""

    def __init__(self, dim: int, num_heads: int, *, attn_drop: float = 0.0, proj_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = LinearWithGivenBias(dim, 3 * dim)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = self.qkv(x_BND, bias)
        # Not in another order: the backward pass then stacks the three gradients as `qkv` lies in memory, in one copy.
        q, k, v = [part.transpose(1, 2) for part in qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)]
        x = attend(q, k, v, dropout=self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(rearrange(x, "b h n e -> b n (h e)")))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden_dim: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.fc2(F.gelu(self.fc1(x))))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops the residual branch of a clip with the given probability.

    The rate is a tensor, because torch.compile would recompile for each block's number.
    """

    keep: torch.Tensor

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f"the stochastic depth rate must be at least 0 and below 1, got {drop_prob}")
        self.register_buffer("keep", torch.tensor(1 - drop_prob), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> the same shape; kept branches are scaled by 1 / (1 - rate), which preserves the mean."""
        if not self.training:
            return x
        kept_B = torch.bernoulli(self.keep.expand(len(x))) / self.keep
        return x * kept_B.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


class Block(nn.Module):
    """Pre-norm transformer block. `init_values` > 0 adds a learnable scale to both residual branches."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        init_values: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, attn_drop=attn_drop, proj_drop=drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        scale = torch.full((dim,), init_values)
        self.gamma_1 = nn.Parameter(scale.clone()) if init_values > 0 else None
        self.gamma_2 = nn.Parameter(scale.clone()) if init_values > 0 else None

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        attended = self.attn(self.norm1(x_BND))
        x_BND = x_BND + self.drop_path(attended if self.gamma_1 is None else self.gamma_1 * attended)
        mixed = self.mlp(self.norm2(x_BND))
        return x_BND + self.drop_path(mixed if self.gamma_2 is None else self.gamma_2 * mixed)


class TubeletEmbedding(nn.Module):
    """Linear embedding of all tubelets, or of the visible ones only.

    The weights have the shape of the convolution in released checkpoints. A convolution whose stride equals its kernel
    is a linear layer over tubelets, and that can skip the masked ones.
    """

    def __init__(self, dim: int, tubelet: Tubelet, in_channels: int = 3) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=tubelet, stride=tubelet)

    def forward(self, clip_BCTHW: torch.Tensor, visible_BV: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, T, H, W) [and (B, V) positions] -> (B, N or V, D)."""
        pixels = patchify(clip_BCTHW, self.tubelet, visible_BV)
        return F.linear(pixels.flatten(2), self.proj.weight.flatten(1), self.proj.bias)
