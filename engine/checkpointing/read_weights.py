"""Read weights and their metadata from every supported file format."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sigma_video.command_line import this_python
from sigma_video.options import AT_LEAST_ONE, Options, option

from ..errors import CheckpointError
from .deepspeed_folder import read_deepspeed
from .download import fetch, is_address
from .files import describe_missing, newest_weights
from .finite import find_nonfinite
from .io import read_checkpoint
from .weight_folders import check_whole, has_weights, read_facts, read_safetensors, read_tensors

logger = logging.getLogger(__name__)

_NETWORK = re.compile(r"(^|[._])(model|state_dict|net|network|encoder|backbone|student)$")

Tensors = dict[str, torch.Tensor]

DEFAULT_KEY = "model|module"
# Entries of checkpoint files that are no weights, and those that are second ones.
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng|random|callback|loops|hyper|hparams|grad|queue|(^|_)args|config")
_COPIES = re.compile(r"(^|[._])(ema|teacher|momentum|target|averaged|average|shadow|swa|old|k|key)([._]|$)")


@dataclass(frozen=True, kw_only=True)
class StartConfig(Options):
    """The weights that training starts from."""

    finetune: str = option(
        "",
        "checkpoint or safetensors file, Hugging Face, DeepSpeed or output folder, https:// address, or hf:ORG/NAME",
        metavar="PATH",
    )
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

    tensors: Tensors
    kind: str
    args: dict[str, Any] = field(default_factory=dict)  # options of the training run
    class_names: list[str] = field(default_factory=list)
    licence: str = ""
    lists: dict[str, Any] = field(default_factory=dict)  # of the training run, by part, as `summarise` describes them


def read_weights(path: str | Path, *, model_key: str = DEFAULT_KEY, trust: bool = False) -> Weights:
    """Read the weights of a file, a folder or an address; tensors in host memory.

    Args:
        path: a `.pth` or `.safetensors` file; a folder of Hugging Face's libraries or of DeepSpeed; the output folder
            of a run, whose newest whole checkpoint is read; or an address, which is fetched into a cache.
        model_key: keys of a `.pth` file, separated by `|`; the first one present holds the weights. Without any of
            them the file is a state dict itself or, by default, has one entry that is. Else the prefix of the names of
            tensors to take.
        trust: also unpickle objects, which can run any code (`--trust_checkpoint`).

    Raises:
        CheckpointError: missing, damaged, unknown format, no weights, weights that are NaN or Inf, or contains other
            objects without `trust`.
    """
    weights = _read(path, model_key=model_key, trust=trust)
    if bad := find_nonfinite(weights.tensors):
        raise CheckpointError(f"{path}: {bad} is not finite (NaN or Inf): these weights are not usable")
    return weights


def _read(path: str | Path, *, model_key: str, trust: bool) -> Weights:
    path = fetch(str(path)) if is_address(path) else Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: {describe_missing(path)}")
    if path.is_file() and path.name.endswith(".index.json"):
        path = path.parent
    if path.is_file() and not path.name.endswith("_model_states.pt"):
        check_whole(path)
        return _read_file(path, model_key, trust=trust)
    weights = _read_folder(path, trust=trust)
    if weights is not None:
        return _with_prefix(weights, model_key, path)
    newest = newest_weights(path)
    if newest is None:
        raise CheckpointError(f"{path}: no weights in it, neither of a run of this code nor of another{_hint(path)}")
    logger.info("%s: its newest checkpoint is taken, %s", path, newest.name)
    return _read_file(newest, model_key, trust=trust)


def _read_file(path: Path, model_key: str, *, trust: bool) -> Weights:
    if path.suffix == ".safetensors":
        tensors, facts = read_safetensors(path)
        return _with_prefix(Weights(tensors, "safetensors file", **_metadata(facts, path)), model_key, path)
    content = read_checkpoint(path, trust=trust)
    tensors, key = _select_state_dict(content, model_key, path)
    kind = f"torch file, {key}" if key else "torch file"
    return Weights(tensors, kind, **_metadata(content, path))


def _read_folder(path: Path, *, trust: bool) -> Weights | None:
    """Weights of another program's folder; None: it is none of these."""

    def read_bin(file: Path) -> Tensors:
        return _select_state_dict(read_checkpoint(file, trust=trust), DEFAULT_KEY, file)[0]

    if path.is_file() or (path / "latest").is_file() or any(path.glob("*_model_states.pt")):
        tensors, stage, content = read_deepspeed(path, trust=trust)
        return Weights(tensors, f"DeepSpeed folder (ZeRO {stage})", **_metadata(content, path))
    if (path / "config.json").is_file():
        facts = read_facts(path)
        facts["class_names"] = _without_placeholders(facts["class_names"])
        return Weights(read_tensors(path, read_bin=read_bin), "Hugging Face folder", **facts)
    if has_weights(path):
        return Weights(read_tensors(path, read_bin=read_bin), "folder of weights without config.json")
    return None


