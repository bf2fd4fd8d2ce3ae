"""Names and options of `create_model`."""

import numpy as np
import pytest
import timm
import torch

from models import ModelError, create_model
from models.classifier import Classifier
from models.sigma import Sigma

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}


@pytest.mark.parametrize("variant", SIZES)
def test_contract_names(variant):
    with torch.device("meta"):
        pretraining = create_model(f"pretrain_videomae_{variant}_patch16_224")
        classifier = create_model(f"vit_{variant}_patch16_224", num_classes=7)
    assert isinstance(pretraining, Sigma) and isinstance(classifier, Classifier)
    for encoder in (pretraining.encoder, classifier):
        width, depth, heads = SIZES[variant]
        assert (encoder.embed_dim, len(encoder.blocks), encoder.blocks[0].attn.num_heads) == (width, depth, heads)
        assert encoder.grid == (8, 14, 14)
    assert len(pretraining.decoder.blocks) == 4 and pretraining.prototypes.shape == (3000, 256)
    assert classifier.head.out_features == 7


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pretrain_videomae_base_patch16_224", {}),
        ("vit_base_patch16_224", {"num_classes": 7}),
        ("vit_base_patch16_224", {"num_classes": 7, "use_mean_pooling": False}),
    ],
)
def test_norms_have_the_published_epsilon(name, options):
    """1e-6, as modeling_pretrain.py and modeling_finetune.py of VideoMAE; torch's default is 1e-5."""
    with torch.device("meta"):
        norms = [part for part in create_model(name, **options).modules() if isinstance(part, torch.nn.LayerNorm)]
    assert len(norms) == (24 + 1 + 8 + 1 if "pretrain" in name else 24 + 1)
    assert {norm.eps for norm in norms} == {1e-6}


def test_timm_s_model_of_the_same_name_is_left_alone():
    assert not isinstance(timm.create_model("vit_small_patch16_224", depth=1), Classifier)


def test_overrides():
    options = {"img_size": 64, "num_frames": 8, "tubelet_size": 4, "encoder_embed_dim": 48, "encoder_depth": 2}
    options |= {"encoder_num_heads": 3, "decoder_embed_dim": 24, "decoder_depth": 1, "decoder_num_heads": 2}
    model = create_model(
        "pretrain_videomae_base_patch16_224", **options, decoder_num_classes=10, num_prototypes=6, sinkhorn_eps=0.2
    )
    assert model.encoder.grid == (2, 4, 4) and model.encoder.embed_dim == 48
    assert model.decoder.head.weight.shape == (10, 24) and model.prototypes.shape == (6, 10)
    assert model.objective.epsilon == 0.2


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet50", {}, "--model resnet50"),
        ("vit_tall_patch16_224", {"num_classes": 1}, "vit_tall"),
        ("pretrain_videomae_base_patch16_224_extra", {}, "unknown"),
        ("vit_mini_patch8_32", {"num_classes": 0}, "--nb_classes"),
        ("vit_mini_patch8_32", {"num_classes": 2, "num_frames": 5}, "--num_frames"),
        ("vit_mini_patch8_32", {"num_classes": 2, "num_frames": 0}, "--num_frames"),
        ("vit_mini_patch7_32", {"num_classes": 2}, "--input_size"),
        ("vit_mini_patch8_32", {"num_classes": 2, "embed_dim": 50}, "heads"),
        ("pretrain_videomae_mini_patch8_32", {"target_type": "clip"}, "--target_type clip"),
        ("pretrain_videomae_mini_patch8_32", {"loss_func": "L1"}, "--loss_func L1"),
        ("pretrain_videomae_mini_patch8_32", {"target_type": "pixel", "decoder_num_classes": 5}, "384"),
        ("pretrain_videomae_mini_patch8_32", {"decoder_embed_dim": 15}, "decoder width 15"),
    ],
)
def test_what_cannot_be_made(name, options, words):
    with pytest.raises(ModelError, match=words):
        create_model(name, **options)


def test_same_seed_same_weights_whatever_the_collective():
    """Every rank makes the model under the common seed."""
    states = []
    for all_reduce in (None, lambda tensor: tensor):
        torch.manual_seed(3)
        model = create_model("pretrain_videomae_mini_patch8_32", num_prototypes=5, all_reduce=all_reduce)
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_mini_patch8_32", {"num_classes": 2, "encoder_depth": 1}),
        ("vit_mini_patch8_32", {"num_classes": 2, "decoder_depth": 1}),
        ("pretrain_videomae_mini_patch8_32", {"depth": 1}),
        ("pretrain_videomae_mini_patch8_32", {"encoder_img_size": 64}),
        ("pretrain_videomae_mini_patch8_32", {"encoder_decoder_depth": 1}),
        ("pretrain_videomae_mini_patch8_32", {"mlp_preloading": "projection.pth"}),  # nothing would be loaded
        ("pretrain_videomae_mini_patch8_32", {"target_type": "dino_v1", "distillation_teacher": "dino_l"}),
    ],
)
def test_what_would_have_no_effect_is_unknown(name, options):
    with pytest.raises(TypeError, match="unknown options"):
        create_model(name, **options)


@pytest.mark.parametrize("dims", [[16, 8], np.array([16, 8]), torch.tensor([16, 8]), range(16, 7, -8)])
def test_widths_come_in_any_sequence(dims):
    model = create_model("pretrain_videomae_mini_patch8_32", num_prototypes=5, projection_dims=dims)
    shapes = [tuple(part.weight.shape) for part in model.head if hasattr(part, "weight")]
    assert shapes == [(16, 384), (8, 16), (256, 8)]
