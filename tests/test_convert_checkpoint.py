"""scripts/convert_checkpoint.py: what goes in comes out, from every layout into every format and back."""

import argparse
import json
import resource
import signal
import stat
from pathlib import Path

import pytest
import torch
from golden.weights import filled
from processes import ROOT, run_script
from runs import load
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError
from models import create_model
from models.weights.huggingface import from_huggingface
from models.weights.load import native_state, weights_hash
from models.weights.rebuild import rebuild
from scripts import weight_files

SCRIPT = "scripts/convert_checkpoint.py"
GOLDEN = ROOT / "tests" / "golden"
ENDINGS = {"sigma": ".pth", "hf": "", "safetensors": ".safetensors", "deepspeed-consolidated": ".pth"}
ARGS = {
    "model": "vit_mini_patch8_32",
    "num_frames": 4,
    "input_size": 32,
    "tubelet_size": 2,
    "lr": 1e-3,
    "short_side_size": 40,
}
NAMES = ["walk", "run", "jump"]
CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)) * 1.5
MASK = (torch.arange(32) % 8 > 1).expand(2, -1)


def make(kind="classifier", **options):
    """A tiny model with random weights everywhere, tokens of variance about 1."""
    torch.manual_seed(5)
    if kind == "classifier":
        model = create_model("vit_mini_patch8_32", num_frames=4, depth=2, num_classes=3, **options)
    else:
        if kind == "videomae":
            options = {"target_type": "pixel", "loss_func": "L2", **options}
        options = {"decoder_depth": 1, "num_prototypes": 5, "projection_dims": [16], **options}
        model = create_model("pretrain_videomae_mini_patch8_32", num_frames=4, encoder_depth=2, **options)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * (0.2 if value.dim() == 1 else value[0].numel() ** -0.5))
    return model.eval()


@torch.no_grad()
def output(model):
    return model(CLIP) if hasattr(model, "forward_features") else model(CLIP, MASK)["predicted"]


def output_of(path, **more):
    """What the model of a file computes, by our own reader alone."""
    weights = read_weights(path)
    return output(rebuild(native_state(weights.tensors), {**weights.args, **more}))


def convert(source, out, to, *flags):
    return run_script(SCRIPT, source, out, "--to", to, *flags)


def converted(source, out, to, *flags):
    finished = convert(source, out, to, *flags)
    assert finished.code == 0, finished.stderr
    assert not list(out.parent.glob(".*")), "left behind"
    return finished.stdout


def refused(source, out, to, *flags):
    """The one line of a mistake; nothing may have been written."""
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
    finished = convert(source, out, to, *flags)
    assert finished.code == 2 and len(finished.errors) == 1 and "Traceback" not in finished.stderr, finished.stderr
    assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else []) == before
    return finished.errors[0]


def source_of(model, folder, **content):
    file = folder / "checkpoint-3.pth"
    content = {"args": ARGS, "class_names": NAMES, "epoch": 3, "optimizer": {"state": {}}, **content}
    torch.save({"model": model.state_dict(), **content}, file)
    return file


def test_help_says_what_is_possible():
    finished = run_script(SCRIPT, "--help")
    assert finished.code == 0 and all(name in finished.stdout for name in [*ENDINGS, "onnx", "torch-export"])


