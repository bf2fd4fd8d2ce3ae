"""Read weights and their metadata from every supported file format."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sigma_video.options import AT_LEAST_ONE, Options, option

from ..errors import CheckpointError
from .deepspeed_folder import read_deepspeed
from .finite import find_nonfinite
from .io import read_checkpoint

logger = logging.getLogger(__name__)

MAX_NORM_EPS = 1e-5  # transformers writes 1e-12 for weights trained with 1e-6; both are negligible
DEFAULT_KEY = "model|module"
_LICENCE = re.compile(
    r"^license(?:_name)?:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE
)  # license_name is more specific, and comes last
# Hugging Face's config keys and the corresponding options.
_CONFIG_ARGS = {
    "num_frames": "num_frames",
    "image_size": "input_size",
    "tubelet_size": "tubelet_size",
    "num_attention_heads": "num_attention_heads",
    "decoder_num_attention_heads": "decoder_num_attention_heads",
    "norm_pix_loss": "normalize_target",
}


@dataclass(frozen=True, kw_only=True)
class StartConfig(Options):
    """The weights that training starts from."""

    finetune: str = option("", "checkpoint or safetensors file, Hugging Face or DeepSpeed folder", metavar="PATH")
    model_key: str = option(DEFAULT_KEY, "where the weights lie in a checkpoint file")
    pretrained_clip: tuple[int, int] | None = option(
        None,
        "clip that these weights were trained on, where their file does not say; default: what the file says",
        rule=AT_LEAST_ONE,
        metavar=("FRAMES", "SIZE"),
    )
    trust_checkpoint: bool = option(False, "unpickle objects of checkpoint files too: they can run any code")

    def trained_with(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Options that given weights were trained with: those that their file records, or `--pretrained_clip`."""
        if self.pretrained_clip is None:
            return dict(recorded)
        frames, size = self.pretrained_clip
        return {**recorded, "num_frames": frames, "input_size": size, "position_grid": None}


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and the metadata of the file (empty if missing)."""

    tensors: dict[str, torch.Tensor]
    kind: str
    args: dict[str, Any] = field(default_factory=dict)  # options of the training run
    class_names: list[str] = field(default_factory=list)
    licence: str = ""


def read_weights(path: str | Path, *, model_key: str = DEFAULT_KEY, trust: bool = False) -> Weights:
    """Read a `.pth` or `.safetensors` file, or a Hugging Face or DeepSpeed folder; tensors in host memory.

    Args:
        model_key: keys of a `.pth` file, separated by `|`; the first one present holds the weights. A file without
            any of them must be a state dict itself.
        trust: also unpickle objects, which can run any code (`--trust_checkpoint`).

    Raises:
        CheckpointError: missing, damaged, unknown format, no weights, weights that are NaN or Inf, or contains other
            objects without `trust`.
    """
    weights = _read(Path(path), model_key=model_key, trust=trust)
    if bad := find_nonfinite(weights.tensors):
        raise CheckpointError(f"{path}: {bad} is not finite (NaN or Inf): these weights are not usable")
    return weights


def _read(path: Path, *, model_key: str, trust: bool) -> Weights:
    if path.is_file() and path.suffix != ".safetensors" and not path.name.endswith("_model_states.pt"):
        content = read_checkpoint(path, trust=trust)
        return Weights(_select_state_dict(content, model_key, path), "torch file", **_metadata(content, path))
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file or folder")
    if model_key != DEFAULT_KEY:
        raise CheckpointError(
            f"{path}: --model_key {model_key} is for .pth files; other formats hold a single state dict"
        )
    if path.suffix == ".safetensors":
        tensors, facts = _read_safetensors(path)
        return Weights(tensors, "safetensors file", **facts)
    if (path / "config.json").is_file() and not any(path.glob("*_model_states.pt")):
        return _read_huggingface(path, trust=trust)
    tensors, stage, content = read_deepspeed(path, trust=trust)
    return Weights(tensors, f"DeepSpeed folder (ZeRO {stage})", **_metadata(content, path))


def _select_state_dict(content: Mapping[str, Any], model_key: str, path: Path) -> dict[str, torch.Tensor]:
    asked = [key for key in model_key.split("|") if key in content]
    for weights in [content[key] for key in asked] or [content]:
        if isinstance(weights, Mapping):
            tensors = {str(name): value for name, value in weights.items() if isinstance(value, torch.Tensor)}
            if tensors:
                return tensors
    keys = ", ".join(map(str, list(content)[:12]))
    raise CheckpointError(f"{path}: no weights under the key {model_key}: its keys are {keys}")


def _metadata(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    args = content.get("args")
    args = args if isinstance(args, Mapping) else getattr(args, "__dict__", {})
    names = content.get("class_names") or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: its class_names are not a list of texts")
    licence = content.get("licence") or args.get("licence") or ""  # of what the run started from
    return {"args": dict(args), "class_names": _without_placeholders(names), "licence": str(licence)}


def _without_placeholders(names: Sequence[str]) -> list[str]:
    """No names where they only count: 0, 1, ... of our runs without class names, LABEL_0, ... of transformers."""
    counts = any(list(names) == [f"{word}{label}" for label in range(len(names))] for word in ("", "LABEL_"))
    return [] if counts else list(names)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path}: not readable by this user")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    facts: dict[str, Any] = {"licence": header.get("licence", "")}
    for name in ("args", "class_names"):
        try:
            facts[name] = json.loads(header.get(name, "null"))
        except json.JSONDecodeError:
            logger.warning("%s: ignoring %s in its header: not JSON", path, name)
    return tensors, _metadata(facts, path)


def _read_huggingface(folder: Path, *, trust: bool) -> Weights:
    """A folder with `config.json` and `model.safetensors` (possibly sharded) or `pytorch_model.bin`."""
    config = _read_json(folder / "config.json")
    _check_config(config, folder / "config.json")
    return Weights(
        _read_huggingface_tensors(folder, trust=trust),
        "Hugging Face folder",
        args={ours: _single_size(config[theirs], folder) for theirs, ours in _CONFIG_ARGS.items() if theirs in config},
        class_names=_class_names(config.get("id2label") or {}, folder),
        licence=_licence(folder / "README.md"),
    )


def _read_huggingface_tensors(folder: Path, *, trust: bool) -> dict[str, torch.Tensor]:
    if (folder / "model.safetensors").is_file():
        return _read_safetensors(folder / "model.safetensors")[0]
    if (folder / "model.safetensors.index.json").is_file():
        parts = _read_json(folder / "model.safetensors.index.json").get("weight_map", {})
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(set(parts.values())):
            tensors |= _read_safetensors(folder / file)[0]
        if missing := [name for name in parts if name not in tensors]:
            raise CheckpointError(
                f"{folder}: {len(missing)} tensors of its index are missing in the shards, first {missing[0]}"
            )
        return tensors
    if (folder / "pytorch_model.bin").is_file():
        return _select_state_dict(read_checkpoint(folder / "pytorch_model.bin", trust=trust), DEFAULT_KEY, folder)
    raise CheckpointError(f"{folder}: has config.json, but neither model.safetensors nor pytorch_model.bin")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: invalid JSON or UTF-8
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: cannot be read (it holds a {type(content).__name__}, not an object)")
    return content


def _check_config(config: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError if the architecture differs from ours."""
    activation, epsilon = config.get("hidden_act", "gelu"), config.get("layer_norm_eps", 1e-12)
    if activation != "gelu":
        raise CheckpointError(f"{file}: hidden_act {activation}: only gelu is supported")
    if not isinstance(epsilon, int | float) or epsilon > MAX_NORM_EPS:
        raise CheckpointError(f"{file}: layer_norm_eps {epsilon}: only 1e-6 is supported, the results would differ")


def _single_size(value: Any, folder: Path) -> Any:
    """A size given per side as one number: clips are square."""
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise CheckpointError(f"{folder / 'config.json'}: image_size {value}: clips must be square")
    return value[0]


def _class_names(id2label: Any, folder: Path) -> list[str]:
    """Class names by label; empty for placeholders."""
    try:
        names = [str(id2label[str(label)]) for label in range(len(id2label))]
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: id2label does not name labels 0, 1, 2, ...") from error
    return _without_placeholders(names)


def _licence(card: Path) -> str:
    """`license_name` or `license` of a model card's header."""
    if not card.is_file():
        return ""
    found = _LICENCE.findall(card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0])
    if not found:
        return ""
    try:
        return str(json.loads(found[-1]))  # license_name is quoted
    except json.JSONDecodeError:
        return found[-1].strip("\"'")
