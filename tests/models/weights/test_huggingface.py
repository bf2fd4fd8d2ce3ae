"""Between our names and transformers' VideoMAE: the same numbers come out, in both directions."""

import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from processes import ROOT
from safetensors.torch import load_file, save_file
from transformers import (
    AutoVideoProcessor,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEModel,
)

from engine.checkpointing.weight_folders import read_facts
from models import ModelError, create_model
from models.weights.huggingface import (
    dropped_names,
    from_huggingface,
    is_huggingface,
    to_huggingface,
)
from models.weights.huggingface_config import huggingface_config, preprocessor_config, video_preprocessor_config
from models.weights.load import load_encoder, native_state
from models.weights.model_card import model_card
from models.weights.rebuild import rebuild

ARGS = {"num_frames": 4, "input_size": 32}
SIZES = {  # width, heads, depth, decoder width, its heads
    "mini": (128, 4, 2, 64, 2),
    "small": (384, 6, 1, 192, 3),
}
PROCESSORS = {
    "preprocessor_config.json": preprocessor_config,
    "video_preprocessor_config.json": video_preprocessor_config,
}
EXACT = {"rtol": 0, "atol": 1e-5}


@torch.no_grad()
def fill(model, seed=0):
    """Weights as training leaves them: norms that scale and shift, biases, tokens of variance about 1."""
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if value.dim() > 1:
            value.normal_(std=value[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            value.normal_(mean=1, std=0.3)
        else:
            value.normal_(std=0.3)
    return model.eval()


def theirs(cls, size, **changes):
    width, heads, depth, narrow, decoder_heads = SIZES[size]
    config = VideoMAEConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=depth,
        intermediate_size=4 * width,
        image_size=32,
        patch_size=8,
        num_frames=4,
        decoder_hidden_size=narrow,
        decoder_num_attention_heads=decoder_heads,
        decoder_num_hidden_layers=1,
        decoder_intermediate_size=4 * narrow,
        layer_norm_eps=1e-6,
        num_labels=5,
        **changes,
    )
    return fill(cls(config))


def ours(kind, size="mini", **changes):
    depth = SIZES[size][2]
    if kind == "classifier":
        model = create_model(f"vit_{size}_patch8_32", num_frames=4, depth=depth, num_classes=5, **changes)
    else:
        changes = {"target_type": "pixel", "loss_func": "L2", **changes} if kind == "pixel" else changes
        name = f"pretrain_videomae_{size}_patch8_32"
        changes = {"decoder_depth": 1, "num_prototypes": 7, "projection_dims": [16], **changes}
        model = create_model(name, num_frames=4, encoder_depth=depth, **changes)
    return fill(model)


def clip(batch=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, 4, 32, 32, generator=generator) * 1.5 + 0.5


def mask(batch=2):
    rows = torch.zeros(batch, 32, dtype=torch.bool)
    for row in rows:
        row[torch.randperm(32, generator=torch.Generator().manual_seed(4))[:20]] = True
    return rows


def swapped(clip_BCTHW):
    return clip_BCTHW.transpose(1, 2)  # transformers has frames before colours


def export(model, folder, *, short_side=None, **facts):
    """What the converter writes, without the card."""
    folder.mkdir()
    save_file(to_huggingface(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(huggingface_config(model, **facts)))
    for name, config in PROCESSORS.items():
        (folder / name).write_text(json.dumps(config(model, short_side=short_side)))
    return folder


def load(cls, folder):
    """By transformers, which must neither miss nor find anything."""
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def saved(model, folder):
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


# --------------------------------------------------------------------------------------------------- theirs into ours


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pooled", [True, False])
@torch.no_grad()
def test_classifier_from_transformers(size, pooled, tmp_path):
    source = theirs(VideoMAEForVideoClassification, size, use_mean_pooling=pooled)
    state, file = source.state_dict(), saved(source, tmp_path / "saved")
    in_memory, in_file = (any(name.endswith("q_bias") for name in names) for names in (state, file))
    assert (in_memory, in_file) == (False, True)  # transformers 5 has both names itself
    assert is_huggingface(state) and is_huggingface(file)
    equal(from_huggingface(state), from_huggingface(file))
    model = rebuild(native_state(file), ARGS)
    assert model.blocks[0].attn.num_heads == SIZES[size][1]
    if pooled:
        source.fc_norm.eps = 1e-6
    logits = model(clip())
    assert logits.std() > 0.3
    torch.testing.assert_close(logits, source(swapped(clip())).logits, **EXACT)


@torch.no_grad()
def test_what_the_other_epsilon_of_fc_norm_does():
    """4.5e-6 / v relative: with tokens of variance 1 the logits agree to 1e-5 of their size all the same."""
    source = theirs(VideoMAEForVideoClassification, "mini")
    inputs = []
    source.fc_norm.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    found = source(swapped(clip())).logits
    assert source.fc_norm.eps == 1e-5
    source.fc_norm.eps = 1e-6
    expected = source(swapped(clip())).logits
    torch.testing.assert_close(rebuild(from_huggingface(source.state_dict()), ARGS)(clip()), expected, **EXACT)
    variance_B1 = inputs[0].var(dim=1, correction=0, keepdim=True)
    assert variance_B1.min() > 0.1 and variance_B1.max() < 10
    # The difference before norm bias, head bias: exactly the factor of the docstring.
    constant = source.classifier(source.fc_norm.bias)
    factor = torch.sqrt((variance_B1 + 1e-6) / (variance_B1 + 1e-5))
    torch.testing.assert_close(found - constant, (expected - constant) * factor, rtol=0, atol=2e-6)
    assert (found - expected).abs().max() < 1e-5 / variance_B1.min() * expected.abs().max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalized", [True, False])
@torch.no_grad()
def test_pretraining_from_transformers(size, normalized):
    source = theirs(VideoMAEForPreTraining, size, use_mean_pooling=False, norm_pix_loss=normalized)
    source.decoder.norm.eps = 1e-6
    model = rebuild(from_huggingface(source.state_dict()), {**ARGS, "normalize_target": normalized})
    out, expected = model(clip(), mask()), source(swapped(clip()), mask())
    torch.testing.assert_close(out["predicted"], expected.logits, **EXACT)
    torch.testing.assert_close(out["loss"], expected.loss, **EXACT)


@torch.no_grad()
def test_bare_model_and_key_biases():
    """`VideoMAEModel` has no `videomae.`; a bias of the keys changes nothing."""
    source = theirs(VideoMAEModel, "mini", use_mean_pooling=False)
    state = source.state_dict()
    assert not any(name.startswith("videomae.") for name in state)
    model = ours("classifier", use_mean_pooling=False)
    report = load_encoder(model, native_state(state))
    assert set(report.missing) == {"head.weight", "head.bias"} and report.unexpected == report.mismatched == ()
    tokens = super(type(model), model).forward(clip())
    torch.testing.assert_close(tokens, source(swapped(clip())).last_hidden_state, **EXACT)
    for layer in source.encoder.layer:
        layer.attention.attention.key.bias = torch.nn.Parameter(torch.randn(128))
    with_bias = source.state_dict()
    assert dropped_names(with_bias) == [f"encoder.layer.{i}.attention.attention.key.bias" for i in range(2)]
    equal(from_huggingface(with_bias), from_huggingface(state))
    torch.testing.assert_close(tokens, source(swapped(clip())).last_hidden_state, **EXACT)


def test_files_of_transformers_4():
    """Made by hand from its names: q_bias and v_bias, zero biases of keys, tables of positions."""
    source = theirs(VideoMAEForPreTraining, "mini", use_mean_pooling=False).state_dict()
    old = {}
    for name, value in source.items():
        old[name.replace("query.bias", "q_bias").replace("value.bias", "v_bias")] = value
        if name.endswith("query.bias"):
            old[name.replace("query", "key")] = torch.zeros_like(value)
    old["videomae.embeddings.position_embeddings"] = torch.zeros(1, 32, 128)
    old["position_embeddings"] = torch.zeros(1, 32, 64)
    assert len(dropped_names(old)) == 5
    equal(from_huggingface(old), from_huggingface(source))
    flat = {name.replace("attention.attention", "attention"): value for name, value in old.items()}
    equal(from_huggingface(flat), from_huggingface(source))


def test_what_has_no_native_name_keeps_its_own():
    state = theirs(VideoMAEForVideoClassification, "mini").state_dict()
    key = "videomae.encoder.layer.1.attention.attention.key.weight"
    extra = {"videomae.encoder.layer.0.adapter.weight": torch.ones(2), "videomae.cls_token": torch.ones(3)}
    native = from_huggingface({**state, **extra})
    assert extra.keys() <= native.keys() and len(native) == len(from_huggingface(state)) + 2
    with pytest.raises(ModelError, match=r"adapter\.weight is not in the model"):
        rebuild(native, ARGS)
    del state[key]
    native = from_huggingface(state)
    assert key.replace("key", "query") in native and "blocks.1.attn.qkv.weight" not in native
    with pytest.raises(ModelError, match=r"blocks\.1\.attn\.qkv\.weight is missing"):
        rebuild(native, ARGS)


def test_one_bias_by_two_names():
    state = theirs(VideoMAEForVideoClassification, "mini").state_dict()
    state["videomae.encoder.layer.0.attention.attention.q_bias"] = torch.ones(128)
    with pytest.raises(ModelError, match=r"two tensors for blocks\.0\.attn\.q_bias"):
        from_huggingface(state)


def test_native_names_are_not_theirs():
    for kind in ("classifier", "pixel", "sigma"):
        assert not is_huggingface(ours(kind).state_dict())


# --------------------------------------------------------------------------------------------------- ours into theirs


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pooled", [True, False])
@torch.no_grad()
def test_classifier_into_transformers(size, pooled, tmp_path):
    model = ours("classifier", size, use_mean_pooling=pooled)
    names = ["walk", "run", "jump", "sit", "Spaß haben"]
    folder = export(model, tmp_path / "hf", class_names=names)
    loaded = load(VideoMAEForVideoClassification, folder)
    attention = loaded.videomae.encoder.layer[0].attention.attention
    assert loaded.config.num_attention_heads == attention.num_attention_heads == SIZES[size][1]
    assert [loaded.config.id2label[i] for i in range(5)] == names and loaded.config.label2id["jump"] == 2
    if pooled:
        assert loaded.fc_norm.eps == 1e-5
        loaded.fc_norm.eps = 1e-6
    torch.testing.assert_close(loaded(swapped(clip())).logits, model(clip()), **EXACT)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalized", [True, False])
@torch.no_grad()
def test_pixel_pretraining_into_transformers(size, normalized, tmp_path):
    model = ours("pixel", size, normalize_target=normalized)
    loaded = load(VideoMAEForPreTraining, export(model, tmp_path / "hf"))
    assert loaded.config.decoder_num_attention_heads == SIZES[size][4]
    loaded.decoder.norm.eps = 1e-6
    out, found = model(clip(), mask()), loaded(swapped(clip()), mask())
    torch.testing.assert_close(found.logits, out["predicted"], **EXACT)
    torch.testing.assert_close(found.loss, out["loss"], **EXACT)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_type": "dino_v1"},
        {"target_type": "mlp", "loss_func": "L2"},
        {"target_type": "pixel", "loss_func": "SWAV"},
    ],
)
@torch.no_grad()
def test_of_sigma_the_encoder_goes_into_transformers(changes, tmp_path):
    model = ours("sigma", **changes)
    loaded = load(VideoMAEModel, export(model, tmp_path / "hf"))
    torch.testing.assert_close(loaded(swapped(clip())).last_hidden_state, model.encoder(clip()), **EXACT)
    native = from_huggingface(to_huggingface(model.state_dict()))
    equal(native, model.encoder.state_dict())


