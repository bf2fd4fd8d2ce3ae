"""Attention: every way that it is computed, against its definition in float64."""

import pytest
import torch

from models.attention import attend


def inputs(dtype, tokens=50):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, tokens, 16, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def definition(q, k, v):
    q, k, v = (x.double() for x in (q, k, v))
    return ((q @ k.transpose(-2, -1)) / 16**0.5).softmax(dim=-1) @ v


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_attention_and_its_gradients(dtype, tolerance):
    ours, theirs = inputs(dtype), inputs(dtype)
    result, expected = attend(*ours), definition(*theirs)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    weight = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (result.double() * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad.double(), rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dropout_leaves_the_mean(dtype):
    q, k, v = inputs(dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        mean = torch.stack([attend(q, k, v, dropout=0.5) for _ in range(400)]).float().mean(dim=0)
        assert not torch.equal(attend(q, k, v, dropout=0.5), attend(q, k, v, dropout=0.5))
        torch.testing.assert_close(mean, attend(q, k, v).float(), rtol=0, atol=0.15)
