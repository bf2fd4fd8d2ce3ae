"""Scaled dot-product attention, with torch's fused kernel, or for bf16 on a CPU in blocks of heads.

Letters: B clips, N tokens, H heads, E head width, R heads of a block.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend

_BACKENDS = {
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.FLASH_ATTENTION: "FlashAttention",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.MATH: "unfused, which stores the attention weights of all heads",
}
_BLOCK_BYTES = 2 << 20  # of a block's scores: with their softmax they stay in a core's share of the cache


def attend(q_BHNE: torch.Tensor, k_BHNE: torch.Tensor, v_BHNE: torch.Tensor, *, dropout: float = 0.0) -> torch.Tensor:
    """softmax(q k^T / sqrt(E)) v (arXiv 1706.03762, equation 1), with dropout on the attention weights: (B, H, N, E).

    The N x N weights are never stored for all heads. In bf16 on a CPU torch's fused kernel takes 1.4 to 2.4 times as
    long, forward and backward, as attention over a few heads at a time that stays in the cache (bench/RESULTS.md), but
    only the fused kernel has dropout.
    """
    if q_BHNE.device.type == "cpu" and q_BHNE.dtype == torch.bfloat16 and dropout == 0:
        return _attend_in_blocks(q_BHNE, k_BHNE, v_BHNE)
    return F.scaled_dot_product_attention(q_BHNE, k_BHNE, v_BHNE, dropout_p=dropout)


def describe_attention(stacks: Mapping[str, tuple[nn.Module, int]], *, device: torch.device, dtype: torch.dtype) -> str:
    """What computes the attention of some transformers, by their names: torch chooses by device, dtype and shape.

    Args:
        stacks: blocks of each, ours or timm's, and the number of its tokens.
    """
    found: dict[str, list[str]] = {}
    for name, (blocks, num_tokens) in stacks.items():
        attention: Any = next((block.attn for block in blocks.children()), None)
        if attention is not None:  # a decoder may have no blocks
            shape = attention.num_heads, attention.qkv.in_features // attention.num_heads
            found.setdefault(_backend(num_tokens, *shape, device=device, dtype=dtype), []).append(name)
    return "; ".join(f"{backend} ({', '.join(names)})" for backend, names in found.items())


def _backend(num_tokens: int, num_heads: int, head_dim: int, *, device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cpu":
        return "in blocks of heads" if dtype == torch.bfloat16 else "torch's fused kernel"
    qkv = torch.empty(1, num_tokens, 3, num_heads, head_dim, device=device, dtype=dtype, requires_grad=True)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    backend = SDPBackend(torch._fused_sdp_choice(q, k, v))
    return _BACKENDS.get(backend, backend.name)


# Custom operators, so that torch.compile does not unroll their loops over the heads. A second definition of a name
# takes away the operator that the first one calls, so each copy of this module has its own (sigma_video/__init__.py).
OPERATORS = __name__.replace(".", "_")


@torch.library.custom_op(f"{OPERATORS}::attend_in_blocks", mutates_args=())
def _attend_in_blocks(q_BHNE: torch.Tensor, k_BHNE: torch.Tensor, v_BHNE: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.flatten(0, 1) for x in (q_BHNE * q_BHNE.shape[-1] ** -0.5, k_BHNE, v_BHNE))
    out = torch.empty_like(q)
    scores_RNN, weights_RNN = _buffers(q)
    for start in range(0, len(q), len(scores_RNN)):
        block = slice(start, start + len(scores_RNN))
        weights = _weights(q[block], k[block], scores_RNN, weights_RNN)
        torch.bmm(weights, v[block], out=out[block])
    return out.reshape(q_BHNE.shape)


@torch.library.custom_op(f"{OPERATORS}::attend_in_blocks_backward", mutates_args=())
def _attend_in_blocks_backward(
    grad_BHNE: torch.Tensor, q_BHNE: torch.Tensor, k_BHNE: torch.Tensor, v_BHNE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients with respect to q, k and v; the attention weights are recomputed."""
    scale = q_BHNE.shape[-1] ** -0.5
    grad, q, k, v = (x.flatten(0, 1) for x in (grad_BHNE, q_BHNE * scale, k_BHNE, v_BHNE))
    grad_q, grad_k, grad_v = (torch.empty_like(q) for _ in range(3))
    scores_RNN, weights_RNN = _buffers(q)
    for start in range(0, len(q), len(scores_RNN)):
        block = slice(start, start + len(scores_RNN))
        weights = _weights(q[block], k[block], scores_RNN, weights_RNN)
        torch.bmm(weights.mT, grad[block], out=grad_v[block])
        grad_scores = torch.bmm(grad[block], v[block].mT, out=scores_RNN[: len(weights)])
        torch._softmax_backward_data(grad_scores, weights, -1, grad_scores.dtype, grad_input=grad_scores)
        torch.bmm(grad_scores, k[block], out=grad_q[block])
        torch.bmm(grad_scores.mT, q[block], out=grad_k[block])
    grad_q *= scale
    return grad_q.reshape(q_BHNE.shape), grad_k.reshape(q_BHNE.shape), grad_v.reshape(q_BHNE.shape)


def _buffers(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For the scores of a block of heads and for their softmax, (R, N, N) each."""
    heads, tokens, _ = q.shape
    rows = max(1, min(heads, _BLOCK_BYTES // max(1, q.element_size() * tokens**2)))  # 1 also for an empty batch
    scores, weights = q.new_empty(2, rows, tokens, tokens)
    return scores, weights


def _weights(q: torch.Tensor, k: torch.Tensor, scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T) of a block of heads, in the buffers."""
    scores, weights = scores[: len(q)], weights[: len(q)]
    torch.bmm(q, k.mT, out=scores)
    return torch.softmax(scores, dim=-1, out=weights)


@_attend_in_blocks.register_fake
def _(q_BHNE: torch.Tensor, k_BHNE: torch.Tensor, v_BHNE: torch.Tensor) -> torch.Tensor:
    return q_BHNE.new_empty(q_BHNE.shape)


@_attend_in_blocks_backward.register_fake
def _(
    grad_BHNE: torch.Tensor, q_BHNE: torch.Tensor, k_BHNE: torch.Tensor, v_BHNE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return q_BHNE.new_empty(q_BHNE.shape), q_BHNE.new_empty(q_BHNE.shape), q_BHNE.new_empty(q_BHNE.shape)


def _keep_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad_BHNE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _attend_in_blocks_backward(grad_BHNE, *ctx.saved_tensors)


_attend_in_blocks.register_autograd(_gradients, setup_context=_keep_inputs)
