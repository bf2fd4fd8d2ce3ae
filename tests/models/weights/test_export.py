"""Exported files give the model's outputs in onnxruntime and through torch.export.load, for every batch they allow."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from models import ModelError, create_model
from models.weights import export

SHAPE = (3, 4, 16, 16)


def classifier(**changes):
    torch.manual_seed(0)
    options = {"num_frames": 4, "num_classes": 5, "embed_dim": 16, "depth": 1, "num_heads": 2, "init_scale": 1.0}
    return create_model("vit_mini_patch8_16", **{**options, **changes})


@pytest.fixture
def clips():
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(7))


def torch_runner(file):
    return torch.export.load(file).module()


def onnx_runner(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {"clip": clips.numpy()})[0])


FORMATS = {"torch": (export.export_torch, torch_runner), "onnx": (export.export_onnx, onnx_runner)}


@pytest.mark.parametrize(
    ("kind", "dynamic_batch"),
    [
        ("torch", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("torch", True), ("onnx", False), ("onnx", True)]),
    ],
)
def test_classifier(kind, dynamic_batch, tmp_path, clips):
    """What training adds is left out: dropout, stochastic depth, recomputing; and the model stays as it is."""
    write, runner = FORMATS[kind]
    noisy = {"drop_path_rate": 0.5, "drop_rate": 0.5, "attn_drop_rate": 0.5, "fc_drop_rate": 0.5}
    model = classifier(use_checkpoint=True, init_values=0.5, **noisy).train()
    file = str(tmp_path / "model.pt2")
    facts = write(model, file, dynamic_batch=dynamic_batch)
    assert model.training and model.use_checkpoint and all(p.requires_grad for p in model.parameters())
    assert facts["input"] == ("clip", ("batch" if dynamic_batch else 1, *SHAPE))
    assert facts["output"] == ("logits", ("batch" if dynamic_batch else 1, 5))
    assert facts["checked_batches"] == ([1, 3] if dynamic_batch else [1]) and 0 <= facts["largest_difference"] < 1e-5
    assert facts["file"] == file
    run, model = runner(file), model.eval()
    with torch.no_grad():
        for batch in (1, 2, 4) if dynamic_batch else (1,):
            torch.testing.assert_close(run(clips[:batch]), model(clips[:batch]), atol=1e-5, rtol=1e-5)
        if not dynamic_batch:
            with pytest.raises(Exception, match=r"to be equal to 1, but got 2|INVALID_ARGUMENT"):
                run(clips[:2])


@pytest.mark.slow
def test_encoder_of_a_pretraining_model(tmp_path, clips):
    sizes = {"encoder_embed_dim": 16, "encoder_depth": 1, "encoder_num_heads": 2, "num_prototypes": 4}
    model = create_model("pretrain_videomae_mini_patch8_16", num_frames=4, decoder_depth=1, **sizes).eval()
    facts = export.export_onnx(model, str(tmp_path / "encoder.onnx"), dynamic_batch=True)
    assert facts["output"] == ("tokens", ("batch", 8, 16)) and facts["opset"] >= 18
    found = onnx_runner(facts["file"])(clips)
    torch.testing.assert_close(found, model.encoder(clips).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_half_precision_and_first_token(tmp_path, clips):
    """The file is in float32, with the weights as they were rounded."""
    model = classifier(use_mean_pooling=False).bfloat16().eval()
    facts = export.export_torch(model, str(tmp_path / "model.pt2"), dynamic_batch=False)
    assert model.head.weight.dtype == torch.bfloat16
    torch.testing.assert_close(torch_runner(facts["file"])(clips[:1]), model.float()(clips[:1]).detach())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda out: out + 0.01 * out.abs().max(), "x.onnx: its outputs differ .* by up to .*do not use it"),
        (lambda out: out * np.nan, "its outputs differ .* by up to nan"),
        (lambda out: out[:, :3], r"output shape \(3, 3\) instead of \(3, 5\)"),
    ],
)
def test_a_wrong_file_is_noticed(wrong, message):
    output = torch.randn(3, 5)
    assert export._difference("x.onnx", output, output + 1e-6) == pytest.approx(1e-6, rel=0.2)
    with pytest.raises(ModelError, match=message):
        export._difference("x.onnx", output, wrong(output))


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(ModelError, match="a Linear cannot be exported: classifiers and pre-training models can"):
        export.export_torch(nn.Linear(2, 2), str(tmp_path / "model.pt2"), dynamic_batch=False)


def test_file_that_cannot_be_written(tmp_path):
    file = str(tmp_path / "absent" / "model.pt2")
    with pytest.raises(ModelError, match=f"{file}: cannot be written"):
        export.export_torch(classifier(), file, dynamic_batch=False)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_package(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say that there is none
    with pytest.raises(ModelError, match=rf"{package}.*pip install onnx onnxscript onnxruntime"):
        export.export_onnx(classifier(), str(tmp_path / "model.onnx"), dynamic_batch=False)
