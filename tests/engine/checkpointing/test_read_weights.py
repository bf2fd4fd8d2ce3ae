"""Weights in every kind of file and folder, and what is refused."""

import argparse
import json
from pathlib import Path, PurePosixPath

import pytest
import torch
from runs import same
from safetensors.torch import save_file

from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError

STATE = {"encoder.a": torch.arange(6.0).reshape(2, 3), "decoder.b": torch.ones(2, dtype=torch.bfloat16)}


def save(path, **content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("args", [{"num_frames": 32}, argparse.Namespace(num_frames=32)], ids=["dict", "Namespace"])
@pytest.mark.parametrize("key", ["model", "module"])
def test_checkpoint_file(key, args, tmp_path):
    path = save(tmp_path / "a.pth", **{key: STATE}, args=args, class_names=["left", "right"], epoch=3)
    weights = read_weights(path)
    assert same(weights.tensors, STATE) and weights.kind == "torch file"
    assert weights.args == {"num_frames": 32} and weights.class_names == ["left", "right"] and weights.licence == ""


def test_bare_tensors(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    weights = read_weights(str(tmp_path / "a.pth"))
    assert same(weights.tensors, STATE) and weights.args == {} and weights.class_names == []


def test_model_key(tmp_path):
    other = {"encoder.a": torch.zeros(1)}
    path = save(tmp_path / "a.pth", module=STATE, model_ema=other, epoch=1)
    assert same(read_weights(path, model_key="absent|model_ema").tensors, other)
    with pytest.raises(CheckpointError, match=r"the key state_dict: its keys are module, model_ema, epoch"):
        read_weights(path, model_key="state_dict")
    with pytest.raises(CheckpointError, match="no weights under the key epoch"):
        read_weights(path, model_key="epoch")


def test_safetensors_with_and_without_facts(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    weights = read_weights(tmp_path / "a.safetensors")
    assert same(dict(sorted(weights.tensors.items())), dict(sorted(STATE.items())))
    assert (weights.kind, weights.args, weights.licence) == ("safetensors file", {}, "")
    header = {"format": "pt", "args": '{"num_frames": 8}', "class_names": '["a"]', "licence": "cc-by-nc-4.0"}
    save_file(STATE, tmp_path / "b.safetensors", metadata=header)
    weights = read_weights(tmp_path / "b.safetensors")
    assert (weights.args, weights.class_names, weights.licence) == ({"num_frames": 8}, ["a"], "cc-by-nc-4.0")


def huggingface_folder(folder, *, files, names):
    folder.mkdir()
    config = {"num_frames": 16, "image_size": [112, 112], "tubelet_size": 2, "hidden_size": 4, "id2label": names}
    config |= {"num_attention_heads": 6, "decoder_num_attention_heads": 3, "norm_pix_loss": False}
    (folder / "config.json").write_text(json.dumps(config))
    for file, tensors in files.items():
        save_file(tensors, folder / file) if file.endswith("safetensors") else torch.save(tensors, folder / file)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"model.safetensors": STATE},
        {
            "model-00001-of-00002.safetensors": {"encoder.a": STATE["encoder.a"]},
            "model-00002-of-00002.safetensors": {"decoder.b": STATE["decoder.b"]},
        },
        {"pytorch_model.bin": STATE},
    ],
    ids=["one", "parts", "bin"],
)
def test_huggingface_folder(files, tmp_path):
    names = {"1": "run", "0": "walk", "10": "z", **{str(i): "y" for i in range(2, 10)}}
    folder = huggingface_folder(tmp_path / "hf", files=files, names=names)
    if len(files) == 2:
        parts = {name: file for file, tensors in files.items() for name in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    save_file({"encoder.a": torch.zeros(2, 3)}, folder / "model_other.safetensors")  # not what transformers reads
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nlicense: no\n")
    weights = read_weights(folder)
    assert same(dict(sorted(weights.tensors.items())), dict(sorted(STATE.items())))
    assert weights.args == {"num_frames": 16, "input_size": 112, "tubelet_size": 2} | {
        "num_attention_heads": 6,
        "decoder_num_attention_heads": 3,
        "normalize_target": False,
    }
    assert weights.class_names == ["walk", "run", *"yyyyyyyyz"] and weights.licence == "cc-by-nc-4.0"
    assert weights.kind == "Hugging Face folder"


def test_a_licence_in_words(tmp_path):
    folder = huggingface_folder(tmp_path / "hf", files={"model.safetensors": STATE}, names={})
    (folder / "README.md").write_text('---\nlicense: other\nlicense_name: "ask the authors"\n---\n')
    assert read_weights(folder).licence == "ask the authors"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act relu: the networks here have gelu"),
        ({"layer_norm_eps": 1e-3}, r"layer_norm_eps 0\.001"),
        ({"image_size": [32, 16]}, r"image_size \[32, 16\]: clips are square"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label does not name labels 0, 1, 2"),
        ({"id2label": ["a", "b"]}, "id2label does not name labels"),
    ],
    ids=str,
)
def test_configurations_of_other_networks(changes, words, tmp_path):
    folder = huggingface_folder(tmp_path / "hf", files={"model.safetensors": STATE}, names={})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=words):
        read_weights(folder)


