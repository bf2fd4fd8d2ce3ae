"""Parity with the released code: tests/golden holds its results in float32, weights.py the weights by name."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.optim import parameter_groups
from models import create_model
from models.sinkhorn.passes import SoftmaxPasses
from models.sinkhorn.prototype_loss import prototype_cross_entropy

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)

TINY = {
    "img_size": 64,
    "encoder_embed_dim": 48,
    "encoder_depth": 3,
    "encoder_num_heads": 4,
    "decoder_embed_dim": 24,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
    "num_prototypes": 40,
}


def fill(model):
    """Give every parameter the golden value of its name."""
    state = {n: torch.from_numpy(weights.filled(n, tuple(v.shape))) for n, v in model.state_dict().items()}
    model.load_state_dict(state, strict=True)
    return model


class Case:
    """One golden pre-training run: model, inputs and recorded results."""

    def __init__(self, name, **options):
        self.golden = np.load(GOLDEN / f"{name}.npz")
        self.config = json.loads(str(self.golden["config"]))
        self.given_features = self.config["target"] == "feat"
        self.model = fill(
            create_model(
                "pretrain_videomae_base_patch16_224",
                target_type=self.config["target_type"],
                loss_func=self.config["loss_func"],
                decoder_num_classes=self.config["decoder_num_classes"],
                sinkhorn_eps=self.config.get("eps", 0.05),
                **TINY,
                **options,
            )
        )

    def inputs(self, video_seed, mask_seed, feature_seed):
        """Clip, mask and, for the feature case, the standardised features at the masked places."""
        batch, size = self.config["batch"], self.config["size"]
        clip = torch.from_numpy(weights.video(video_seed, batch, 16, size))
        patches = (size // 16) ** 2
        mask = torch.from_numpy(weights.tube_mask(mask_seed, batch, 8, patches, self.config["mask_ratio"]))
        features = None
        if self.given_features:
            raw = weights.features(feature_seed, (batch, 8, patches, self.config["decoder_num_classes"]))
            raw = torch.from_numpy(raw).flatten(1, 2)
            raw = (raw - raw.mean(1, keepdim=True)) / (raw.var(1, unbiased=True, keepdim=True).sqrt() + 1e-6)
            features = raw[mask].reshape(batch, -1, raw.shape[-1])
        return clip, mask, features

    def run(self):
        seed = self.config["seed"]
        self.first_inputs = self.inputs(seed, seed + 1, seed + 2)
        return self.model(*self.first_inputs)


def attend_in_blocks(q, k, v, *, dropout):
    """What bf16 on a CPU takes, in float32."""
    assert dropout == 0
    return torch.ops.sigma.attend_in_blocks(q, k, v)


def without_scores(*args, scores_SK, **options):
    return prototype_cross_entropy(*args, **options)


WAYS = {  # of computing the same, each in the place of what would be taken here: tests/engine has --compile
    "as it is": {},
    "attention in blocks": {"models.layers.attend": attend_in_blocks},
    "Sinkhorn by softmax": {"models.sinkhorn.balance.passes_over": SoftmaxPasses},
    "scores computed again": {"models.objectives.prototype_cross_entropy": without_scores},
    "activations computed again": {"use_checkpoint": True},
}


@pytest.fixture(params=["pretrain_mlp", "pretrain_features", "pretrain_pixel"])
def name(request):
    return request.param


@pytest.fixture(params=WAYS)
def case(request, name, monkeypatch):
    options = dict(WAYS[request.param])
    for target in [key for key in options if "." in key]:
        monkeypatch.setattr(target, options.pop(target))
    return Case(name, **options)


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
    case = Case(name)
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