@pytest.mark.parametrize("kind", ["classifier", "videomae", "sigma"])
@pytest.mark.parametrize("to", ENDINGS)
def test_there_and_back(kind, to, tmp_path):
    model = make(kind)
    source, there, back = source_of(model, tmp_path), tmp_path / f"there{ENDINGS[to]}", tmp_path / "back.pth"
    names = NAMES if kind == "classifier" else []
    expected = {name: value.clone() for name, value in model.state_dict().items()}  # prototypes change in use
    text = converted(source, there, to, "--licence", "CC-BY-NC-4.0")
    assert f"hash {weights_hash(expected)}" in text
    if (kind, to) == ("sigma", "hf"):  # the encoder is all that fits
        assert f"left out: {len(expected) - len(model.encoder.state_dict())} tensors (mask_token, prototypes" in text
        expected = model.encoder.state_dict()
    else:
        assert "left out: 0 tensors" in text
        torch.testing.assert_close(output_of(there), output(model), rtol=0, atol=0)
    text = converted(there, back, "sigma")
    assert weights_hash(expected) in text
    content = load(back)
    assert weights_hash(content["model"]) == weights_hash(expected)
    assert content["class_names"] == names and content["licence"].lower() == "cc-by-nc-4.0"
    assert content["args"] == (ARGS if to != "hf" else content["args"])
    assert all(content["args"][name] == ARGS[name] for name in ("num_frames", "input_size"))
    if expected.keys() == model.state_dict().keys():
        torch.testing.assert_close(output_of(back), output(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "wrapper", "key"),
    [
        ("classifier", "", "model"),
        ("sigma", "", "module"),
        ("videomae", "", None),
        ("sigma", "module.", "model"),
        ("classifier", "_orig_mod.", None),
        ("videomae", "module._orig_mod.", "module"),
    ],
)
def test_layouts_of_released_files(kind, wrapper, key, tmp_path):
    """SIGMA, VideoMAE 1 and 2: options in a Namespace; names behind wrappers; or bare tensors."""
    model = make(kind)
    digest = weights_hash(model.state_dict())
    tensors = {wrapper + name: value for name, value in model.state_dict().items()}
    source, out = tmp_path / "released.pth", tmp_path / "out.safetensors"
    torch.save({key: tensors, "args": argparse.Namespace(**ARGS)} if key else tensors, source)
    flags = [] if key else ["--num_frames", 4, "--input_size", 32]
    text = converted(source, out, "safetensors", *flags)
    assert f"native names{f' behind {wrapper}' if wrapper else ''}: " in text
    assert weights_hash(read_weights(out).tensors) == digest
    torch.testing.assert_close(output_of(out), output(model), rtol=0, atol=0)


