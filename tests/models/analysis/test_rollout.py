"""Attention rollout against an explicit product of matrices, made of weights computed head by head."""

import torch
from torch import nn

from models import create_model
from models.analysis.rollout import attention_weights, rollout
from models.vit import VideoTransformer


def make(seed=0):
    torch.manual_seed(seed)
    model = create_model("vit_mini_patch8_16", num_frames=4, num_classes=3, depth=3, embed_dim=32, num_heads=4).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model, torch.randn(2, 3, 4, 16, 16)


def weights_by_hand(model, clip):
    """(B, H, N, N) of every block: the block's input from the blocks before it, q and k row by row of the weights."""
    x = model.patch_embed(clip) + model.pos_embed
    found = []
    for block in model.blocks:
        normed, attention = block.norm1(x), block.attn
        q, k, _ = (normed @ attention.qkv.weight.T).chunk(3, dim=-1)
        heads = [
            torch.softmax((q_head @ k_head.mT) / 8**0.5, dim=-1)
            for q_head, k_head in zip((q + attention.q_bias).split(8, -1), k.split(8, -1), strict=True)
        ]
        found.append(torch.stack(heads, dim=1))
        x = block(x)
    return found


def test_weights_are_those_of_the_blocks():
    model, clip = make()
    with torch.no_grad():
        expected = [heads.mean(1) for heads in weights_by_hand(model, clip)]
        before = VideoTransformer.forward(model, clip)
        found = attention_weights(model, clip)
        assert torch.equal(VideoTransformer.forward(model, clip), before)  # no hook is left
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(block.attn._forward_pre_hooks for block in model.blocks)


def test_rollout_is_the_mean_row_of_the_product():
    model, clip = make(1)
    weights = attention_weights(model, clip)
    number = weights[0].shape[-1]
    product = torch.eye(number).expand(2, -1, -1)
    for attention in weights:  # (A_L + I) / 2 ... (A_1 + I) / 2: the first block is on the right
        product = (attention + torch.eye(number)) / 2 @ product
    found = rollout(weights)
    torch.testing.assert_close(found, product.mean(dim=1))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
    assert not torch.allclose(rollout(weights[::-1]), found)
