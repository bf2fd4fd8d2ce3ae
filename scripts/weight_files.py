"""Writes weights and models into files of other formats, and reads them back. Used by convert_checkpoint.py."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError, ConfigError
from models.classifier import Classifier
from models.sigma import Sigma
from models.weights.export import export_onnx, export_torch
from models.weights.huggingface import from_huggingface, to_huggingface
from models.weights.huggingface_config import huggingface_config, preprocessor_config, video_preprocessor_config
from models.weights.load import native_state, weights_hash
from models.weights.model_card import model_card
from models.weights.rebuild import rebuild

EXPORTERS = {"onnx": export_onnx, "torch-export": export_torch}
DEFAULT_CLIP = {"num_frames": 16, "input_size": 224}  # of the released models


@dataclass
class Content:
    """What is converted: tensors by native names, and what is known about them."""

    state: dict[str, torch.Tensor]
    args: dict[str, Any]
    class_names: list[str]
    licence: str
    left_out: list[str] = field(default_factory=list)  # names of tensors that were in the file


def summary(state: Mapping[str, torch.Tensor]) -> str:
    """Number of tensors and parameters, type, and the hash that tells one set of weights from another."""
    parameters = sum(value.numel() for value in state.values())
    types = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in state.values()}))
    return f"{len(state)} tensors, {parameters / 1e6:.2f} M parameters, {types}, hash {weights_hash(state)}"


def build(content: Content) -> Classifier | Sigma:
    """The model; prints what had to be assumed."""
    assumed = {name: value for name, value in DEFAULT_CLIP.items() if content.args.get(name) is None}
    if assumed:
        words = ", ".join(f"{name} {value}" for name, value in assumed.items())
        flags = " ".join(f"--{name} N" for name in assumed)
        print(f"assumed: {words} (not recorded in the file); if that is wrong give {flags}")
    model = rebuild(content.state, content.args)
    config = content.args.get("num_attention_heads")
    encoder = model.encoder if isinstance(model, Sigma) else model
    block: Any = encoder.blocks[0]
    if config and config != block.attn.num_heads:
        print(f"heads: {block.attn.num_heads}; config.json says {config}, a known error of the converter at this width")
    return model


def write_safetensors(tensors: Mapping[str, torch.Tensor], file: Path, **facts: str) -> None:
    """`facts` go into the header, beside the `format` that transformers asks for."""
    # Safetensors files cannot share storage between tensors, as views of one larger tensor do.
    separate = {name: value.contiguous().clone() for name, value in tensors.items()}
    try:
        save_file(separate, file, metadata={"format": "pt", **facts})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def write_torch(key: str, tensors: Mapping[str, torch.Tensor], file: Path, content: Content) -> None:
    """A file that `torch.load` reads with `weights_only=True`."""
    facts = {"args": content.args, "class_names": content.class_names, "licence": content.licence}
    try:
        with file.open("wb") as stream:
            torch.save({key: dict(tensors), **facts}, stream)
    except RuntimeError as error:  # which torch raises for a failed write
        raise OSError(str(error).splitlines()[0]) from error


def write_huggingface(
    content: Content, folder: Path, *, metrics: Mapping[str, float] | None = None, whole: str = ""
) -> dict[str, torch.Tensor]:
    """Write the folder that `from_pretrained` reads; returns the tensors in it, by native names.

    Args:
        metrics: for the card: results, by what was measured on what.
        whole: file for all tensors, where transformers has no place for some of them; "": these are left out.
    """
    model = build(content)
    tensors = to_huggingface(content.state)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    side = content.args.get("short_side_size")
    short_side = side if isinstance(side, int) else None
    configs = {
        "config.json": huggingface_config(model, class_names=content.class_names, dtype=dtype, args=content.args),
        "preprocessor_config.json": preprocessor_config(model, short_side=short_side),
        "video_preprocessor_config.json": video_preprocessor_config(model, short_side=short_side),
    }
    names, args, licence = content.class_names, content.args, content.licence
    written = from_huggingface(tensors)
    held = {name.removeprefix("encoder.") for name in written}
    has_more = any(name.removeprefix("encoder.") not in held for name in content.state)
    facts: dict[str, Any] = {"metrics": metrics, "whole": whole if has_more else ""}
    card = model_card(model, name=folder.name, class_names=names, args=args, licence=licence, **facts)
    folder.mkdir()
    write_safetensors(tensors, folder / "model.safetensors")
    if whole and has_more:
        write(content, "safetensors", folder / whole)
    for name, values in configs.items():
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    return written


def write(content: Content, target: str, file: Path) -> dict[str, torch.Tensor]:
    """Write weights in a format other than a program, and read them back.

    Returns:
        What was written, by native names.

    Raises:
        CheckpointError: what was read back differs.
    """
    written = content.state
    if target == "hf":
        written = write_huggingface(content, file)
    elif target == "safetensors":
        facts = {"args": json.dumps(content.args), "class_names": json.dumps(content.class_names)}
        write_safetensors(written, file, licence=content.licence, **facts)
    elif target == "sigma":
        write_torch("model", written, file, content)
    else:
        written = {name: value.float() if value.is_floating_point() else value for name, value in written.items()}
        write_torch("module", written, file, content)
    check_written(file, written)
    return written


def check_written(file: Path, written: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointError where what is read back differs from what was written, by native names."""
    if weights_hash(native_state(read_weights(file).tensors)) != weights_hash(written):
        raise CheckpointError(f"{file.name}: read back, it holds other weights; nothing was kept. Is the disk sound?")


def export(content: Content, target: str, file: Path, *, dynamic_batch: bool) -> dict[str, torch.Tensor]:
    """Write the model as a program, which the exporter compares with the model; returns the tensors in it."""
    model = build(content)
    facts = EXPORTERS[target](model, str(file), dynamic_batch=dynamic_batch)
    print("; ".join(f"{name} {value}" for name, value in facts.items() if name != "file"))
    return model.encoder.state_dict() if isinstance(model, Sigma) else model.state_dict()


@contextlib.contextmanager
def new_place(out: Path) -> Iterator[Path]:
    """A path in a temporary folder beside `out`; all that was written there is moved into place at the end."""
    os.umask(umask := os.umask(0))  # it cannot be read without setting it
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        yield folder / out.name
        made = sorted(folder.iterdir(), key=lambda path: path.name == out.name)  # `out` last: it refers to the others
        for path in made:
            for file in path.rglob("*") if path.is_dir() else [path]:
                file.chmod(0o666 & ~umask)  # safetensors makes its files readable by their owner only
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
            if (out.parent / path.name).exists():
                raise ConfigError(f"{out.parent / path.name}: exists already and is left as it is; choose another OUT")
        for path in made:
            path.rename(out.parent / path.name)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
