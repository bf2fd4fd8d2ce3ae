"""Native and wrapped tensors into a classifier or a pre-training model, and the position table that comes along."""

import pytest
import torch

from models import ModelError, create_model
from models.positions import resampled_table, sincos_table
from models.weights.load import load_encoder, load_pretraining, load_projection, trained_grid, weights_hash

TINY = {"num_frames": 4}
HEAD = {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def pretraining(seed=1):
    torch.manual_seed(seed)
    return create_model("pretrain_videomae_mini_patch8_32", **TINY, decoder_depth=1, num_prototypes=5)


def classifier(seed=2, num_classes=3, **changes):
    torch.manual_seed(seed)
    return create_model("vit_mini_patch8_32", **TINY, num_classes=num_classes, **changes)


def test_from_pretraining():
    source, model = pretraining(), classifier()
    report = load_encoder(model, source.state_dict())
    assert set(report.missing) == HEAD and set(report.unexpected) == {"norm.weight", "norm.bias"}
    assert report.mismatched == () and not report.has_head
    for name, value in model.state_dict().items():
        if name not in HEAD:
            assert torch.equal(value, source.state_dict()[f"encoder.{name}"]), name
    # the same function, up to the norm that only pre-training has
    clip = torch.randn(1, 3, 4, 32, 32)
    source.encoder.norm = torch.nn.Identity()
    expected = source.encoder(clip).mean(dim=1)
    expected = torch.nn.functional.layer_norm(expected, (128,), eps=1e-6)
    torch.testing.assert_close(model.eval().forward_features(clip), expected)


def test_norm_is_taken_where_the_model_has_one():
    source, model = pretraining(), classifier(use_mean_pooling=False)
    with torch.no_grad():
        source.encoder.norm.weight.fill_(2)
    report = load_encoder(model, source.state_dict())
    assert report.unexpected == () and (model.norm.weight == 2).all()


def test_a_missing_final_norm_is_no_other_architecture():
    """A classifier that pools has none; of one block it is a tenth of the tensors that a model on a token has."""
    model = classifier(depth=1, use_mean_pooling=False)
    source = classifier(depth=1, seed=7)
    assert {"norm.weight", "norm.bias"} <= set(load_encoder(model, source.state_dict()).missing)
    assert torch.equal(model.blocks[0].mlp.fc1.weight, source.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
    ],
)
@pytest.mark.parametrize("part", ["encoder.", "backbone.", ""])
def test_wrappers(prefix, part):
    expected = classifier(seed=5).state_dict()
    backbone = {name: value for name, value in expected.items() if name not in HEAD}
    tensors = {f"{prefix}{part}{name}": value for name, value in backbone.items()}
    if part:
        tensors[f"{prefix}decoder.norm.weight"] = torch.ones(3)
    model = classifier()
    report = load_encoder(model, tensors)
    assert set(report.missing) == HEAD and report.unexpected == ()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in backbone.items())


def test_two_tensors_of_one_name():
    state = classifier(seed=5).state_dict()
    state["module.blocks.0.norm1.weight"] = torch.zeros(128)
    with pytest.raises(ModelError, match=r"blocks\.0\.norm1\.weight twice, with and without module\."):
        load_encoder(classifier(), state)


def test_a_file_without_the_embedding_is_refused():
    """Two tensors of fifty-four, but the rest is worth nothing without them."""
    state = {n: v for n, v in classifier(seed=5).state_dict().items() if not n.startswith("patch_embed.")}
    with pytest.raises(ModelError, match=r"patch_embed\.proj\.weight is not in the file"):
        load_encoder(classifier(), state)


def test_other_heads_are_refused():
    state = classifier(seed=5).state_dict()
    assert load_encoder(classifier(), state, trained_with={"num_attention_heads": 4}).missing == ()
    with pytest.raises(ModelError, match="records 8 attention heads, the model has 4"):
        load_encoder(classifier(), state, trained_with={"num_attention_heads": 8})
    small = {"num_frames": 2, "num_classes": 2, "depth": 1}
    source = create_model("vit_small_patch16_32", **small)
    model = create_model("vit_small_patch16_32", **small)
    load_encoder(model, source.state_dict(), trained_with={"num_attention_heads": 16})  # what a converter wrote for 6