@pytest.mark.parametrize(
    ("kind", "changes"), [("classifier", {}), ("classifier", {"use_mean_pooling": False}), ("pixel", {})]
)
def test_round_trips(kind, changes, tmp_path):
    model = ours(kind, **changes)
    state = model.state_dict()
    equal(from_huggingface(to_huggingface(state)), state)
    cls = {"classifier": VideoMAEForVideoClassification, "pixel": VideoMAEForPreTraining}[kind]
    file = saved(load(cls, export(model, tmp_path / "ours")), tmp_path / "theirs")  # through transformers
    equal(to_huggingface(state), file)
    equal(from_huggingface(file), state)


def test_config_says_all_that_transformers_would_else_fill_in():
    config = huggingface_config(ours("pixel", "small"))
    filled = VideoMAEConfig(**config).to_dict()
    assert {name: filled[name] for name in config if name != "qkv_bias"} == {
        name: value for name, value in config.items() if name != "qkv_bias"
    }
    assert config["num_attention_heads"] == 6 and config["decoder_num_attention_heads"] == 3
    own = set(VideoMAEConfig.__annotations__)  # the fields that it does not share with other models
    assert "layer_norm_eps" in own and own - {"model_type"} <= config.keys()


def test_what_transformers_cannot_hold():
    scaled = ours("classifier", init_values=0.1)
    with pytest.raises(ModelError, match="layer scale"):
        to_huggingface(scaled.state_dict())
    with pytest.raises(ModelError, match="layer scale"):
        huggingface_config(scaled)
    resampled = ours("classifier")
    resampled.resample_positions((4, 4, 4))
    with pytest.raises(ModelError, match=r"position table of \(4, 4, 4\)"):
        huggingface_config(resampled)
    with pytest.raises(ModelError, match=r"fc_drop_rate 0\.5"):
        huggingface_config(ours("classifier", fc_drop_rate=0.5))
    with pytest.raises(ModelError, match="2 class names for 5 classes"):
        huggingface_config(ours("classifier"), class_names=["a", "b"])
    with pytest.raises(ModelError, match="two classes are called 'b'"):
        huggingface_config(ours("classifier"), class_names=["a", "b", "c", "b", "e"])
    with pytest.raises(ModelError, match=r"no place for pos_embed"):
        to_huggingface({**ours("classifier").state_dict(), "pos_embed": torch.ones(1)})