def test_a_part_that_is_not_there(tmp_path):
    folder = huggingface_folder(tmp_path / "hf", files={"model-00001-of-00002.safetensors": STATE}, names={})
    parts = {"encoder.a": "model-00001-of-00002.safetensors", "x": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(CheckpointError, match="1 tensors of its index are in no part, first x"):
        read_weights(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-00002\.safetensors: no such file"):
        read_weights(folder)


def test_a_foreign_header_is_no_obstacle(tmp_path, caplog):
    save_file(STATE, tmp_path / "a.safetensors", metadata={"args": "Namespace(a=1)"})
    assert read_weights(tmp_path / "a.safetensors").args == {}
    assert "its header's args are not ours" in caplog.text
    save_file(STATE, tmp_path / "b.safetensors", metadata={"class_names": "3"})
    with pytest.raises(CheckpointError, match="class_names are not a list of texts"):
        read_weights(tmp_path / "b.safetensors")


def test_model_key_where_there_are_no_keys(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"--model_key model_ema is for \.pth files"):
        read_weights(tmp_path / "a.safetensors", model_key="model_ema")


def test_an_empty_entry_is_passed_over(tmp_path):
    assert same(read_weights(save(tmp_path / "a.pth", model={}, module=STATE)).tensors, STATE)


def test_a_path_in_a_folder_s_pickle_needs_trust(tmp_path):
    content = {"model": STATE, "args": argparse.Namespace(output_dir=PurePosixPath("/out"))}
    folder = huggingface_folder(tmp_path / "hf", files={"pytorch_model.bin": content}, names={})
    with pytest.raises(CheckpointError, match="--trust_checkpoint"):
        read_weights(folder)
    assert same(read_weights(folder, trust=True).tensors, STATE)


def test_placeholder_names_are_no_names(tmp_path):
    folder = huggingface_folder(
        tmp_path / "hf", files={"model.safetensors": STATE}, names={"0": "LABEL_0", "1": "LABEL_1"}
    )
    assert read_weights(folder).class_names == []


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "absent.pth", "no such checkpoint file"),
        (tmp_path / "absent.safetensors", "no such checkpoint file"),
        (tmp_path / "empty", "empty"),
        (tmp_path / "absent", "no such checkpoint file or folder"),
        (huggingface_folder(tmp_path / "hf", files={}, names={}), "neither model.safetensors nor pytorch_model.bin"),
    ):
        with pytest.raises(CheckpointError, match=words):
            read_weights(path)
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "a.safetensors")
    (tmp_path / "hf" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        read_weights(tmp_path / "hf")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return Path.touch, (Path(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_are_read_only_on_trust(legacy, tmp_path, caplog):
    """A Namespace that holds a path is what released files may bring; a program is what a bad one does."""
    path = tmp_path / "a.pth"
    content = {"model": STATE, "args": argparse.Namespace(output_dir=PurePosixPath("/out"), num_frames=16)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"of type pathlib.PurePosixPath, .*--trust_checkpoint"):
        read_weights(path)
    assert read_weights(path, trust=True).args["num_frames"] == 16
    assert f"{path}: --trust_checkpoint: any code in this file is executed" in caplog.text
    target = tmp_path / "executed"
    torch.save({"model": STATE, "x": Touch(target)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="--trust_checkpoint"):
        read_weights(path)
    assert not target.exists()
    read_weights(path, trust=True)
    assert target.exists()
