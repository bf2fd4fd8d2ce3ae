"""Weights in every kind of file and folder, and what is refused."""

import argparse
import json
from pathlib import Path, PurePosixPath

import numpy as np
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
        ({"hidden_act": "relu"}, "hidden_act relu: only gelu is supported"),
        ({"layer_norm_eps": 1e-3}, r"layer_norm_eps 0\.001"),
        ({"image_size": [32, 16]}, r"image_size \[32, 16\]: clips must be square"),
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
    with pytest.raises(CheckpointError, match="1 tensors of its index are missing in the shards, first x"):
        read_weights(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-00002\.safetensors: no such file"):
        read_weights(folder)


def test_a_foreign_header_is_no_obstacle(tmp_path, caplog):
    save_file(STATE, tmp_path / "a.safetensors", metadata={"args": "Namespace(a=1)"})
    assert read_weights(tmp_path / "a.safetensors").args == {}
    assert "ignoring args in its header" in caplog.text
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


OTHER = {name: value + 1 for name, value in STATE.items()}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state_dict": STATE, "optimizer_states": [{"a": torch.ones(1)}], "epoch": 3}, "key state_dict"),  # Lightning
        ({"meta": {"epoch": 3}, "state_dict": STATE, "optimizer": {"state": {}, "x": torch.ones(1)}}, "key state_dict"),
        ({"net": STATE, "net_ema": OTHER}, "key net"),
        ({"model": {"state_dict": STATE}, "step": 1}, "key model.state_dict"),
        ({"encoder": STATE, "predictor": OTHER, "target_encoder": OTHER}, "key encoder"),  # V-JEPA
        ({"student": STATE, "teacher": OTHER, "scaler": {"scale": torch.ones(1)}}, "key student"),
    ],
    ids=["Lightning", "mmaction", "average", "nested", "V-JEPA", "teacher"],
)
def test_files_of_other_programs(content, kind, tmp_path):
    weights = read_weights(save(tmp_path / "a.ckpt", **content))
    assert same(weights.tensors, STATE) and weights.kind == f"torch file, {kind}"


def test_names_of_classes_of_openmmlab(tmp_path):
    for meta in ({"CLASSES": ("a", "b")}, {"dataset_meta": {"classes": ["a", "b"]}}):
        assert read_weights(save(tmp_path / "a.pth", meta=meta, state_dict=STATE)).class_names == ["a", "b"]


def test_one_of_several_networks(tmp_path):
    path = save(tmp_path / "a.pth", video=STATE, predictor=OTHER)
    with pytest.raises(CheckpointError, match=r"several state dicts \(video, predictor\): choose with --model_key"):
        read_weights(path)
    assert same(read_weights(path, model_key="predictor").tensors, OTHER)
    flat = {f"{prefix}.{name}": value for prefix, s in (("a", STATE), ("b.c", OTHER)) for name, value in s.items()}
    for file in (save(tmp_path / "flat.pth", **flat), save(tmp_path / "flat2.pth", model=flat)):
        assert same(read_weights(file, model_key="b.c").tensors, OTHER)
    save_file(flat, tmp_path / "flat.safetensors")
    weights = read_weights(tmp_path / "flat.safetensors", model_key="b.c.")
    assert same(dict(sorted(weights.tensors.items())), dict(sorted(OTHER.items())))


PARTS = [{"encoder.a": STATE["encoder.a"]}, {"decoder.b": STATE["decoder.b"]}]


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize(
    ("stem", "ending", "write"), [("model", "safetensors", save_file), ("pytorch_model", "bin", torch.save)]
)
def test_weights_in_parts(config, index, stem, ending, write, tmp_path):
    names = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    for name, part in zip(names, PARTS, strict=True):
        write(part, tmp_path / name)
    if config:
        (tmp_path / "config.json").write_text("{}")
    if index:
        parts = {name: file for file, part in zip(names, PARTS, strict=True) for name in part}
        (tmp_path / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": parts}))
        assert read_weights(tmp_path / f"{stem}.{ending}.index.json").tensors.keys() == STATE.keys()
    found = read_weights(tmp_path).tensors
    assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in found)
    with pytest.raises(CheckpointError, match=r"part 1 of 2 of the weights: give their folder"):
        read_weights(tmp_path / names[0])
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"1 of 2 parts of the weights are there|{names[1]}: no such file"):
        read_weights(tmp_path)


