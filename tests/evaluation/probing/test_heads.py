"""The probes' heads against attention that is written out."""

import math

import pytest
import torch
from torch import nn

from evaluation.probing.heads import AttentiveHead, CrossAttention, LinearHead, PoolerHead, ProbeError, build_head


def normed(x, eps=1e-6, norm=None):
    out = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    return out if norm is None else out * norm.weight + norm.bias


def attention(q, k, v, heads):
    """Head by head and query by query, in float64."""
    width = q.shape[-1] // heads
    out = torch.zeros(*q.shape, dtype=torch.float64)
    for b, query, h in torch.cartesian_prod(*map(torch.arange, (len(q), q.shape[1], heads))).tolist():
        part = slice(h * width, (h + 1) * width)
        scores = (k[b, :, part] @ q[b, query, part]) / math.sqrt(width)
        out[b, query, part] = torch.softmax(scores, 0) @ v[b, :, part]
    return out


def scrambled(module):
    """In float64, with weights and biases that are not the initial ones."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double().eval()


@pytest.fixture
def tokens():
    return torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_pooler_is_one_attention_of_its_query_over_normed_tokens(tokens):
    head = scrambled(PoolerHead(12, 3, num_heads=4, dropout=0.5))
    x = normed(tokens, norm=head.norm)
    projected = [
        y @ w.T + b
        for y, w, b in zip(
            (head.query.expand(2, -1, -1), x, x),
            head.attention.in_proj_weight.chunk(3),
            head.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    ]
    pooled = head.attention.out_proj(attention(*projected, 4))[:, 0]
    assert torch.allclose(head(tokens), pooled @ head.linear.weight.T + head.linear.bias, atol=1e-12)


def test_the_pooler_begins_as_the_mean_of_the_tokens(tokens):
    """A query of zeros sees all tokens alike."""
    head = PoolerHead(12, 3, num_heads=4, dropout=0.0).double().eval()
    x = head.norm(tokens).mean(1)
    value = x @ head.attention.in_proj_weight.chunk(3)[2].T
    assert torch.allclose(head(tokens), head.linear(value @ head.attention.out_proj.weight.T), atol=1e-12)


def test_the_attentive_probe_is_blocks_and_a_cross_attention(tokens):
    head = scrambled(AttentiveHead(12, 3, num_heads=4, depth=2))
    (block,) = head.blocks
    x = tokens
    y = normed(x, 1e-5, block.norm1)
    weights, biases = block.self_attn.in_proj_weight.chunk(3), block.self_attn.in_proj_bias.chunk(3)
    q, k, v = (y @ w.T + b for w, b in zip(weights, biases, strict=True))
    x = x + block.self_attn.out_proj(attention(q, k, v, 4))
    x = x + block.linear2(nn.functional.gelu(block.linear1(normed(x, 1e-5, block.norm2))))
    y = normed(x, 1e-5, head.norm1)
    query = head.query.expand(2, -1, -1)
    k, v = (head.cross.kv(y)[..., :12], head.cross.kv(y)[..., 12:])
    pooled = query + attention(head.cross.q(query), k, v, 4)
    pooled = pooled + head.mlp(normed(pooled, 1e-5, head.norm2))
    assert torch.allclose(head(tokens), head.linear(pooled[:, 0]), atol=1e-12)


def test_depth_counts_all_blocks_and_the_last_layers_start_smaller():
    torch.manual_seed(0)
    head = AttentiveHead(64, 3, num_heads=16, depth=4)
    assert len(head.blocks) == 3 and isinstance(head.cross, CrossAttention)
    stds = [block.linear2.weight.std().item() for block in head.blocks]
    assert stds == pytest.approx([0.02 / math.sqrt(2 * n) for n in (1, 2, 3)], rel=0.05)
    assert head.blocks[2].linear1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * 3), rel=0.05)  # as the last block's


def test_the_linear_head_is_a_norm_and_a_layer():
    head = scrambled(LinearHead(6, 3))
    x = torch.randn(4, 6, dtype=torch.float64)
    assert torch.allclose(head(x), normed(x, norm=head.norm) @ head.linear.weight.T + head.linear.bias, atol=1e-12)
    fixed = LinearHead(6, 3, trains_norm=False)
    assert {name for name, _ in fixed.named_parameters()} == {"linear.weight", "linear.bias"}


def test_heads_have_to_divide_the_width():
    for probe in ("pooler1", "attentive4"):
        with pytest.raises(ProbeError, match="--probe_heads 5 does not divide the encoder's width 12"):
            build_head(probe, 12, 3, num_heads=5, dropout=0.0, trains_norm=True)
