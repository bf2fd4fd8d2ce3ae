"""A block against its formula."""

import torch
import torch.nn.functional as F

from models.layers import Block


def test_block_with_layer_scale():
    """Each branch has its own scale (arXiv 2103.17239, section 2)."""
    generator = torch.Generator().manual_seed(0)
    block = Block(8, 2, init_values=0.1).double().eval()
    assert block.gamma_1.tolist() == block.gamma_2.tolist() == torch.full((8,), 0.1).double().tolist()
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    normed = F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
    bias = torch.cat((block.attn.q_bias, torch.zeros(8), block.attn.v_bias))
    q, k, v = (normed @ block.attn.qkv.weight.T + bias).reshape(3, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / 4**0.5).softmax(dim=-1)
    attended = (weights @ v).transpose(1, 2).reshape(3, 5, 8) @ block.attn.proj.weight.T + block.attn.proj.bias
    x_1 = x + block.gamma_1 * attended
    hidden = F.gelu(
        F.linear(F.layer_norm(x_1, (8,), block.norm2.weight, block.norm2.bias, 1e-6), *block.mlp.fc1.parameters())
    )
    expected = x_1 + block.gamma_2 * F.linear(hidden, *block.mlp.fc2.parameters())
    torch.testing.assert_close(block(x), expected)
