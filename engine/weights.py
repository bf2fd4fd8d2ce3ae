"""Weights in whatever file or folder they come, with what it says of them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.checkpoint import read
from engine.deepspeed_folder import read_deepspeed
from engine.errors import CheckpointError

_LICENCE = re.compile(
    r"^license(?:_name)?:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE
)  # a name in words says more, and comes last
# Hugging Face's names for what our options call otherwise.
_CONFIG_ARGS = {
    "num_frames": "num_frames",
    "image_size": "input_size",
    "tubelet_size": "tubelet_size",
    "num_attention_heads": "num_attention_heads",
    "decoder_num_attention_heads": "decoder_num_attention_heads",
    "norm_pix_loss": "normalize_target",
}


@dataclass(frozen=True)
class Weights:
    """Tensors by their names in the file, and what the file says of them (empty where it does not)."""

    tensors: dict[str, torch.Tensor]
    kind: str
    args: dict[str, Any] = field(default_factory=dict)  # options of the run that made them
    class_names: list[str] = field(default_factory=list)
    licence: str = ""


def read_weights(path: str | Path, *, model_key: str = "model|module", trust: bool = False) -> Weights:
    """Read a `.pth` or `.safetensors` file, or a Hugging Face or DeepSpeed folder; tensors in host memory.

    Args:
        model_key: where the weights lie in a `.pth` file: the first of these names, separated by `|`, that is there;
            a file without any of them must hold tensors itself.
        trust: also unpickle objects, which can run any code (`--trust_checkpoint`).

    Raises:
        CheckpointError: missing, damaged, of no known kind, without weights, or holding objects without `trust`.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "config.json").is_file():
            return _huggingface_folder(path)
        return _deepspeed_folder(path, trust=trust)
    if path.suffix == ".safetensors":
        tensors, facts = _safetensors(path)
        return Weights(tensors, "safetensors file", **facts)
    if path.name.endswith("_model_states.pt"):
        return _deepspeed_folder(path, trust=trust)
    content = read(path, trust=trust)
    return Weights(_chosen(content, model_key, path), "torch file", **_facts(content))


def _chosen(content: Mapping[str, Any], model_key: str, path: Path) -> dict[str, torch.Tensor]:
    weights = next((content[key] for key in model_key.split("|") if key in content), content)
    weights = weights if isinstance(weights, Mapping) else {}
    tensors = {str(name): value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:12]))
        raise CheckpointError(f"{path}: no weights under --model_key {model_key}: its keys are {keys}")
    return tensors


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    args = content.get("args")
    args = args if isinstance(args, Mapping) else getattr(args, "__dict__", {})
    names = content.get("class_names") or []
    licence = content.get("licence") or args.get("licence") or ""  # of what the run started from
    return {"args": dict(args), "class_names": list(map(str, names)), "licence": str(licence)}


def _safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a file, and the facts in its header, where they are texts."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            header = file.metadata() or {}
        facts = {name: json.loads(header[name]) for name in ("args", "class_names") if name in header}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    return tensors, _facts({**facts, "licence": header.get("licence", "")})


def _huggingface_folder(folder: Path) -> Weights:
    """`config.json` with `model.safetensors` (in one or several parts), or with `pytorch_model.bin`."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: cannot be read ({error})") from error
    files = sorted(folder.glob("model*.safetensors"))
    tensors: dict[str, torch.Tensor] = {}
    if files:
        for file in files:
            tensors |= _safetensors(file)[0]
    elif (folder / "pytorch_model.bin").is_file():
        tensors = _chosen(read(folder / "pytorch_model.bin"), "model|module", folder)
    else:
        raise CheckpointError(f"{folder}: has config.json, but neither model.safetensors nor pytorch_model.bin")
    card = folder / "README.md"
    licences = _LICENCE.findall(card.read_text().partition("\n---")[0]) if card.is_file() else []
    return Weights(
        tensors,
        "Hugging Face folder",
        args={ours: _plain(config[theirs]) for theirs, ours in _CONFIG_ARGS.items() if theirs in config},
        class_names=_class_names(config.get("id2label") or {}),
        licence=licences[-1].strip("\"'") if licences else "",
    )


def _plain(value: Any) -> Any:
    """A size that is given once for each side, as one number: clips are square."""
    return value[0] if isinstance(value, list) and len(set(value)) == 1 else value


def _class_names(id2label: Mapping[str, str]) -> list[str]:
    """Names by label; none where they are the placeholders that transformers makes up."""
    names = [id2label[key] for key in sorted(id2label, key=int)]
    return [] if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


def _deepspeed_folder(path: Path, *, trust: bool) -> Weights:
    tensors, stage, content = read_deepspeed(path, trust=trust)
    return Weights(tensors, f"DeepSpeed folder (ZeRO {stage})", **_facts(content))