def test_from_a_classifier_with_and_without_the_same_classes():
    source = classifier(seed=5, init_scale=1.0)
    model = classifier()
    report = load_encoder(model, source.state_dict())
    assert report.has_head and report.missing == report.unexpected == report.mismatched == ()
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    other = classifier(num_classes=4)
    before = other.head.weight.detach().clone()
    report = load_encoder(other, source.state_dict())
    assert not report.has_head and torch.equal(other.head.weight, before)
    assert torch.equal(other.fc_norm.weight, source.fc_norm.weight)
    assert report.mismatched[0] == "head.weight: (3, 128) in the file, (4, 128) in the model"
    assert "2 mismatched (head.weight: (3, 128)" in report.describe()


def test_another_architecture_names_the_first_differences():
    torch.manual_seed(0)
    wide = create_model("vit_tiny_patch8_32", **TINY, num_classes=3)
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"0 of .* patch_embed\.proj\.weight: \(192, 3, 2, 8, 8\) in the file, \(128"):
        load_encoder(model, wide.state_dict())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(("lacking", "fits"), [(0, True), (2, True), (3, False), (20, False)])
def test_ninety_five_percent(lacking, fits):
    """The mini encoder has 54 tensors: 2 may lack, 3 may not."""
    state = {name: value for name, value in classifier(seed=5).state_dict().items() if name not in HEAD}
    assert len(state) == 54
    dropped = list(state)[-lacking:] if lacking else []
    for name in dropped:
        del state[name]
    if fits:
        report = load_encoder(classifier(), state)
        assert set(dropped) <= set(report.missing) and set(report.untrained) == set(dropped)
    else:
        with pytest.raises(ModelError, match=rf"{54 - lacking} of the encoder's 54.*{dropped[0]} is not in the file"):
            load_encoder(classifier(), state)


# ------------------------------------------------------------------------------------------------- pre-training models


def test_pretraining_from_pretraining_takes_everything():
    source, model = pretraining(), pretraining(seed=2)
    report = load_pretraining(model, source.state_dict())
    assert report.missing == report.unexpected == report.mismatched == ()
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert report.digest == weights_hash(source.state_dict()) == weights_hash(model.state_dict())


def test_pretraining_with_another_decoder_takes_what_fits():
    source = pretraining()
    torch.manual_seed(7)
    model = create_model("pretrain_videomae_mini_patch8_32", **TINY, decoder_depth=2, num_prototypes=6)
    before = model.prototypes.detach().clone()
    report = load_pretraining(model, source.state_dict())
    assert torch.equal(model.encoder.blocks[3].mlp.fc2.weight, source.encoder.blocks[3].mlp.fc2.weight)
    assert torch.equal(model.decoder.blocks[0].mlp.fc2.weight, source.decoder.blocks[0].mlp.fc2.weight)
    assert torch.equal(model.prototypes, before)
    assert report.mismatched == ("prototypes: (5, 256) in the file, (6, 256) in the model",)
    assert all(name.startswith("decoder.blocks.1.") for name in report.missing)


def test_pretraining_from_a_classifier_takes_the_encoder():
    source, model = classifier(seed=5), pretraining()
    report = load_pretraining(model, source.state_dict())
    assert torch.equal(model.encoder.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)
    assert "decoder.head.weight" in report.missing and "encoder.norm.weight" in report.missing


def test_pretraining_of_another_width_is_refused():
    torch.manual_seed(0)
    wide = create_model("pretrain_videomae_tiny_patch8_32", **TINY, decoder_depth=1, num_prototypes=5)
    with pytest.raises(ModelError, match=r"another architecture: 0 of .* encoder\.patch_embed"):
        load_pretraining(pretraining(), wide.state_dict())


