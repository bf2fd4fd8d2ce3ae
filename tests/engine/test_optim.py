"""Parameter groups and optimizers (the groups of the released recipe are compared in models/test_golden.py)."""

import pytest
import torch

from engine.optim import OptimConfig, build_optimizer, layer_index, parameter_groups
from models import create_model


def test_rates_are_scaled_by_the_batch_of_all_ranks_over_256():
    """Published: 1.5e-4, at 32 clips on each of 8 x 4 GPUs a rate of 6e-4 (arXiv 1706.02677 for the rule)."""
    rates = {"lr": 1.5e-4, "min_lr": 1e-5, "warmup_lr": 1e-6}
    config = OptimConfig(batch_size=16, update_freq=2, epochs=800, warmup_epochs=40, opt_betas=(0.9, 0.95), **rates)
    schedule = config.schedule(num_batches=201, world_size=32)
    assert config.total_batch(32) == 1024 and schedule.steps_per_epoch == 100
    assert (schedule.lr, schedule.min_lr, schedule.warmup_lr) == pytest.approx((6e-4, 4e-5, 4e-6))
    assert (schedule.weight_decay, schedule.weight_decay_end) == (0.05, 0.05)
    assert schedule.lr_at(0) == pytest.approx(4e-6) and schedule.lr_at(3999) == pytest.approx(6e-4)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("patch_embed.proj.weight", 0), ("blocks.0.norm1.bias", 1), ("blocks.11.mlp.fc2.weight", 12)]
    + [("fc_norm.weight", 13), ("head.bias", 13), ("norm.weight", 13), ("encoder.blocks.3.attn.q_bias", 4)],
)
def test_depth_of_a_parameter(name, depth):
    assert layer_index(name, 12) == depth


def test_every_trainable_parameter_is_in_one_group():
    model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=3)
    model.freeze_backbone()
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    assert {group["lr_scale"] for group in groups} == {1.0}  # only the head's depth is left


def test_layer_decay_is_geometric():
    model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=3, depth=3)
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    scales = {group["name"].removeprefix("layer_").split("_")[0]: group["lr_scale"] for group in groups}
    assert scales == {"0": 0.5**4, "1": 0.5**3, "2": 0.25, "3": 0.5, "4": 1.0}
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["name"].endswith("_decay") and "no" not in group["name"] else 0)
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


def test_mask_token_is_not_decayed_and_prototypes_are():
    model = create_model(
        "pretrain_videomae_mini_patch8_32", num_frames=4, decoder_depth=1, num_prototypes=5, projection_dims=[8]
    )
    groups = parameter_groups(model, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model.mask_token)] == 0 and decay[id(model.prototypes)] == 0.1
    assert len(groups) == 2


def test_what_is_held_has_groups_of_its_own():
    model = create_model(
        "pretrain_videomae_mini_patch8_32", num_frames=4, decoder_depth=1, num_prototypes=5, projection_dims=[8]
    )
    groups = parameter_groups(model, weight_decay=0.1, held_steps={"head.": 7})
    held = {id(p): group["held_steps"] for group in groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if held[id(p)] == 7} == {
        name for name, _ in model.named_parameters() if name.startswith("head.")
    }
    assert {*held.values()} == {0, 7} and len(groups) == 4
    assert len(parameter_groups(model, weight_decay=0.1, held_steps={"head.": 0})) == 2


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_a_gate_opens_at_its_step(opt):
    """Until then a gradient is zero, the weight is not decayed, and no momentum gathers; the rest is trained."""
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 3), "other": torch.nn.Linear(2, 3)})
    options = OptimConfig(
        batch_size=256, epochs=4, lr=0.1, min_lr=0.1, warmup_epochs=0, opt_betas=(0.9, 0.95), weight_decay=0.5, opt=opt
    )
    optimizer = options.build(model, lr=0.1, held_steps={"head.": 2})
    schedule = options.schedule(num_batches=1, world_size=1)
    for step in range(4):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        schedule.apply(optimizer, step)
        (model["head"](torch.ones(2)) + model["other"](torch.ones(2))).sum().backward()
        norms = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        still = {name for name, p in model.named_parameters() if torch.equal(before[name], p)}
        assert still == ({"head.weight", "head.bias"} if step < 2 else set())
        assert {name for name, norm in norms.items() if norm == 0} == still
        moment = {"adamw": "exp_avg", "sgd": "momentum_buffer"}[opt]
        moments = {name: optimizer.state[p][moment] for name, p in model.named_parameters()}
        assert {name for name, value in moments.items() if not value.any()} == still


def test_unknown_optimizer():
    parameter = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="--opt lamb"):
        build_optimizer([{"params": [parameter]}], opt="lamb", lr=1, betas=(0, 0), eps=1, momentum=0)