def _hint(folder: Path) -> str:
    """What to give in the place of a folder without weights in it."""
    if any(folder.glob("*.distcp")):
        return (
            f". It is of torch.distributed.checkpoint: make a file of it with `{this_python()} -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
        )
    files = sorted(file.name for pattern in ("*.pth", "*.pt", "*.ckpt", "*.bin") for file in folder.glob(pattern))
    inner = sorted(f"{file.parent.relative_to(folder)}/" for file in folder.glob("**/config.json"))
    inner += sorted({f"{file.parent.name}/" for file in folder.glob("*/*_states.pt")})
    found = [*files, *inner]
    return f"; give the path of one of these: {', '.join(found[:8])}" if found else ""


def _entries(content: Mapping[str, Any], depth: int = 2, above: str = "") -> Iterator[tuple[str, Tensors]]:
    """The state dicts in a file's content by their keys, those inside another entry as `key.key`."""
    for key, value in content.items():
        if not isinstance(value, Mapping) or _NO_WEIGHTS.search(str(key)):
            continue
        if tensors := _tensors_of(value):
            yield f"{above}{key}", tensors
        elif depth > 1:
            yield from _entries(value, depth - 1, f"{above}{key}.")


def _tensors_of(content: Mapping[str, Any]) -> Tensors:
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _select_state_dict(content: Mapping[str, Any], model_key: str, path: Path) -> tuple[Tensors, str]:
    """The tensors that `--model_key` asks for, and the key they lie under if it is not among its default ones.

    An empty key among those asked for stands for the tensors that lie under none.
    """
    entries, own = dict(_entries(content)), _tensors_of(content)
    asked = model_key.split("|")
    for key in asked:
        if key in entries:
            return entries[key], "" if key in DEFAULT_KEY.split("|") else f"key {key}"
    if own and ("" in asked or model_key == DEFAULT_KEY):
        return own, ""
    if model_key == DEFAULT_KEY:
        main = [key for key in entries if not _COPIES.search(key)] if len(entries) > 1 else list(entries)
        if len(main) > 1:  # V-JEPA: encoder, predictor
            main = [key for key in main if _NETWORK.search(key)]
        if len(main) == 1:
            return entries[main[0]], f"key {main[0]}"
        if entries:
            raise CheckpointError(f"{path}: several state dicts ({', '.join(entries)}): choose with --model_key KEY")
    for key, tensors in ((key, tensors) for key in asked for tensors in (own, *entries.values())):
        if inner := _behind(tensors, key):
            return inner, f"names behind {key}"
    keys = ", ".join(map(str, list(content)[:12]))
    raise CheckpointError(f"{path}: no weights under the key {model_key}: its keys are {keys}")


def _behind(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    start = f"{prefix.removesuffix('.')}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _with_prefix(weights: Weights, model_key: str, path: Path) -> Weights:
    """Of a format that holds a single state dict, the tensors whose names have the prefix that `--model_key` says."""
    if model_key == DEFAULT_KEY:
        return weights
    for key in model_key.split("|"):
        if tensors := _behind(weights.tensors, key):
            return replace(weights, tensors=tensors)
    raise CheckpointError(
        f"{path}: --model_key {model_key} is for .pth files, or the prefix of names; none of its tensors has that"
    )


def _metadata(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    args = content.get("args")
    args = args if isinstance(args, Mapping) else getattr(args, "__dict__", {})
    names = content.get("class_names") or _mmengine_classes(content.get("meta")) or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: its class_names are not a list of texts")
    licence = content.get("licence") or args.get("licence") or ""  # of what the run started from
    lists = content.get("lists")
    return {
        "args": dict(args),
        "class_names": _without_placeholders(names),
        "licence": str(licence),
        "lists": dict(lists) if isinstance(lists, Mapping) else {},
    }


def _mmengine_classes(meta: Any) -> Any:
    """Class names that OpenMMLab's programs save."""
    meta = meta if isinstance(meta, Mapping) else {}
    inner = meta.get("dataset_meta")
    return meta.get("CLASSES") or (inner.get("classes") if isinstance(inner, Mapping) else None)


def _without_placeholders(names: Sequence[str]) -> list[str]:
    """No names where they only count: 0, 1, ... of our runs without class names, LABEL_0, ... of transformers."""
    counts = any(list(names) == [f"{word}{label}" for label in range(len(names))] for word in ("", "LABEL_"))
    return [] if counts else list(names)
