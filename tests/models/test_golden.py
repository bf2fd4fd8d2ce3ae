"""Parity with the released code: tests/golden holds its results in float32, weights.py the weights by name."""

import json

import numpy as np
import pytest
import torch
from golden import weights
from golden.cases import GOLDEN, PretrainingCase, fill

from engine.optim import parameter_groups
from models import create_model
from models.attention import OPERATORS
from models.sinkhorn.passes import SoftmaxPasses
from models.sinkhorn.prototype_loss import prototype_cross_entropy


def attend_in_blocks(q, k, v, *, dropout):
    """The attention of bf16 on a CPU, in float32."""
    assert dropout == 0
    return getattr(torch.ops, OPERATORS).attend_in_blocks(q, k, v)


def without_scores(*args, scores_SK, **options):
    return prototype_cross_entropy(*args, **options)


IMPLEMENTATIONS = {  # of the same computation, patched in for the default; tests/engine has --compile
    "default": {},
    "attention in blocks": {"models.layers.attend": attend_in_blocks},
    "Sinkhorn by softmax": {"models.sinkhorn.balance.passes_over": SoftmaxPasses},
    "scores recomputed": {"models.objectives.prototype_cross_entropy": without_scores},
    "activations recomputed": {"use_checkpoint": True},
}


@pytest.fixture(params=["pretrain_mlp", "pretrain_features", "pretrain_pixel"])
def name(request):
    return request.param


@pytest.fixture(params=IMPLEMENTATIONS)
def case(request, name, monkeypatch):
    options = dict(IMPLEMENTATIONS[request.param])
    for target in [key for key in options if "." in key]:
        monkeypatch.setattr(target, options.pop(target))
    return PretrainingCase(name, **options)


def test_predictions_and_loss(case):
    out = case.run()
    np.testing.assert_allclose(out["predicted"].detach(), case.golden["prediction"], rtol=1e-4, atol=2e-5)
    assert out["loss"].item() == pytest.approx(float(case.golden["loss"]), rel=1e-5)


def test_target_features(case):
    if case.given_features:
        expected = case.inputs(*(case.config["seed"] + i for i in range(3)))[2]
    else:
        clip, mask, _ = case.inputs(*(case.config["seed"] + i for i in range(3)))
        masked = mask.nonzero()[:, 1].reshape(len(mask), -1)
        expected = case.model.target_features(clip, masked)
    np.testing.assert_allclose(expected, case.golden["labels"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pretrain_mlp", "pretrain_features"])
def test_codes_equal_where_the_margin_is_not_a_tie(name):
    case = PretrainingCase(name)
    out = case.run()
    for ours, theirs in (("codes_target", "projection"), ("codes_video", "video")):
        decided = case.golden[f"margin_{theirs}"] >= 1e-3
        assert decided.mean() > 0.95
        same = out[ours].numpy() == case.golden[f"assign_{theirs}"]
        assert same[decided].all()
        assert out[ours].dtype == torch.int64


def test_every_gradient(case):
    case.run()["loss"].backward()
    grads = {name: p.grad for name, p in case.model.named_parameters()}
    expected = dict(zip(case.golden["gradnorm_names"], case.golden["gradnorm_values"], strict=True))
    assert set(grads) == set(expected)
    for name, norm in expected.items():
        assert grads[name].norm().item() == pytest.approx(norm, rel=1e-4), name
    for key in case.golden.files:
        if key.startswith("grad/"):
            theirs = case.golden[key]
            np.testing.assert_allclose(grads[key[5:]], theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max(), err_msg=key)


def test_four_step_trajectory(case):
    groups = parameter_groups(case.model, weight_decay=0.05)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step in range(4):
        seed = case.config["seed"] + step
        out = case.model(*case.inputs(seed + 10, seed + 20, seed + 30))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    np.testing.assert_allclose(losses, case.golden["trajectory"], rtol=1e-4)


@pytest.fixture(scope="module")
def classifier():
    golden = np.load(GOLDEN / "finetune.npz")
    config = json.loads(str(golden["config"]))
    model = create_model(
        "vit_base_patch16_224",
        **{key: config[key] for key in ("img_size", "num_classes", "embed_dim", "depth", "num_heads", "init_scale")},
    )
    return golden, config, fill(model).eval()


def test_classifier(classifier):
    golden, config, model = classifier
    clip = torch.from_numpy(weights.video(config["seed"], 2, 16, config["size"]))
    np.testing.assert_allclose(model.forward_features(clip).detach(), golden["features"], rtol=1e-4, atol=1e-5)
    logits = model(clip)
    np.testing.assert_allclose(logits.detach(), golden["logits"], rtol=1e-4, atol=1e-5)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(golden["target"]))
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    model.zero_grad()
    loss.backward()
    grads = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    expected = dict(zip(golden["gradnorm_names"], golden["gradnorm_values"], strict=True))
    assert grads.keys() == expected.keys()
    for name, norm in expected.items():
        assert grads[name] == pytest.approx(norm, rel=1e-4), name


def test_classifier_parameter_groups(classifier):
    golden, config, model = classifier
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=config["layer_decay"])
    names = {id(p): name for name, p in model.named_parameters()}
    ours = {names[id(p)]: [g["lr_scale"], g["weight_decay"]] for g in groups for p in g["params"]}
    assert ours == json.loads(str(golden["param_groups"]))


@pytest.mark.parametrize(("key", "shapes"), json.loads((GOLDEN / "state_dict_keys.json").read_text()).items())
def test_state_dict_keys_and_shapes(key, shapes):
    name, what = key.split("/")
    options = {"num_classes": int(what)} if what.isdigit() else {"target_type": what}
    if what in ("pixel",):
        options["loss_func"] = "L2"
    with torch.device("meta"):
        model = create_model(name, **options)
    assert {n: list(v.shape) for n, v in model.state_dict().items()} == shapes
