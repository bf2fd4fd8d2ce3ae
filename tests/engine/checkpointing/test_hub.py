"""Weights from the Hugging Face Hub, here one of a folder."""

import pytest
import torch
from hub_server import SHA, serve
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from runs import same
from safetensors.torch import save_file

from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError

STATE = {"blocks.0.a": torch.arange(6.0)}


def use(monkeypatch, address):
    """What HF_ENDPOINT does when the library is imported."""
    close_session()  # it may have been opened under another test's proxies
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = "{endpoint}/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace("{endpoint}", address))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Repositories: `me/model` with weights at its top, `me/files` with files below it."""
    model, files = tmp_path / "hub" / "me" / "model", tmp_path / "hub" / "me" / "files"
    (files / "pretrain").mkdir(parents=True)
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "videomae", "id2label": {"0": "a", "1": "b"}}')
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    save_file(STATE, model / "model.safetensors")
    (model / "pytorch_model.bin").write_bytes(b"not read: the same weights are in the other file")
    torch.save({"model": STATE}, files / "pretrain" / "x.pth")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path / "hub") as address:
        use(monkeypatch, address)
        yield tmp_path / "cache"


def test_a_repository_and_a_file_and_what_is_not_there(hub, monkeypatch):
    for name in ("hf:me/model", "hf://me/model", f"hf:me/model@{SHA}"):
        found = read_weights(name)
        assert same(found.tensors, STATE) and found.class_names == ["a", "b"] and found.licence == "mit"
    assert same(read_weights("hf:me/files/pretrain/x.pth").tensors, STATE)
    assert {file.name for file in hub.rglob("snapshots/*/**/*") if file.is_file()} == {
        *("config.json", "README.md", "model.safetensors", "x.pth")
    }
    for name, words in (
        ("hf:me/files", "no weights at its top; give one of its files: hf:me/files/pretrain/x.pth$"),
        ("hf:me/files/pretrain/y.pth", "no such file in it$"),
        ("hf:me/model@other", "no such revision of it$"),
        ("hf:me/nothing", "no such repository, or a private one"),
        ("hf:model", "write hf:ORG/NAME"),
        ("hf:me/../model", "Repo id must use"),
    ):
        with pytest.raises(CheckpointError, match=words):
            read_weights(name)
    use(monkeypatch, "http://127.0.0.1:9")
    for name in ("hf:me/model", "hf:me/files/pretrain/x.pth"):
        assert same(read_weights(name).tensors, STATE)
    with pytest.raises(CheckpointError, match=r"not reachable, and not in the cache.*hf download me/nothing"):
        read_weights("hf:me/nothing")


def test_a_folder_of_that_name_is_a_folder(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:me" / "model").mkdir(parents=True)
    torch.save({"model": {"b": torch.ones(2)}}, tmp_path / "hf:me" / "model" / "checkpoint-1.pth")
    assert set(read_weights("hf:me/model").tensors) == {"b"}