def test_projection_alone():
    source, model = pretraining(), pretraining(seed=2)
    before = model.encoder.blocks[0].mlp.fc1.weight.detach().clone()
    report = load_projection(model, {f"module.{name}": value for name, value in source.state_dict().items()})
    torch.testing.assert_close(model.head.state_dict(), source.head.state_dict(), rtol=0, atol=0)
    assert torch.equal(model.encoder.blocks[0].mlp.fc1.weight, before)
    assert len(report.matched) == 8
    narrow = create_model("pretrain_videomae_mini_patch8_32", **TINY, projection_dims=[16], num_prototypes=5)
    with pytest.raises(ModelError, match=r"head\.0\.weight \(1024, 384\).*--projection_dims"):
        load_projection(narrow, source.state_dict())
    with pytest.raises(ModelError, match=r"\(none\)"):
        load_projection(model, classifier().state_dict() | {"head.weight": torch.ones(1), "head.bias": torch.ones(1)})


def test_hash_sees_every_bit_and_no_order():
    state = pretraining().state_dict()
    digest = weights_hash(state)
    assert digest == weights_hash(dict(reversed(state.items()))) and len(digest) == 12
    assert digest != weights_hash({**state, "mask_token": state["mask_token"].double()})
    assert digest != weights_hash({**state, "mask_token": state["mask_token"].flatten()})
    changed = state["mask_token"].clone()
    changed.view(torch.int32)[0, 0, 0] ^= 1
    assert digest != weights_hash({**state, "mask_token": changed})


# ------------------------------------------------------------------------------------------------------ position table


def naive_resample(trained, grid, dim):
    """Trilinear interpolation with half-pixel centres, one output place after another."""
    table = sincos_table(trained[0] * trained[1] * trained[2], dim)[0].double().reshape(*trained, dim)
    out = torch.zeros(*grid, dim, dtype=torch.float64)
    for place in torch.cartesian_prod(*map(torch.arange, grid)).tolist():
        corners = []
        for i, length, new in zip(place, trained, grid, strict=True):
            x = min(max((i + 0.5) * length / new - 0.5, 0.0), length - 1.0)
            low = min(int(x), max(length - 2, 0))
            corners.append([(low, 1 - (x - low)), (min(low + 1, length - 1), x - low)])
        for t, wt in corners[0]:
            for y, wy in corners[1]:
                for z, wz in corners[2]:
                    out[tuple(place)] += wt * wy * wz * table[t, y, z]
    return out.reshape(1, -1, dim)


@pytest.mark.parametrize("grid", [(4, 4, 4), (2, 8, 8), (1, 4, 4), (2, 2, 2), (3, 5, 6)], ids=str)
def test_resampled_table_against_the_naive_form(grid):
    table = resampled_table((2, 4, 4), grid, 12)
    assert table.dtype == torch.float32 and table.shape == (1, grid[0] * grid[1] * grid[2], 12)
    torch.testing.assert_close(table.double(), naive_resample((2, 4, 4), grid, 12), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(8, 14, 14), (16, 14, 14), (8, 7, 7), (8, 18, 18)], ids=str)
def test_the_table_of_the_same_grid_is_the_table(grid):
    assert torch.equal(resampled_table(grid, grid, 384), sincos_table(grid[0] * grid[1] * grid[2], 384))


@pytest.mark.parametrize("changes", [{"num_frames": 32}, {"img_size": 112}, {"img_size": 288}], ids=str)
def test_a_16_frame_model_at_other_sizes(changes):
    """Weights of a 16 x 224 x 224 model: the loader resamples, and says so."""
    sizes = {"num_classes": 2, "depth": 1, "embed_dim": 24, "num_heads": 2}
    source = create_model("vit_small_patch16_224", **sizes)
    model = create_model("vit_small_patch16_224", **{**sizes, **changes})
    report = load_encoder(model, source.state_dict(), trained_with={"num_frames": 16, "input_size": 224})
    assert torch.equal(model.pos_embed, resampled_table((8, 14, 14), model.grid, 24))
    assert not torch.equal(model.pos_embed, sincos_table(model.num_tokens, 24))
    assert model.position_grid == (8, 14, 14)
    assert f"resampled from 8x14x14 to {'x'.join(map(str, model.grid))} tokens" in report.describe()
    assert report.missing == report.unexpected == report.mismatched == ()


