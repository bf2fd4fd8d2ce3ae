"""Converts weights from any known layout into another: `python scripts/convert_checkpoint.py IN OUT --to hf`.

IN is a `.pth` file (SIGMA, VideoMAE 1 and 2, MVD, ours), a `.safetensors` file, a Hugging Face folder or a DeepSpeed
folder. OUT must not exist; it appears when it is whole, and files of weights are read back before that.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.errors import AnnotationError
from datasets.lists.checks import read_class_names
from engine.checkpointing.read_weights import read_weights
from engine.errors import CheckpointError, ConfigError, user_errors
from models import ModelError
from models.weights.names import recognize
from models.weights.rebuild import describe
from scripts.licences import one_licence
from scripts.weight_files import EXPORTERS, Content, export, new_place, summary, write
from sigma_video.command_line import CommandLine

FORMATS = {  # --to: endings of OUT
    "sigma": (".pth", ".pt"),
    "hf": (),
    "safetensors": (".safetensors",),
    "deepspeed-consolidated": (".pth", ".pt", ".bin"),
    "onnx": (".onnx",),
    "torch-export": (".pt2",),
}
PATHS = (  # options that tell of the machine where the weights were made
    *("output_dir", "log_dir", "data_path", "data_path_csv", "data_root", "eval_data_path", "finetune", "resume"),
    *("teacher_weights", "flow_weights", "mlp_preloading"),
)


@dataclass(frozen=True)
class Given:
    """What the command line adds to the file's own records; empty or None: nothing."""

    class_names: str = ""
    licence: str = ""
    num_frames: int | None = None
    input_size: int | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(allow_abbrev=False, description="Convert weights between formats.")
    options.add_argument("input", metavar="IN", help="file or folder")
    options.add_argument("output", metavar="OUT", help="file, or folder for hf; must not exist")
    options.add_argument("--to", required=True, choices=list(FORMATS))
    options.add_argument("--model_key", default="model|module", help="keys of the weights in a .pth file")
    options.add_argument("--class_names", default="", metavar="FILE", help="one name per line, in label order")
    options.add_argument("--licence", default="", metavar="TEXT", help="of the weights that training started from")
    options.add_argument("--num_frames", type=int, help="frames per clip, if the file does not record it")
    options.add_argument("--input_size", type=int, help="height and width of a clip, if the file does not record them")
    options.add_argument("--dynamic_batch", action="store_true", help="onnx, torch-export: any batch size")
    options.add_argument("--trust_checkpoint", action="store_true", help="run the code that IN may hold")
    return options


def check_output(out: Path, *, target: str, dynamic_batch: bool) -> None:
    """Raise ConfigError for an OUT that cannot be written, and for options without effect."""
    endings = FORMATS[target]
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: exists already and is left as it is; choose another OUT or remove it")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.parent}; make it first")
    if endings and out.suffix not in endings:
        raise ConfigError(f"{out}: --to {target} writes a file that ends in {' or '.join(endings)}")
    if dynamic_batch and target not in EXPORTERS:
        raise ConfigError(f"--dynamic_batch is for --to {' and '.join(EXPORTERS)}, not for {target}")


def read_content(file: str, given: Given, *, model_key: str, trust: bool) -> Content:
    """IN by native names, with what the command line adds; prints what was found."""
    weights = read_weights(file, model_key=model_key, trust=trust)
    found = recognize(weights.tensors)
    state = found.state
    print(f"{file}: {weights.kind}, {found.layout}: {describe(state)}")
    print(f"weights: {summary(state)}")
    content = Content(
        state,
        options_of(file, weights.args, given),
        class_names_of(file, weights.class_names, given.class_names, state),
        one_licence(given.licence, {f"as {file} records": weights.licence}),
        left_out=found.left_out,
    )
    print(f"licence: {content.licence or 'unknown; give it with --licence'}")
    return content


def options_of(file: str, recorded: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """Options of the run that made the weights, as plain types, completed from the command line."""
    options = {
        name: value
        for name, value in plain(recorded).items()
        if name not in PATHS and not (isinstance(value, str) and Path(value).is_absolute())
    }
    for name, value in (("num_frames", given.num_frames), ("input_size", given.input_size)):
        known = options.get(name)
        if value is not None and known not in (None, value):
            raise ConfigError(f"--{name} {value}: {file} says {known}; leave the flag out")
        if value is not None:
            options[name] = value
    return options


def class_names_of(file: str, recorded: list[str], names_file: str, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of a classifier's classes: of the command line, else of the file; [] if not known."""
    num_classes = len(state["head.weight"]) if "head.weight" in state else 0
    if names_file:
        return _given_names(file, names_file, num_classes)
    if num_classes and recorded and len(recorded) != num_classes:
        names = f"{len(recorded)} class names for {num_classes} classes"
        raise CheckpointError(f"{file}: {names}; give --class_names FILE")
    return recorded if num_classes else []


def _given_names(file: str, names_file: str, num_classes: int) -> list[str]:
    if not Path(names_file).is_file():
        raise ConfigError(f"--class_names {names_file}: no such file")
    names = read_class_names(Path(names_file))
    if not num_classes:
        raise ConfigError(f"--class_names: {file} is no classifier; leave the flag out")
    if len(names) != num_classes:
        raise ConfigError(f"--class_names {names_file}: {len(names)} names for {num_classes} classes, one per line")
    return names


def plain(value: Any) -> Any:
    """Numbers, texts, lists and dictionaries as they are; anything else (paths, devices) as its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # Not isinstance: a numpy number is a float too, and would not load again as a plain type.
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def convert(content: Content, out: Path, *, target: str, dynamic_batch: bool) -> None:
    """Write OUT; prints what was written and what was left out."""
    with new_place(out) as file:
        if target in EXPORTERS:
            written, result = export(content, target, file, dynamic_batch=dynamic_batch), "written"
        else:
            written = write(content, target, file)
            result = f"written and read back: {summary(written)}"
    bare = {name.removeprefix("encoder.") for name in written}
    left_out = content.left_out + [name for name in content.state if name.removeprefix("encoder.") not in bare]
    names = ", ".join(left_out[:8]) + (", ..." if len(left_out) > 8 else "")
    print(f"left out: {len(left_out)} tensors" + (f" ({names})" if names else ""))
    print("never included: optimizer, schedule and random states; OUT is no training state to --resume")
    print(f"{out}: {result}")


def main(args: argparse.Namespace) -> None:
    out = Path(args.output)
    check_output(out, target=args.to, dynamic_batch=args.dynamic_batch)
    given = Given(args.class_names, args.licence, args.num_frames, args.input_size)
    content = read_content(args.input, given, model_key=args.model_key, trust=args.trust_checkpoint)
    convert(content, out, target=args.to, dynamic_batch=args.dynamic_batch)


if __name__ == "__main__":
    with user_errors(ModelError, AnnotationError):
        main(parser().parse_args())
