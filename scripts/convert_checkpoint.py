"""Weights from any layout in the wild into another: `python scripts/convert_checkpoint.py IN OUT --to hf`.

IN is a `.pth` file (SIGMA, VideoMAE 1 and 2, MVD, ours), a `.safetensors` file, a Hugging Face folder or a DeepSpeed
folder. OUT must not exist; it appears when it is whole, and files of weights are read back before that.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.errors import AnnotationError
from datasets.lists.checks import read_class_names
from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError, ConfigError, user_errors
from models import ModelError
from models.classifier import Classifier
from models.sigma import Sigma
from models.weights.export import export_onnx, export_torch
from models.weights.huggingface import (
    dropped_names,
    from_huggingface,
    huggingface_config,
    is_huggingface,
    preprocessor_config,
    to_huggingface,
)
from models.weights.load import native_state, weights_hash
from models.weights.model_card import model_card
from models.weights.rebuild import describe, rebuild

FORMATS = {  # --to: endings of OUT
    "sigma": (".pth", ".pt"),
    "hf": (),
    "safetensors": (".safetensors",),
    "deepspeed-consolidated": (".pth", ".pt", ".bin"),
    "onnx": (".onnx",),
    "torch-export": (".pt2",),
}
EXPORTERS = {"onnx": export_onnx, "torch-export": export_torch}
PATHS = (  # options that tell of the machine where the weights were made
    *("output_dir", "log_dir", "data_path", "data_path_csv", "data_root", "eval_data_path", "finetune", "resume"),
    *("teacher_weights", "flow_weights", "mlp_preloading"),
)
UNSAID = {"num_frames": 16, "input_size": 224}  # what the released models have
_WRAPPER = re.compile(r"^((?:module\.|_orig_mod\.)+)")


@dataclass
class Content:
    """What is converted: native tensors, and what is known of them."""

    state: dict[str, torch.Tensor]
    args: dict[str, Any]
    class_names: list[str]
    licence: str
    left_out: list[str] = field(default_factory=list)  # names of tensors that were in the file


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(allow_abbrev=False, description="Convert weights between formats.")
    options.add_argument("input", metavar="IN", help="file or folder")
    options.add_argument("output", metavar="OUT", help="file, or folder for hf; must not exist")
    options.add_argument("--to", required=True, choices=list(FORMATS))
    options.add_argument("--model_key", default="model|module", help="where the weights lie in a .pth file")
    options.add_argument("--class_names", default="", metavar="FILE", help="one name a line, in label order")
    options.add_argument("--licence", default="", metavar="TEXT", help="of the weights that training started from")
    options.add_argument("--num_frames", type=int, help="frames of a clip, where the file does not say")
    options.add_argument("--input_size", type=int, help="height and width of a clip, where the file does not say")
    options.add_argument("--dynamic_batch", action="store_true", help="onnx, torch-export: clips of any number at once")
    options.add_argument("--trust_checkpoint", action="store_true", help="run the code that IN may hold")
    return options


def check_places(args: argparse.Namespace) -> None:
    """Raise ConfigError for an OUT that cannot be, and for options without effect."""
    out = Path(args.output)
    endings = FORMATS[args.to]
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: exists already and is left as it is; choose another OUT or remove it")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first")
    if endings and out.suffix not in endings:
        raise ConfigError(f"{out}: --to {args.to} writes a file that ends in {' or '.join(endings)}")
    if args.dynamic_batch and args.to not in EXPORTERS:
        raise ConfigError(f"--dynamic_batch is for --to {' and '.join(EXPORTERS)}, not for {args.to}")


def read_content(args: argparse.Namespace) -> Content:
    """IN by native names, with what the command line adds; prints what was found."""
    weights = read_weights(args.input, model_key=args.model_key, trust=args.trust_checkpoint)
    names = [_WRAPPER.sub("", name) for name in weights.tensors]
    wrapped = sorted({m[1] for name in weights.tensors if (m := _WRAPPER.match(name))})
    theirs = is_huggingface(names)
    layout = ("transformers' names" if theirs else "native names") + (
        f" behind {', '.join(wrapped)}" if wrapped else ""
    )
    state = native_state(weights.tensors)
    print(f"{args.input}: {weights.kind}, {layout}: {describe(state)}")
    print(f"weights: {summary(state)}")
    content = Content(
        state,
        options_of(args, weights.args),
        class_names_of(args, weights.class_names, state),
        args.licence or weights.licence,
        left_out=dropped_names(names) if theirs else [],
    )
    print(f"licence: {content.licence or 'unknown; give it with --licence'}")
    return content


def options_of(args: argparse.Namespace, said: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the run that made the weights, as plain types, completed from the command line."""
    options = {name: value for name, value in plain(said).items() if name not in PATHS}
    for name in UNSAID:
        given, known = getattr(args, name), options.get(name)
        if given is not None and known not in (None, given):
            raise ConfigError(f"--{name} {given}: {args.input} says {known}; leave the flag out")
        if given is not None:
            options[name] = given
    return options