def test_processor(tmp_path):
    processor = VideoMAEImageProcessor.from_pretrained(export(ours("classifier"), tmp_path / "hf"))
    frames = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    values = processor(list(frames.numpy()), return_tensors="pt").pixel_values
    mean, std = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(values[0], (frames / 255 - mean) / std, rtol=0, atol=1e-5)
    wide = processor(list(torch.zeros(4, 3, 64, 80, dtype=torch.uint8).numpy()), return_tensors="pt").pixel_values
    assert wide.shape == (1, 4, 3, 32, 32)


@pytest.mark.parametrize(("short_side", "resized"), [(None, 32), (40, 40), (16, 32)])
def test_frames_are_resized_as_in_our_test(short_side, resized, tmp_path):
    """A ramp over the width: its middle 32 pixels of a frame whose short side is what --short_side_size says."""
    folder = export(ours("classifier"), tmp_path / "hf", short_side=short_side)
    ramp = torch.linspace(0, 255, 128).round().to(torch.uint8).expand(4, 3, 96, 128)
    mean, std = 0.485, 0.229
    for processor in (VideoMAEImageProcessor.from_pretrained(folder), AutoVideoProcessor.from_pretrained(folder)):
        values = processor(list(ramp.numpy()), return_tensors="pt").pixel_values
        assert values.shape == (1, 4, 3, 32, 32)
        row = (values[0, 0, 0, 16] * std + mean) * 255
        slope = float(row[-1] - row[0]) / 31
        assert slope == pytest.approx(255 / 127 * 96 / resized, rel=0.02)