@torch.no_grad()
def test_folder_for_transformers(tmp_path):
    model = make()
    source, out = source_of(model, tmp_path), tmp_path / "folder"
    converted(source, out, "hf", "--licence", "CC-BY-NC-4.0")
    assert {file.name for file in out.iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "video_preprocessor_config.json", "README.md")
    }
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        assert json.loads((out / name).read_text())["size"] == {"shortest_edge": 40}, name
    assert read_weights(out).args["short_side_size"] == 40
    assert all(stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(source.stat().st_mode) for file in out.iterdir())
    loaded, report = VideoMAEForVideoClassification.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    found = loaded.eval()(CLIP.transpose(1, 2)).logits
    torch.testing.assert_close(found, output(model), rtol=1e-5, atol=1e-5)  # with its own epsilon
    loaded.fc_norm.eps = 1e-6
    torch.testing.assert_close(loaded(CLIP.transpose(1, 2)).logits, output(model), rtol=0, atol=1e-5)
    assert list(loaded.config.id2label.values()) == NAMES
    card = (out / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "walk, run, jump" in card and "| `--lr` | 0.001 |" in card


@torch.no_grad()
@pytest.mark.parametrize("cls", [VideoMAEForVideoClassification, VideoMAEForPreTraining, VideoMAEModel])
def test_folder_of_transformers(cls, tmp_path):
    """What `save_pretrained` writes, and what a file of transformers 4 adds to it."""
    first = tmp_path / "first"
    converted(
        source_of(make("classifier" if cls is VideoMAEForVideoClassification else "videomae"), tmp_path), first, "hf"
    )
    theirs = cls.from_pretrained(first).eval()
    folder, out = tmp_path / "theirs", tmp_path / "ours.pth"
    theirs.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in [name for name in tensors if name.endswith("q_bias")]:
        tensors[name.replace("q_bias", "key.bias")] = torch.zeros_like(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = converted(folder, out, "sigma")
    blocks = 3 if cls is VideoMAEForPreTraining else 2
    assert f"Hugging Face folder, transformers' names: {'encoder alone' if cls is VideoMAEModel else ''}" in text
    assert f"left out: {blocks} tensors" in text and "key.bias" in text
    assert weights_hash(load(out)["model"]) == weights_hash(from_huggingface(theirs.state_dict()))


def test_what_the_files_hold(tmp_path):
    model, labels = make(), tmp_path / "labels.txt"
    labels.write_text("gehen\nläuft\nspringt\n", encoding="utf-8")
    source = source_of(model, tmp_path, class_names=[])
    header = tmp_path / "a.safetensors"
    converted(source, header, "safetensors", "--class_names", labels, "--licence", "MIT")
    with safe_open(header, "pt") as file:
        facts = file.metadata()
    assert facts["format"] == "pt" and json.loads(facts["args"]) == ARGS and facts["licence"] == "MIT"
    assert json.loads(facts["class_names"]) == ["gehen", "läuft", "springt"]
    half = {name: value.bfloat16() for name, value in model.state_dict().items()}
    torch.save({"module": half}, source)
    single = tmp_path / "b.pth"
    converted(source, single, "deepspeed-consolidated")
    content = load(single)
    assert "model" not in content and {value.dtype for value in content["module"].values()} == {torch.float32}
    assert torch.equal(content["module"]["head.weight"], half["head.weight"].float())
    kept = tmp_path / "c.pth"
    converted(source, kept, "sigma")
    assert load(kept)["model"]["head.weight"].dtype == torch.bfloat16  # no other format changes a bit
    folder = tmp_path / "hf"
    text = converted(source, folder, "hf", "--num_frames", "4", "--input_size", "32")
    assert "assumed" not in text and json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert "bfloat16" in text and "licence: unknown; give it with --licence" in text
    assert "license: unknown" in (folder / "README.md").read_text()


def test_what_the_file_does_not_say_is_said_to_be_assumed(tmp_path):
    source = source_of(make(), tmp_path, args={"input_size": 32, "num_frames": None})
    out = tmp_path / "hf"
    text = converted(source, out, "hf")
    assert "assumed: num_frames 16 (not recorded in the file); if that is wrong give --num_frames N" in text
    assert json.loads((out / "config.json").read_text())["num_frames"] == 16
    small = create_model("vit_small_patch8_32", num_frames=4, depth=1, num_classes=3)
    source = source_of(small, tmp_path, args={**ARGS, "num_attention_heads": 16})
    text = converted(source, tmp_path / "small", "hf")
    assert "heads: 6; config.json says 16" in text
    assert json.loads((tmp_path / "small" / "config.json").read_text())["num_attention_heads"] == 6


def test_user_errors_are_one_line(tmp_path):
    model = make()
    source, out = source_of(model, tmp_path), tmp_path / "out.pth"
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\n")
    assert "2 names for 3 classes" in refused(source, out, "sigma", "--class_names", labels)
    assert "no such file" in refused(source, out, "sigma", "--class_names", tmp_path / "absent")
    assert "checkpoint-3.pth says 4" in refused(source, out, "sigma", "--num_frames", "8")
    assert "ends in .safetensors" in refused(source, out, "safetensors")
    assert "--dynamic_batch" in refused(source, out, "sigma", "--dynamic_batch")
    assert "no folder" in refused(source, tmp_path / "absent" / "out.pth", "sigma")
    assert "no such" in refused(tmp_path / "absent.pth", out, "sigma")
    assert "under the key ema" in refused(source, out, "sigma", "--model_key", "ema")
    torch.save({"model": model.state_dict(), "args": {"path": Path("a/b"), "file": tmp_path}}, source)
    assert "--trust_checkpoint" in refused(source, out, "sigma")
    converted(source, out, "sigma", "--trust_checkpoint")
    assert load(out)["args"] == {"path": "a/b"}  # where a file lay on the machine is nobody's business
    licensed = source_of(model, tmp_path, licence="cc-by-nc-4.0")
    line = refused(licensed, tmp_path / "y.pth", "sigma", "--licence", "mit")
    assert "--licence mit: these weights are under cc-by-nc-4.0 (as" in line and "leave --licence out" in line
    scaled = source_of(make(init_values=0.1), tmp_path)
    assert "layer scale" in refused(scaled, tmp_path / "hf", "hf")
    pretraining = source_of(make("sigma"), tmp_path)
    assert "no classifier" in refused(pretraining, tmp_path / "x.pth", "sigma", "--class_names", labels)
    alone = tmp_path / "alone.pth"
    torch.save(make("sigma").encoder.state_dict(), alone)
    assert "encoder alone" in refused(alone, tmp_path / "hf", "hf")
    assert "encoder alone" in converted(alone, tmp_path / "alone.safetensors", "safetensors")


@pytest.mark.parametrize("to", ENDINGS)
def test_nothing_is_overwritten(to, tmp_path):
    source, out = source_of(make(), tmp_path), tmp_path / f"out{ENDINGS[to]}"
    converted(source, out, to)
    before = {file: file.read_bytes() for file in ([out] if out.is_file() else out.iterdir())}
    assert "exists already" in refused(source, out, to)
    assert all(file.read_bytes() == content for file, content in before.items())
    assert "exists already" in refused(source, source, "sigma")


@pytest.mark.parametrize("to", ["sigma", "hf", "safetensors"])
def test_a_full_disk_leaves_nothing(to, tmp_path):
    """With a limit on the size of a file: the writers fail in the middle, as on a full disk."""
    source, out = source_of(make(), tmp_path), tmp_path / f"out{ENDINGS[to]}"
    limits, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # inherited by the forked process
        line = refused(source, out, to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, action)
    assert "cannot be written" in line and str(out) in line


@torch.no_grad()
@pytest.mark.slow
def test_onnx(tmp_path):
    """The exporters have tests of their own: here that they get the model, and what is said of the result."""
    runtime = pytest.importorskip("onnxruntime")
    model, out = make(), tmp_path / "out.onnx"
    text = converted(source_of(model, tmp_path), out, "onnx", "--dynamic_batch")
    assert "checked_batches [1, 3]" in text and "left out: 0 tensors" in text and f"{out}: written" in text
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"clip": CLIP.numpy()})[0])
    torch.testing.assert_close(found, output(model), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.slow
def test_torch_export(tmp_path):
    """Of a pre-training model the encoder."""
    model, out = make("sigma"), tmp_path / "out.pt2"
    text = converted(source_of(model, tmp_path), out, "torch-export")
    number = len(model.state_dict()) - len(model.encoder.state_dict())
    assert f"left out: {number} tensors (mask_token, prototypes" in text
    found = torch.export.load(out).module()(CLIP[:1])
    torch.testing.assert_close(found, model.encoder(CLIP[:1]), rtol=0, atol=1e-4)


def test_deepspeed_folder(tmp_path):
    """Written by the real DeepSpeed in bfloat16: its float32 master weights are what is taken."""
    out = tmp_path / "out.pth"
    text = converted(GOLDEN / "deepspeed" / "zero2_bf16", out, "deepspeed-consolidated")
    assert "DeepSpeed folder (ZeRO 2), native names: classifier" in text
    content = load(out)
    assert content["args"]["model"] == "vit_mini_patch4_8"
    blocks = {name: value for name, value in content["module"].items() if name.startswith("blocks.")}
    assert len(blocks) > 10
    for name, value in blocks.items():
        assert torch.equal(value, torch.from_numpy(filled(name, tuple(value.shape)))), name


def test_read_back_finds_other_weights(tmp_path, monkeypatch):
    """With a writer that flips one bit."""

    def flipping(tensors, file, **facts):
        wrong = {name: value.clone() for name, value in tensors.items()}
        wrong["head.bias"].view(torch.int32)[0] ^= 1
        save_file(wrong, file, metadata=facts)

    monkeypatch.setattr(weight_files, "write_safetensors", flipping)
    content = weight_files.Content(make().state_dict(), ARGS, NAMES, "")
    with pytest.raises(CheckpointError, match="other weights"):
        weight_files.write(content, "safetensors", tmp_path / "x.safetensors")