def class_names_of(args: argparse.Namespace, said: list[str], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of a classifier's classes: of the command line, else of the file; [] if not known."""
    number = len(state["head.weight"]) if "head.weight" in state else 0
    if args.class_names:
        if not Path(args.class_names).is_file():
            raise ConfigError(f"--class_names {args.class_names}: no such file")
        said = read_class_names(Path(args.class_names))
        if not number:
            raise ConfigError(f"--class_names: {args.input} is no classifier; leave the flag out")
        if len(said) != number:
            raise ConfigError(f"--class_names {args.class_names}: {len(said)} names for {number} classes, one a line")
    if not number or len(said) == number:
        return said if number else []
    if said:
        raise CheckpointError(f"{args.input}: {len(said)} class names for {number} classes; give --class_names FILE")
    return []


def plain(value: Any) -> Any:
    """Numbers, texts, lists and dictionaries as they are; anything else (paths, devices) as its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # Not isinstance: a numpy number is a float too, and would not load again as a plain type.
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def summary(state: Mapping[str, torch.Tensor]) -> str:
    """Number of tensors and parameters, type, and the hash that tells one set of weights from another."""
    parameters = sum(value.numel() for value in state.values())
    types = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in state.values()}))
    return f"{len(state)} tensors, {parameters / 1e6:.2f} M parameters, {types}, hash {weights_hash(state)}"


def build(content: Content) -> Classifier | Sigma:
    """The model; says what had to be assumed for it."""
    assumed = {name: value for name, value in UNSAID.items() if content.args.get(name) is None}
    if assumed:
        words = ", ".join(f"{name} {value}" for name, value in assumed.items())
        flags = " ".join(f"--{name} N" for name in assumed)
        print(f"assumed: {words}, as the file does not say; if that is wrong give {flags}")
    model = rebuild(content.state, content.args)
    config = content.args.get("num_attention_heads")
    encoder = model.encoder if isinstance(model, Sigma) else model
    block: Any = encoder.blocks[0]
    if config and config != block.attn.num_heads:
        print(f"heads: {block.attn.num_heads}; config.json says {config}, which is a known mistake at this width")
    return model


def write_safetensors(tensors: Mapping[str, torch.Tensor], file: Path, **facts: str) -> None:
    """`facts` go into the header, beside the `format` that transformers asks for."""
    # The format has no two tensors in one memory, which parts of one larger tensor are.
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
    except RuntimeError as error:  # what torch makes of a failing write
        raise OSError(str(error).splitlines()[0]) from error


def write_huggingface(content: Content, folder: Path) -> dict[str, torch.Tensor]:
    """The folder that `from_pretrained` reads; the tensors in it by native names."""
    model = build(content)
    tensors = to_huggingface(content.state)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    configs = {
        "config.json": huggingface_config(model, class_names=content.class_names, dtype=dtype),
        "preprocessor_config.json": preprocessor_config(model),
    }
    names, args, licence = content.class_names, content.args, content.licence
    card = model_card(model, name=folder.name, class_names=names, args=args, licence=licence)
    folder.mkdir()
    write_safetensors(tensors, folder / "model.safetensors")
    for name, values in configs.items():
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    return from_huggingface(tensors)


def write(content: Content, target: str, file: Path) -> dict[str, torch.Tensor]:
    """Write weights in a format that holds nothing else, and read them back.

    Returns:
        what was written, by native names.

    Raises:
        CheckpointError: what was read back is something else.
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
    if weights_hash(native_state(read_weights(file).tensors)) != weights_hash(written):
        raise CheckpointError(f"{file.name}: read back, it holds other weights; nothing was kept. Is the disk sound?")
    return written


def export(content: Content, target: str, file: Path, *, dynamic_batch: bool) -> dict[str, torch.Tensor]:
    """Write the model as a program, which the exporter compares with the model; the tensors that are in it."""
    model = build(content)
    facts = EXPORTERS[target](model, str(file), dynamic_batch=dynamic_batch)
    print("; ".join(f"{name} {value}" for name, value in facts.items() if name != "file"))
    return model.encoder.state_dict() if isinstance(model, Sigma) else model.state_dict()


@contextlib.contextmanager
def new_place(out: Path) -> Iterator[Path]:
    """A name in a temporary folder beside `out`; what was made under it, and beside it, is moved there at the end."""
    os.umask(umask := os.umask(0))  # there is no way to read it without setting it
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        yield folder / out.name
        made = sorted(folder.iterdir(), key=lambda path: path.name == out.name)  # what others refer to first
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


def main(args: argparse.Namespace) -> None:
    check_places(args)
    content = read_content(args)
    with new_place(Path(args.output)) as file:
        if args.to in EXPORTERS:
            written, result = export(content, args.to, file, dynamic_batch=args.dynamic_batch), "written"
        else:
            written = write(content, args.to, file)
            result = f"written and read back: {summary(written)}"
    bare = {name.removeprefix("encoder.") for name in written}
    left_out = content.left_out + [name for name in content.state if name.removeprefix("encoder.") not in bare]
    names = ", ".join(left_out[:8]) + (", ..." if len(left_out) > 8 else "")
    print(f"left out: {len(left_out)} tensors" + (f" ({names})" if names else ""))
    print("never taken along: optimizer, schedule and random states; OUT is no training state to --resume")
    print(f"{args.output}: {result}")


if __name__ == "__main__":
    with user_errors(ModelError, AnnotationError):
        main(parser().parse_args())
