"""Initial weights: every tensor against the rule of the released code, in its own distribution.

The rules are those of QUVA-Lab/SIGMA, modeling_pretrain.py and modeling_finetune.py: in encoder and decoder Xavier's
uniform for linear layers; the tubelet embedding, `encoder_to_decoder` and the projection network as PyTorch makes
them; the mask token normal, cut at one standard deviation; prototypes normal. In classifiers normal with deviation
.02, the head scaled by --init_scale.
"""

import math
import re

import pytest
import torch
from scipy import stats

from models import create_model


def xavier(shape):
    bound = math.sqrt(6 / (shape[0] + shape[1]))
    return stats.uniform(-bound, 2 * bound)


def default_linear(shape):
    """U(-1 / sqrt(fan in), 1 / sqrt(fan in)), of nn.Linear and nn.Conv3d."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return stats.uniform(-bound, 2 * bound)


def normal(std, *, cut=math.inf):
    return lambda shape: stats.truncnorm(-cut / std, cut / std, scale=std)


def constant(value):
    return lambda shape: value


BLOCKS = r"(encoder\.|decoder\.)?blocks\.\d+\."
COMMON = {
    BLOCKS + r"norm[12]\.weight": constant(1),
    BLOCKS + r"(norm[12]|attn\.proj|mlp\.fc[12])\.bias": constant(0),
    BLOCKS + r"attn\.[qv]_bias": constant(0),
    BLOCKS + r"gamma_[12]": constant(0.1),
    r"(encoder\.|decoder\.)?(fc_)?norm\.weight": constant(1),
    r"(encoder\.|decoder\.)?(fc_)?norm\.bias": constant(0),
    r"(encoder\.)?patch_embed\.proj\.weight": default_linear,
}
PRETRAINING = COMMON | {
    BLOCKS + r"(attn\.(qkv|proj)|mlp\.fc[12])\.weight": xavier,
    r"encoder_to_decoder\.weight": default_linear,
    r"mask_token": normal(0.02, cut=0.02),
    r"decoder\.head\.weight": xavier,
    r"decoder\.head\.bias": constant(0),
    r"head\.\d+\.weight": default_linear,
    r"prototypes": normal(1),
}
CLASSIFIER = COMMON | {
    BLOCKS + r"(attn\.(qkv|proj)|mlp\.fc[12])\.weight": normal(0.02),
    r"head\.weight": normal(0.02 * 0.3),
    r"head\.bias": constant(0),
}
# Their bound is that of their weights: of fan in.
BIASES_AS_PYTORCH_MAKES_THEM = re.compile(r"(encoder\.)?patch_embed\.proj\.bias|head\.\d+\.bias")

SIZES = {"encoder_depth": 2, "decoder_depth": 2, "num_frames": 4}
CASES = {
    "sigma": ("pretrain_videomae_base_patch16_32", {**SIZES, "num_prototypes": 500}, PRETRAINING),
    "videomae": ("pretrain_videomae_small_patch16_32", {**SIZES, "target_type": "pixel"}, PRETRAINING),
    "teacher": ("pretrain_videomae_small_patch16_32", {**SIZES, "target_type": "dino_v1"}, PRETRAINING),
    "layer scale": ("pretrain_videomae_tiny_patch16_32", {**SIZES, "init_values": 0.1}, PRETRAINING),
    "classifier": ("vit_base_patch16_32", {"num_classes": 400, "depth": 2, "init_scale": 0.3}, CLASSIFIER),
    "first token": (
        "vit_small_patch16_32",
        {"num_classes": 101, "depth": 2, "init_scale": 0.3, "use_mean_pooling": False, "init_values": 0.1},
        CLASSIFIER,
    ),
}


def distribution(name, state, rules):
    """What the one rule of a tensor says: a number, or a distribution of scipy."""
    if BIASES_AS_PYTORCH_MAKES_THEM.fullmatch(name):
        return default_linear(state[name.replace(".bias", ".weight")].shape)
    found = [rule for pattern, rule in rules.items() if re.fullmatch(pattern, name)]
    assert len(found) == 1, name
    return found[0](state[name].shape)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_follows_the_released_rule(case):
    name, options, rules = CASES[case]
    torch.manual_seed(0)
    state = create_model(name, **options).state_dict()
    for name, value in state.items():
        expected = distribution(name, state, rules)
        if isinstance(expected, int | float):
            torch.testing.assert_close(value, torch.full_like(value, expected))
            continue
        values = value.flatten().double().numpy()[:50_000]
        # One tensor in a million would fail by chance; the seed is fixed.
        assert stats.kstest(values, expected.cdf).pvalue > 1e-6, (name, values.std(), expected.std())
        low, high = expected.support()
        slack = 1 + 1e-6  # float32
        assert low * slack <= values.min() and values.max() <= high * slack, name


def test_deviations_of_the_released_model():
    """Literal numbers, of the released ViT-B: SIGMA has 768 -> 384 and a mask token of 384 values."""
    torch.manual_seed(0)
    model = create_model("pretrain_videomae_base_patch16_224", encoder_depth=1, decoder_depth=1)
    assert model.encoder_to_decoder.weight.std().item() == pytest.approx(0.0208, abs=0.0003)
    assert model.mask_token.std().item() == pytest.approx(0.0108, abs=0.0008)
    assert model.mask_token.abs().max().item() <= 0.02
