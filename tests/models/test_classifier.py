"""The classifier: pooling, freezing for probes, stochastic depth."""

import pytest
import torch

from engine.optim import parameter_groups
from models import create_model
from models.layers import DropPath


def classifier(seed=0, **changes):
    torch.manual_seed(seed)
    return create_model("vit_mini_patch8_32", **{"num_frames": 4, "num_classes": 5, "depth": 3, **changes})


@pytest.fixture
def clip():
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def test_logits_and_features(clip):
    model = classifier(init_scale=1.0).eval()
    features = model.forward_features(clip)
    assert features.shape == (2, 128)
    torch.testing.assert_close(model(clip), features @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)  # after a fresh norm


def test_first_token_instead_of_the_mean(clip):
    pooled, first = classifier(), classifier(use_mean_pooling=False)
    assert not any(name.startswith("norm.") for name in pooled.state_dict())
    assert not any(name.startswith("fc_norm.") for name in first.state_dict())
    first.load_state_dict(pooled.state_dict(), strict=False)
    tokens = super(type(first), first.eval()).forward(clip)
    torch.testing.assert_close(first.forward_features(clip), tokens[:, 0])
    tokens = super(type(pooled), pooled.eval()).forward(clip)
    expected = torch.nn.functional.layer_norm(tokens.mean(dim=1), (128,), eps=1e-6)
    torch.testing.assert_close(pooled.forward_features(clip), expected)


def test_head_starts_small():
    model, scaled = classifier(init_scale=1.0), classifier(init_scale=0.001)
    torch.testing.assert_close(scaled.head.weight, 0.001 * model.head.weight)
    assert 0.015 < model.head.weight.std() < 0.025 and (model.head.bias == 0).all()


def test_stochastic_depth_grows_with_depth():
    rates = [
        1 - block.drop_path.keep.item() if isinstance(block.drop_path, DropPath) else 0.0
        for block in classifier(drop_path_rate=0.2, depth=5).blocks
    ]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert all(not isinstance(block.drop_path, DropPath) for block in classifier().blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stochastic_depth_drops_clips_and_keeps_the_mean(dtype):
    torch.manual_seed(0)
    drop, branch = DropPath(0.25), torch.ones(8000, 2, 3, dtype=dtype)
    result = drop(branch)
    assert result.dtype == dtype and torch.equal(result.amin(dim=(1, 2)), result.amax(dim=(1, 2)))  # clips as a whole
    kept = result[:, 0, 0] > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.02)  # four deviations
    torch.testing.assert_close(result[kept].float(), torch.full_like(result[kept].float(), 4 / 3), rtol=4e-3, atol=0)
    assert drop.eval()(branch) is branch
    with pytest.raises(ValueError, match="below 1, got 1"):
        DropPath(1)
    assert not drop.state_dict()  # checkpoints do not know the rate


@pytest.mark.parametrize("use_mean_pooling", [True, False])
def test_frozen_backbone(clip, use_mean_pooling):
    options = {"drop_path_rate": 0.9, "drop_rate": 0.5, "attn_drop_rate": 0.5, "init_scale": 1.0}
    model = classifier(use_mean_pooling=use_mean_pooling, **options)
    model.freeze_backbone()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    head = {"head.weight", "head.bias"}
    assert trainable == (head | {"fc_norm.weight", "fc_norm.bias"} if use_mean_pooling else head)
    model.train()
    assert model.training and model.head.training
    torch.testing.assert_close(model.forward_features(clip), model.forward_features(clip), rtol=0, atol=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    torch.nn.functional.cross_entropy(model(clip), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} <= trainable
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trainable)
    features = model.forward_features(clip)
    model.eval()
    torch.testing.assert_close(model.forward_features(clip), features)


def test_unfrozen_backbone_is_random_in_training(clip):
    model = classifier(drop_path_rate=0.9).train()
    assert not torch.equal(model.forward_features(clip), model.forward_features(clip))


def test_dropout_before_the_head(clip):
    model = classifier(fc_drop_rate=0.5, init_scale=1.0).train()
    assert not torch.equal(model(clip), model(clip))
    assert torch.equal(model.eval()(clip), model(clip))


def test_wrong_clip(clip):
    with pytest.raises(ValueError, match=r"\(3, 4, 32, 32\), got \(3, 2, 32, 32\)"):
        classifier()(clip[:, :, :2])


@pytest.mark.parametrize("number", [1, 3])
def test_frozen_blocks_do_not_train_and_take_no_dropout(number, clip):
    model = classifier(drop_rate=0.5, drop_path_rate=0.5, init_scale=1.0)
    model.freeze_blocks(number)
    model.train()
    assert [block.training for block in model.blocks] == [i >= number for i in range(3)]
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    expected = ("patch_embed.", *(f"blocks.{i}." for i in range(number)))
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(expected)}
    model(clip).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == frozen
    scales = {group["name"]: group["lr_scale"] for group in parameter_groups(model, weight_decay=0.1, layer_decay=0.5)}
    whole = parameter_groups(classifier(), weight_decay=0.1, layer_decay=0.5)
    assert scales == {g["name"]: g["lr_scale"] for g in whole if int(g["name"].split("_")[1]) > number}


def test_more_blocks_than_there_are_cannot_be_frozen():
    with pytest.raises(ValueError, match="the model has 3 blocks, 4 of them cannot be frozen"):
        classifier().freeze_blocks(4)
