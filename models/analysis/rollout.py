"""Attention rollout (arXiv 2005.00928): how much of each token the pooled output is made of.

Letters: B clips, N tokens, H heads, E head width, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..vit import VideoTransformer


@torch.no_grad()
def attention_weights(encoder: VideoTransformer, clip_BCTHW: torch.Tensor) -> list[torch.Tensor]:
    """The attention weights of every block on a whole clip, averaged over the heads.

    Args:
        clip_BCTHW: normalised.

    Returns:
        (B, N, N) float32 a block, from the first to the last; a row is a query, and sums to 1.
    """
    found: list[torch.Tensor] = []

    def keep(attention: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(_mean_weights(attention, inputs[0]))

    hooks = [block.get_submodule("attn").register_forward_pre_hook(keep) for block in encoder.blocks]
    try:
        VideoTransformer.forward(encoder, clip_BCTHW)  # of a classifier too: without its head
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _mean_weights(attention: Any, x_BND: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(E)), the mean over the heads; one head after the other, all need H times the memory."""
    dim = x_BND.shape[-1]
    q_weight, k_weight = attention.qkv.weight[: 2 * dim].float().chunk(2)
    q_BND = F.linear(x_BND.float(), q_weight, attention.q_bias.float())
    k_BND = F.linear(x_BND.float(), k_weight)
    q_HBNE, k_HBNE = (part.unflatten(-1, (attention.num_heads, -1)).movedim(2, 0) for part in (q_BND, k_BND))
    mean_BNN = x_BND.new_zeros(len(x_BND), x_BND.shape[1], x_BND.shape[1], dtype=torch.float32)
    for q_BNE, k_BNE in zip(q_HBNE, k_HBNE, strict=True):
        mean_BNN += (q_BNE @ k_BNE.mT * q_BNE.shape[-1] ** -0.5).softmax(dim=-1)
    return mean_BNN / attention.num_heads


def rollout(weights: list[torch.Tensor]) -> torch.Tensor:
    """The share of every input token in the mean over all output tokens.

    A block passes on (A + I) / 2, half of it the attention weights A, half the residual branch (equation 1 of the
    paper); blocks follow one another as their matrices multiply. The mean over the output tokens is what a classifier
    pools, so the row (1/N, ..., 1/N) goes through the product from its left: no N x N matrix but the given ones.

    Args:
        weights: (B, N, N) of every block, from the first to the last, rows sum to 1.

    Returns:
        (B, N), rows sum to 1; 1/N everywhere if nothing stands out.
    """
    batch, number, _ = weights[0].shape
    share_B1N = weights[0].new_full((batch, 1, number), 1 / number)
    for attention_BNN in reversed(weights):
        share_B1N = (share_B1N @ attention_BNN + share_B1N) / 2
    return share_B1N[:, 0]