# ------------------------------------------------------------------------------------------------------ the model card


def test_card_says_what_the_weights_are():
    model = ours("classifier", "small")
    args = {"model": "vit_small_patch8_32", "lr": 5e-4, "finetune": "/home/me/secret.pth", "mixup": 0.8, "aa": None}
    names = [f"class {i}" for i in range(5)]
    text = model_card(model, name="mine", class_names=names, args=args, metrics={"test top-1": 71.25}, licence="MIT")
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "video-classification")
    for words in (
        "6 heads",
        "no CLS token",
        "(B, 384)",
        "(B, 32, 384)",
        "| `--lr` | 0.0005 |",
        "| test top-1 | 71.25 |",
    ):
        assert words in text, words
    assert "under: MIT" in text and "class 0, class 1" in text
    assert "secret" not in text and "--aa" not in text


@pytest.mark.parametrize(
    ("args", "config", "words"),
    [
        ({"task": "multilabel"}, {"problem_type": "multi_label_classification"}, "the sigmoid of each is"),
        (
            {"task": "regression", "target_scale": [12.5, 0.25]},
            {"problem_type": "regression", "target_scale": [12.5, 0.25]},
            "12.5 + 0.25 x logit",
        ),
        ({"task": "classification"}, {}, "their softmax is the probability"),
        ({}, {}, "their softmax is the probability"),
    ],
)
def test_the_task_is_in_the_configuration_and_in_the_card(args, config, words, tmp_path):
    """transformers' pipeline takes the softmax, the sigmoid or neither by `problem_type`."""
    model = ours("classifier")
    folder = export(model, tmp_path / "hf", args=args)
    written = json.loads((folder / "config.json").read_text())
    assert {name: written[name] for name in ("problem_type", "target_scale") if name in written} == config
    loaded = load(VideoMAEForVideoClassification, folder).config
    assert loaded.problem_type == config.get("problem_type")
    known = read_facts(folder)["args"]
    assert {name: known[name] for name in ("task", "target_scale") if name in known} == (args if config else {})
    assert words in model_card(model, name="mine", args=args)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"sampling_rate": 4}, "frames that are 4 apart"),
        ({"sampling_rate": 4, "fps": 7.5}, "trained on 7.5 frames a second"),
        ({"sampling_rate": 4, "sampling": "uniform"}, "So are the frames that these weights were trained on"),
    ],
)
def test_card_says_which_frames_the_weights_know(args, words):
    text = model_card(ours("classifier"), name="mine", args=args)
    assert words in text and ("4 apart" in text) == ("4 apart" in words)