def test_twice_the_frames_shown_slowly_look_the_same():
    """Every frame shown twice, a 32-frame model with resampled positions sees nearly what the 16-frame one does."""
    torch.manual_seed(0)
    sizes = {"num_classes": 5, "depth": 2, "embed_dim": 48, "num_heads": 4, "init_scale": 1, "img_size": 64}
    source = create_model("vit_small_patch16_224", num_frames=8, **sizes).eval()
    clip = torch.randn(2, 3, 8, 64, 64)
    clip[:, :, 1::2] = clip[:, :, ::2]  # so that a tubelet of the slow clip is one of the fast clip
    slow = clip.repeat_interleave(2, dim=2)
    resampled, plain = (create_model("vit_small_patch16_224", num_frames=16, **sizes).eval() for _ in range(2))
    load_encoder(resampled, source.state_dict(), trained_with={"num_frames": 8, "input_size": 64})
    load_encoder(plain, source.state_dict())
    expected = source.forward_features(clip)
    error, without = ((m.forward_features(slow) - expected).norm() for m in (resampled, plain))
    assert error < 0.6 * without


def test_pretraining_tables_are_resampled_in_encoder_and_decoder():
    source = pretraining()
    model = create_model("pretrain_videomae_mini_patch8_32", num_frames=8, decoder_depth=1, num_prototypes=5)
    load_pretraining(model, source.state_dict(), trained_with={"num_frames": 4, "input_size": 32})
    assert torch.equal(model.encoder.pos_embed, resampled_table((2, 4, 4), (4, 4, 4), 128))
    assert torch.equal(model.decoder.pos_embed, resampled_table((2, 4, 4), (4, 4, 4), 64))


def test_trained_grid():
    tubelet = (2, 16, 16)
    assert trained_grid({"num_frames": 16, "input_size": 224}, tubelet) == (8, 14, 14)
    assert trained_grid({"num_frames": 32, "input_size": 224, "position_grid": [8, 14, 14]}, tubelet) == (8, 14, 14)
    assert trained_grid({"num_frames": 32, "input_size": 224, "position_grid": None}, tubelet) == (16, 14, 14)
    assert trained_grid({}, tubelet) is None
    for args in ({"num_frames": 15, "input_size": 224}, {"num_frames": 16, "input_size": 8}):
        with pytest.raises(ModelError, match="do not divide: check --pretrained_clip"):
            trained_grid(args, tubelet)
    for grid in ([8, 4], "8x4x4", [8, 4, 0]):
        with pytest.raises(ModelError, match="position_grid is"):
            trained_grid({"position_grid": grid}, tubelet)
    report = load_encoder(classifier(), classifier(seed=4).state_dict())
    assert "positions of 2x4x4 tokens: the file does not say" in report.describe()


def test_mae_st_is_another_architecture():
    """facebookresearch/mae_st: a class token, and positions in space and time apart; its blocks alone would load."""
    state = create_model("vit_mini_patch8_32", num_frames=4, num_classes=2).state_dict()
    width = state["patch_embed.proj.weight"].shape[0]
    state |= {"cls_token": torch.zeros(1, 1, width), "pos_embed_class": torch.zeros(1, 1, width)}
    state |= {"pos_embed_spatial": torch.zeros(1, 16, width), "pos_embed_temporal": torch.zeros(1, 2, width)}
    model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=2)
    with pytest.raises(ModelError, match=r"its encoder has cls_token, pos_embed_\w+, pos_embed_\w+ and 1 more"):
        load_encoder(model, state, trained_with={})
