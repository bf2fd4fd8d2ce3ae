"""Attention: every way that it is computed, against its definition in float64."""

from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.attention import _BACKENDS, OPERATORS, attend, describe_attention
from models.layers import Block


def inputs(dtype, tokens=50):
    """q, k and v as they come: slices of one array, heads beside each other."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, tokens, 3, 3, 16, generator=generator).to(dtype).permute(2, 0, 3, 1, 4)
    return [x.detach().requires_grad_() for x in qkv]


def definition(q, k, v):
    q, k, v = (x.double() for x in (q, k, v))
    return ((q @ k.transpose(-2, -1)) / 16**0.5).softmax(dim=-1) @ v


@pytest.mark.parametrize("tokens", [50, 450])  # in bf16 six heads are one block, or two
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_attention_and_its_gradients(dtype, tolerance, tokens):
    ours, theirs = inputs(dtype, tokens), inputs(dtype, tokens)
    result, expected = attend(*ours), definition(*theirs)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    weight = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (result.double() * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad.double(), rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(0, 2, 5, 4), (2, 2, 0, 4), (1, 1, 1, 1)], ids=str)
def test_attention_of_nothing_and_of_one_token(dtype, shape):
    q, k, v = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(3))
    result = attend(q, k, v)
    result.sum().backward()
    assert result.shape == q.grad.shape == shape
    torch.testing.assert_close(result, v)


def test_bf16_on_a_cpu_is_not_fused(monkeypatch):
    """Results hardly tell which form it was; time does."""
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
    assert attend(*inputs(torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(TypeError):
        attend(*inputs(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dropout_leaves_the_mean(dtype):
    q, k, v = inputs(dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        mean = torch.stack([attend(q, k, v, dropout=0.5) for _ in range(400)]).float().mean(dim=0)
        assert not torch.equal(attend(q, k, v, dropout=0.5), attend(q, k, v, dropout=0.5))
        torch.testing.assert_close(mean, attend(q, k, v).float(), rtol=0, atol=0.15)


@pytest.mark.parametrize("operator", ["attend_in_blocks", "attend_in_blocks_backward"])
def test_torch_may_compile_around_the_operators(operator):
    """Shapes and strides that it plans with are the real ones, and no input is changed."""
    tensors = [x.detach() for x in inputs(torch.bfloat16)]
    if operator.endswith("backward"):
        tensors.insert(0, torch.ones_like(tensors[0]))
    operator = getattr(getattr(torch.ops, OPERATORS), operator).default
    torch.library.opcheck(operator, tuple(tensors), test_utils=("test_schema", "test_faketensor"))


def test_some_inputs_need_no_gradient():
    (q, k, v), (alone, *others) = inputs(torch.bfloat16), inputs(torch.bfloat16)
    attend(q, k, v).square().sum().backward()
    attend(alone, *(x.detach() for x in others)).square().sum().backward()
    assert torch.equal(alone.grad, q.grad) and q.grad.abs().sum() > 0


def test_what_computes_attention_is_described():
    stacks = {"encoder": (nn.ModuleList([Block(128, 2)]), 160), "decoder": (nn.ModuleList(), 1568)}
    stacks["teacher"] = timm.create_model("vit_tiny_patch16_224").blocks, 197
    of = partial(describe_attention, stacks, device=torch.device("cpu"))
    assert of(dtype=torch.bfloat16) == "in blocks of heads (encoder, teacher)"
    assert of(dtype=torch.float32) == "torch's fused kernel (encoder, teacher)"


def test_torch_tells_which_back_end_it_chooses():
    """What the plan shows on a GPU is asked of torch; on a CPU the answer has the same form."""
    q = torch.empty(1, 4, 2, 8).transpose(1, 2)
    chosen = SDPBackend(torch._fused_sdp_choice(q, q, q))
    assert chosen in _BACKENDS
    with sdpa_kernel(SDPBackend.MATH):
        assert SDPBackend(torch._fused_sdp_choice(q, q, q)) == SDPBackend.MATH