@pytest.mark.parametrize("licence", ["", "unknown"])
def test_card_without_a_licence_says_so(licence):
    text = model_card(ours("sigma"), name="mine", licence=licence)
    assert ModelCard(text).data.license == "unknown"
    assert "**Unknown.**" in text and "Find that out" in text and "CC-BY-NC-4.0" in text
    assert "prototypes are left out" in text and "Not recorded" in text and "None were given" in text


def test_card_with_a_licence_in_words():
    data = ModelCard(model_card(ours("pixel"), name="mine", licence='BSD: "Clear"\ntext')).data
    assert data.license == "other" and data.license_name == 'BSD: "Clear" text'


def run_card(model, folder, block, frames):
    """What the card's code leaves, run as it stands."""
    code = model_card(model, name="mine").split("```python\n")[1 + block].split("```")[0]
    scope = {"list_of_frames": frames}
    exec(code.replace("THIS_FOLDER", str(folder)), scope)
    return scope


@pytest.mark.parametrize("kind", ["classifier", "pixel", "sigma"])
@torch.no_grad()
def test_code_of_the_card_runs(kind, tmp_path):
    model = ours(kind)
    frames = [torch.full((3, 32, 32), i, dtype=torch.uint8).numpy() for i in range(4)]
    scope = run_card(model, export(model, tmp_path / "hf"), 0, frames)
    values = scope["inputs"].pixel_values
    norm = {"classifier": "fc_norm", "pixel": "decoder.norm"}.get(kind)
    assert norm is None or scope["model"].get_submodule(norm).eps == 1e-6
    if kind == "classifier":
        torch.testing.assert_close(scope["model"](values).logits, model(swapped(values)), **EXACT)
    elif kind == "sigma":
        torch.testing.assert_close(scope["model"](values).last_hidden_state, model.encoder(swapped(values)), **EXACT)
    else:
        predicted = model(swapped(values), mask(1))["predicted"]
        torch.testing.assert_close(scope["model"](values, mask(1)).logits, predicted, **EXACT)


needs_pipeline = pytest.mark.skipif(
    int(transformers.__version__.partition(".")[0]) < 5, reason="the card says transformers 5"
)
FRAMES = list(torch.randint(256, (4, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)).numpy())


@needs_pipeline
@pytest.mark.parametrize("pooled", [True, False])
@torch.no_grad()
def test_the_card_s_pipeline_gives_our_probabilities(pooled, tmp_path):
    names = [f"class {i}" for i in range(5)]
    model = ours("classifier", use_mean_pooling=pooled)
    folder = export(model, tmp_path / "hf", class_names=names, short_side=40)
    scope = run_card(model, folder, 1, FRAMES)
    expected = model(swapped(scope["inputs"].pixel_values)).softmax(dim=-1)[0]
    found = {answer["label"]: answer["score"] for answer in scope["answers"]}
    assert sorted(found) == names and expected.std() > 0.01
    torch.testing.assert_close(torch.tensor([found[name] for name in names]), expected, rtol=1e-4, atol=1e-5)
    run_card(model, folder, 0, FRAMES)  # the first block, too, for a head on the first token


@needs_pipeline
@pytest.mark.skipif(importlib.util.find_spec("torchcodec") is None, reason="transformers reads files by torchcodec")
@torch.no_grad()
def test_the_pipeline_takes_a_file(data, tmp_path):
    model = ours("classifier")
    classify = transformers.pipeline("video-classification", model=str(export(model, tmp_path / "hf")))
    scores = [answer["score"] for answer in classify(str(data.videos[0]))]
    assert len(scores) == 5 and sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_transformers_before_compat(tmp_path):
    """Where torchvision cannot load beside a CPU build of torch, transformers' classes come once compat is there."""
    folder = export(ours("classifier"), tmp_path / "hf")
    code = f"""
        import transformers
        try:
            transformers.VideoMAEImageProcessor
        except (ImportError, RuntimeError) as error:
            print("first:", error)
        import sigma_video.compat
        print(type(transformers.VideoMAEImageProcessor.from_pretrained({str(folder)!r})).__name__)
        print(type(transformers.AutoVideoProcessor.from_pretrained({str(folder)!r})).__name__)
        from models import create_model
    """
    finished = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-2:] == ["VideoMAEImageProcessor", "VideoMAEVideoProcessor"]
