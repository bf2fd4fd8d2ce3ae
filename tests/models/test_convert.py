"""From a checkpoint's content into a classifier."""

import pytest
import torch

from models import ModelError, create_model
from models.convert import encoder_state, load_encoder

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
    report = load_encoder(model, encoder_state({"model": source.state_dict(), "epoch": 3}))
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
    report = load_encoder(model, encoder_state({"model": source.state_dict()}))
    assert report.unexpected == () and (model.norm.weight == 2).all()


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
    content = {"model": {f"{prefix}{part}{name}": value for name, value in backbone.items()}}
    if part:
        content["model"][f"{prefix}decoder.norm.weight"] = torch.ones(3)
    model = classifier()
    report = load_encoder(model, encoder_state(content))
    assert set(report.missing) == HEAD and report.unexpected == ()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in backbone.items())


def test_from_a_classifier_with_and_without_the_same_classes():
    source = classifier(seed=5, init_scale=1.0)
    model = classifier()
    report = load_encoder(model, encoder_state({"module": source.state_dict()}))
    assert report.has_head and report.missing == report.unexpected == report.mismatched == ()
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    other = classifier(num_classes=4)
    before = other.head.weight.detach().clone()
    report = load_encoder(other, encoder_state({"module": source.state_dict()}))
    assert not report.has_head and torch.equal(other.head.weight, before)
    assert torch.equal(other.fc_norm.weight, source.fc_norm.weight)
    assert report.mismatched[0] == "head.weight: (3, 128) in the file, (4, 128) in the model"
    assert "2 mismatched (head.weight: (3, 128)" in report.describe()


def test_model_key():
    first, second = classifier(seed=5).state_dict(), classifier(seed=6).state_dict()
    content = {"module": first, "ema": second, "epoch": 1}
    assert encoder_state(content)["head.weight"] is first["head.weight"]
    assert encoder_state(content, model_key="absent|ema")["head.weight"] is second["head.weight"]
    assert encoder_state(first).keys() == first.keys()  # a bare state dict
    with pytest.raises(ModelError, match=r"--model_key state_dict.*module, ema, epoch"):
        encoder_state(content, model_key="state_dict")


def test_another_architecture_names_the_first_differences():
    torch.manual_seed(0)
    wide = create_model("vit_tiny_patch8_32", **TINY, num_classes=3)
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"0 of .* patch_embed\.proj\.weight: \(192, 3, 2, 8, 8\) in the file, \(128"):
        load_encoder(model, encoder_state({"model": wide.state_dict()}))
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
        assert set(dropped) <= set(load_encoder(classifier(), state).missing)
    else:
        with pytest.raises(ModelError, match=rf"{54 - lacking} of the encoder's 54.*{dropped[0]} is not in the file"):
            load_encoder(classifier(), state)
