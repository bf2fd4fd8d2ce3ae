"""From native tensors back to the model that they are of."""

import pytest
import torch

from models import ModelError, create_model
from models.decoder import Decoder, DecoderConfig
from models.sigma import Sigma
from models.weights.load import weights_hash
from models.weights.rebuild import describe, rebuild

ARGS = {"num_frames": 4, "input_size": 32}
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
CLASSIFIERS = {
    "mean pooling": {},
    "first token": {"use_mean_pooling": False},
    "layer scale": {"init_values": 0.3},
    "wider MLPs": {"mlp_ratio": 4.5},
    "other patches": {"patch_size": 16, "tubelet_size": 1, "depth": 1},
    "trained with dropout": {"fc_drop_rate": 0.5, "drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.2},
}
WIDTH = {"decoder_num_classes": 20}  # of the teacher's features
PRETRAINING = {
    "sigma": {"num_prototypes": 7, "projection_dims": [24, 40]},
    "sigma, one layer": {"num_prototypes": 7, "projection_dims": []},
    "videomae": {"target_type": "pixel", "loss_func": "L2"},
    "videomae, raw pixels": {"target_type": "pixel", "loss_func": "L2", "normalize_target": False},
    "pixels, prototypes": {"target_type": "pixel", "num_prototypes": 7},
    "teacher": {"target_type": "dino_v1", "num_prototypes": 7},
    "second teacher": {"target_type": "dino_v2", "loss_func": "L2"},
    "video model as teacher": {"target_type": "video", "num_prototypes": 7, **WIDTH},
    "timm's teacher": {"target_type": "timm", "num_prototypes": 7, **WIDTH},
    "collapsing": {"target_type": "mlp", "loss_func": "L2", "projection_dims": [8]},
    "embedding width": {"decoder_num_classes": 20, "num_prototypes": 9, "projection_dims": [8]},
    "no decoder blocks": {"decoder_depth": 0, "num_prototypes": 3, "projection_dims": [8]},
    "layer scale": {"init_values": 0.3, "num_prototypes": 3, "projection_dims": [8]},
}


def scramble(model, seed=2):
    """Random weights everywhere, also where training starts from zeros and ones."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    return model.eval()


def make(name, **options):
    return scramble(create_model(name, num_frames=4, **options))


def assert_same_settings(found, model):
    """What `state_dict` does not hold: sizes in the modules' descriptions, heads, position tables."""
    assert str(found) == str(model)
    heads = [[m.num_heads for m in each.modules() if hasattr(m, "num_heads")] for each in (found, model)]
    assert heads[0] == heads[1]
    torch.testing.assert_close(dict(found.named_buffers()), dict(model.named_buffers()), rtol=0, atol=0)


@pytest.mark.parametrize("case", CLASSIFIERS)
@torch.no_grad()
def test_classifiers(case):
    options = CLASSIFIERS[case]
    model = make("vit_mini_patch8_32", num_classes=6, **options)
    state = model.state_dict()
    found = rebuild(state, ARGS)
    assert not found.training and weights_hash(found.state_dict()) == weights_hash(state)
    assert found.grid == model.grid and [b.attn.num_heads for b in found.blocks] == [4] * len(model.blocks)
    torch.testing.assert_close(found(CLIP), model(CLIP), rtol=0, atol=0)
    assert describe(state) == "classifier, 6 classes, " + ("first token" if case == "first token" else "mean pooling")


@pytest.mark.parametrize("case", PRETRAINING)
@torch.no_grad()
def test_pretraining_models(case):
    options = {"decoder_depth": 2, "target_type": "mlp", **PRETRAINING[case]}
    model = make("pretrain_videomae_mini_patch8_32", **options)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    args = {**ARGS, "target_type": options["target_type"], "normalize_target": options.get("normalize_target", True)}
    found = rebuild(state, args)
    assert isinstance(found, Sigma) and weights_hash(found.state_dict()) == weights_hash(state)
    assert_same_settings(found, model)
    mask = torch.zeros(2, 32, dtype=torch.bool)
    mask[:, 10:] = True
    features = None if model.targets is not None else torch.randn(2, 22, len(state["decoder.head.weight"]))
    out, expected = found(CLIP, mask, features), model(CLIP, mask, features)
    for name in expected:
        torch.testing.assert_close(out[name], expected[name], rtol=0, atol=0)
    assert ("SIGMA" in describe(state)) == (model.prototypes is not None)


@pytest.mark.parametrize("case", ["sigma", "videomae", "teacher"])
def test_without_options_the_tensors_tell(case):
    model = create_model("pretrain_videomae_mini_patch16_224", decoder_depth=1, **PRETRAINING[case])
    found = rebuild(model.state_dict(), {})
    assert found.encoder.clip_shape == (3, 16, 224, 224)
    assert_same_settings(found, model)


def test_options_of_the_objective():
    model = make("pretrain_videomae_mini_patch8_32", num_prototypes=4, projection_dims=[8])
    found = rebuild(model.state_dict(), {**ARGS, "sinkhorn_eps": 0.3, "sinkhorn_iterations": 3})
    assert (found.objective.epsilon, found.objective.num_iters) == (0.3, 3)
    released = {**ARGS, "normlize_target": False}  # the released code's spelling
    pixels = make("pretrain_videomae_mini_patch8_32", target_type="pixel", loss_func="L2")
    assert rebuild(pixels.state_dict(), released).targets.normalize is False
    assert rebuild(pixels.state_dict(), ARGS).targets.normalize is True


@pytest.mark.parametrize(
    ("args", "heads"),
    [
        ({}, 6),
        ({"model": "vit_small_patch8_32"}, 6),
        ({"model": "pretrain_videomae_large_patch16_224"}, 6),  # of another width
        ({"num_attention_heads": 16}, 6),  # what transformers' converter writes for small
    ],
)
def test_heads_of_a_known_width(args, heads):
    state = make("vit_small_patch8_32", num_classes=2, depth=1).state_dict()
    assert rebuild(state, {**ARGS, **args}).blocks[0].attn.num_heads == heads


@torch.no_grad()
def test_heads_of_another_width():
    options = {"encoder_embed_dim": 48, "encoder_num_heads": 3, "encoder_depth": 2, "decoder_embed_dim": 40}
    options |= {"decoder_num_heads": 5, "decoder_depth": 1}
    model = make("pretrain_videomae_mini_patch8_32", **options, num_prototypes=3, projection_dims=[8])
    state = model.state_dict()
    with pytest.raises(ModelError, match=r"width 48.*must say num_attention_heads"):
        rebuild(state, ARGS)
    with pytest.raises(ModelError, match=r"width 40.*must say decoder_num_attention_heads"):
        rebuild(state, {**ARGS, "num_attention_heads": 3})
    found = rebuild(state, {**ARGS, "num_attention_heads": 3, "decoder_num_attention_heads": 5})
    torch.testing.assert_close(found.encoder(CLIP), model.encoder(CLIP), rtol=0, atol=0)
    assert found.decoder.blocks[0].attn.num_heads == 5


@torch.no_grad()
def test_resampled_positions():
    """Weights that were trained on another grid's table have to go on with it."""
    model = make("vit_mini_patch8_32", num_classes=2)
    model.resample_positions((4, 2, 2))
    found = rebuild(model.state_dict(), {**ARGS, "position_grid": [4, 2, 2]})
    torch.testing.assert_close(found(CLIP), model(CLIP), rtol=0, atol=0)
    assert not torch.equal(rebuild(model.state_dict(), ARGS)(CLIP), model(CLIP))
    pretraining = make("pretrain_videomae_mini_patch8_32", num_prototypes=3, projection_dims=[8])
    sizes = DecoderConfig(decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=2)
    decoder = Decoder(sizes, grid=(2, 4, 4), out_dim=1)
    decoder.resample_positions((4, 2, 2))
    found = rebuild(pretraining.state_dict(), {**ARGS, "position_grid": [4, 2, 2]})
    assert torch.equal(found.decoder.pos_embed, decoder.pos_embed) and found.encoder.position_grid == (4, 2, 2)


def test_low_precision_becomes_float32():
    model = make("vit_mini_patch8_32", num_classes=2)
    state = {name: value.bfloat16() for name, value in model.state_dict().items()}
    found = rebuild(state, ARGS)
    assert all(value.dtype == torch.float32 for value in found.state_dict().values())
    assert torch.equal(found.head.weight, state["head.weight"].float())


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@torch.no_grad()
def test_what_cannot_be_rebuilt():
    classifier = make("vit_mini_patch8_32", num_classes=2).state_dict()
    sigma = make("pretrain_videomae_mini_patch8_32", num_prototypes=3, projection_dims=[8]).state_dict()
    encoder = {name: value for name, value in sigma.items() if name.startswith("encoder.")}
    conv2d = {**classifier, "patch_embed.proj.weight": torch.ones(128, 3, 8, 8)}
    oblong = {**classifier, "patch_embed.proj.weight": torch.ones(128, 3, 2, 8, 4)}
    thin = {**sigma, "encoder.blocks.0.mlp.fc1.weight": torch.ones(256, 128)}
    cases = [
        (without(classifier, "head.weight", "head.bias"), ARGS, r"encoder alone \(head\.weight missing\).*--finetune"),
        (encoder, ARGS, r"encoder alone \(decoder\.head\.weight, encoder_to_decoder\.weight, mask_token missing\)"),
        (without(classifier, "blocks.1.norm1.bias"), ARGS, r"blocks\.1\.norm1\.bias is missing"),
        ({**classifier, "pos_embed": torch.ones(3)}, ARGS, r"pos_embed is not in the model"),
        ({**classifier, "head.bias": torch.ones(3)}, ARGS, r"head\.bias is \(3,\), not \(2,\)"),
        ({"fc.weight": torch.ones(2, 2)}, ARGS, r"no patch_embed and blocks.*\(fc\.weight"),
        (conv2d, ARGS, r"\(128, 3, 8, 8\)"),
        (oblong, ARGS, r"\(128, 3, 2, 8, 4\)"),
        (thin, ARGS, r"2 times as wide"),
        (classifier, {**ARGS, "num_frames": 5}, "--num_frames"),
        (classifier, {**ARGS, "input_size": "32"}, "input_size 32"),
        (classifier, {**ARGS, "input_size": [32, 40]}, r"input_size \[32, 40\]"),
    ]
    for state, args, words in cases:
        with pytest.raises(ModelError, match=words):
            rebuild(state, args)
    assert rebuild(classifier, {**ARGS, "input_size": [32, 32]}).clip_shape == (3, 4, 32, 32)
    assert describe(encoder) == describe(without(classifier, "head.weight")) == "encoder alone"