def test_an_index_that_leaves_the_folder(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    save_file(STATE, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"names '\.\./a\.safetensors', outside the folder"):
        read_weights(tmp_path)


def test_another_network_s_configuration(tmp_path):
    folder = huggingface_folder(tmp_path / "hf", files={"model.safetensors": STATE}, names={})
    (folder / "config.json").write_text(json.dumps({"model_type": "vivit"}))
    with pytest.raises(CheckpointError, match="model_type vivit: another network"):
        read_weights(folder)


def test_configuration_of_videomae_v2(tmp_path, caplog):
    """A class of its own on the hub: sizes in `model_config`, and a processor of other means is said."""
    folder = huggingface_folder(tmp_path / "hf", files={"model.safetensors": STATE}, names={})
    sizes = {"img_size": 224, "all_frames": 16, "tubelet_size": 2, "num_heads": 12, "use_mean_pooling": True}
    (folder / "config.json").write_text(json.dumps({"model_type": "VideoMAEv2_Base", "model_config": sizes}))
    processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.229, 0.224, 0.225], "size": {"shortest_edge": 256}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert read_weights(folder).args == {
        "num_frames": 16,
        "input_size": 224,
        "tubelet_size": 2,
        "num_attention_heads": 12,
        "short_side_size": 256,
    }
    assert "image_mean [0.5, 0.5, 0.5], but clips are normalised with ImageNet's" in caplog.text
    assert "image_std" not in caplog.text


def test_an_output_folder_is_its_newest_checkpoint(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, state in (("checkpoint-9.pth", OTHER), ("checkpoint-10.pth", STATE), ("checkpoint-best.pth", OTHER)):
        save(tmp_path / name, model=state)
    (tmp_path / "checkpoint-11.pth").write_bytes(b"cut off")
    assert same(read_weights(tmp_path).tensors, STATE)
    assert f"{tmp_path}: its newest checkpoint is taken, checkpoint-10.pth" in caplog.text
    there = r"checkpoint-9\.pth, checkpoint-10\.pth, checkpoint-11\.pth, checkpoint-best\.pth"
    with pytest.raises(
        CheckpointError, match=rf"checkpoint-199\.pth: no such checkpoint file or folder; in .* are {there}"
    ):
        read_weights(tmp_path / "checkpoint-199.pth")
    for name in ("checkpoint-9.pth", "checkpoint-10.pth", "checkpoint-11.pth"):
        (tmp_path / name).unlink()
    assert same(read_weights(tmp_path).tensors, OTHER)


def test_folders_of_folders(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="give the path of one of these: checkpoint-500/"):
        read_weights(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        read_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no folder .*absent either"):
        read_weights(tmp_path / "absent" / "a.pth")


def test_programs_and_archives_are_no_checkpoints(tmp_path):
    network = torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.trace(network, torch.ones(1, 2)), tmp_path / "script.pt")
    torch.export.save(torch.export.export(network, (torch.ones(1, 2),)), tmp_path / "program.pt2")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    for name, words in (
        ("script.pt", "a TorchScript program"),
        ("program.pt2", "archive of another kind"),
        ("arrays.npz", "archive of another kind"),
    ):
        with pytest.raises(CheckpointError, match=words):
            read_weights(tmp_path / name)
    torch.save(network, tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match="--trust_checkpoint"):
        read_weights(tmp_path / "module.pth")
    assert same(read_weights(tmp_path / "module.pth", trust=True).tensors, dict(network.state_dict()))
