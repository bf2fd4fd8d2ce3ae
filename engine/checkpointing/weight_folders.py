"""Read safetensors files, and folders as Hugging Face's libraries write them: a configuration and weights, in parts."""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]

MAX_NORM_EPS = 1e-5  # transformers writes 1e-12 for weights trained with 1e-6; both are negligible
_LICENCE = re.compile(
    r"^license(?:_name)?:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE
)  # license_name is more specific, and comes last
# Keys of a configuration and the corresponding options; the later ones are those of VideoMAE V2's `model_config`.
_CONFIG_ARGS = {
    "num_frames": "num_frames",
    "image_size": "input_size",
    "tubelet_size": "tubelet_size",
    "num_attention_heads": "num_attention_heads",
    "decoder_num_attention_heads": "decoder_num_attention_heads",
    "norm_pix_loss": "normalize_target",
    "all_frames": "num_frames",
    "img_size": "input_size",
    "num_heads": "num_attention_heads",
}
# Of folders that this project exported: options of the run beyond those that transformers knows, and their types.
_OWN = "sigma_video"
_OWN_ARGS: dict[str, type] = {
    "data_set": str,
    "sampling": str,
    "sampling_rate": int,
    "fps": float,
    "test_num_segment": int,
    "test_num_crop": int,
    "view_pooling": str,
}
_TASKS = {"multi_label_classification": "multilabel", "regression": "regression"}  # problem_type -> --task
_PART = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|bin)")
_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors of a safetensors file, and what its header says about the run: `args`, `class_names`, `licence`.

    Raises:
        CheckpointError: missing, unreadable, empty, or one part of several.
    """
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
    return tensors, facts


def check_whole(path: Path) -> None:
    """Raise CheckpointError for one part of weights that are split into several files."""
    if match := _PART.fullmatch(path.name):
        raise CheckpointError(
            f"{path}: part {int(match['index'])} of {int(match['count'])} of the weights: give their folder, "
            f"{path.parent}"
        )


def has_weights(folder: Path) -> bool:
    """Whether there are weights under the names that Hugging Face's libraries give them, or safetensors files."""
    return any(any(folder.glob(pattern)) for pattern in _PATTERNS)


def read_tensors(folder: Path, *, read_bin: Callable[[Path], Tensors]) -> Tensors:
    """Tensors of a folder: of one file, or of all parts, with or without their index.

    Args:
        read_bin: reads a `pytorch_model.bin`, or a part of one.

    Raises:
        CheckpointError: no weights, parts missing, or several files of which none has the usual name.
    """
    kinds: list[tuple[str, Callable[[Path], Tensors]]] = [
        ("model.safetensors", lambda file: read_safetensors(file)[0]),
        ("pytorch_model.bin", read_bin),
    ]
    for whole, read in kinds:
        if (folder / whole).is_file():
            return read(folder / whole)
        if (folder / f"{whole}.index.json").is_file():
            return _read_indexed(folder, read_json(folder / f"{whole}.index.json"), read)
    for pattern, (_, read) in zip(_PATTERNS, kinds, strict=True):
        if files := sorted(folder.glob(pattern)):
            return _read_parts(folder, files, read)
    raise CheckpointError(f"{folder}: neither model.safetensors nor pytorch_model.bin in it")


def _read_indexed(folder: Path, index: Mapping[str, Any], read: Callable[[Path], Tensors]) -> Tensors:
    parts = index.get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(file, str) for file in parts.values()):
        raise CheckpointError(f"{folder}: the index of its weights has no weight_map of names and files")
    if outside := next((file for file in parts.values() if Path(file).name != file), None):
        raise CheckpointError(f"{folder}: the index of its weights names {outside[:100]!r}, outside the folder")
    tensors: Tensors = {}
    for file in sorted(set(parts.values())):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / file}: no such file, but the index of the weights names it")
        tensors |= read(folder / file)
    if missing := [name for name in parts if name not in tensors]:
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors of its index are missing in the shards, first {missing[0]}"
        )
    return tensors


def _read_parts(folder: Path, files: Sequence[Path], read: Callable[[Path], Tensors]) -> Tensors:
    """One file of any name, or all parts of one set of weights, without an index."""
    if len(files) == 1 and not _PART.fullmatch(files[0].name):
        return read(files[0])
    sets: dict[tuple[str, int], list[Path]] = {}
    for file in files:
        if match := _PART.fullmatch(file.name):
            sets.setdefault((match["stem"], int(match["count"])), []).append(file)
    if len(sets) != 1:
        names = ", ".join(file.name for file in files[:8])
        raise CheckpointError(f"{folder}: several weights in it ({names}): give the path of one file")
    (_, count), parts = sets.popitem()
    if len(parts) != count:
        raise CheckpointError(
            f"{folder}: {len(parts)} of {count} parts of the weights are there ({', '.join(p.name for p in parts[:8])})"
        )
    tensors: Tensors = {}
    for part in parts:
        tensors |= read(part)
    return tensors


def read_facts(folder: Path) -> dict[str, Any]:
    """Options, class names and licence of a folder with `config.json`.

    Raises:
        CheckpointError: the configuration cannot be read, or is of another network.
    """
    file = folder / "config.json"
    config = read_json(file)
    inner = config.get("model_config")
    sizes = {**config, **(inner if isinstance(inner, dict) else {})}
    _check_config(sizes, file)
    args = {ours: _single_size(sizes[theirs], folder) for theirs, ours in _CONFIG_ARGS.items() if theirs in sizes}
    if config.get("problem_type") in _TASKS:
        args["task"] = _TASKS[config["problem_type"]]
    if isinstance(config.get("target_scale"), list):
        args["target_scale"] = config["target_scale"]
    own = config.get(_OWN)
    if isinstance(own, dict):
        args |= {name: own[name] for name, kind in _OWN_ARGS.items() if type(own.get(name)) is kind}
    return {
        "args": args | _processing(folder),
        "class_names": _class_names(config.get("id2label") or {}, folder),
        "licence": _licence(folder / "README.md"),
    }


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object. Raises CheckpointError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: invalid JSON or UTF-8
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: cannot be read (it holds a {type(content).__name__}, not an object)")
    return content


def _check_config(config: Mapping[str, Any], file: Path) -> None:
    """Raise CheckpointError if the architecture differs from ours."""
    kind = str(config.get("model_type", "videomae"))
    if not kind.lower().startswith("videomae"):
        raise CheckpointError(f"{file}: model_type {kind}: another network; VideoMAE's weights are read")
    activation, epsilon = config.get("hidden_act", "gelu"), config.get("layer_norm_eps", 1e-12)
    if activation != "gelu":
        raise CheckpointError(f"{file}: hidden_act {activation}: only gelu is supported")
    if not isinstance(epsilon, int | float) or epsilon > MAX_NORM_EPS:
        raise CheckpointError(f"{file}: layer_norm_eps {epsilon}: only 1e-6 is supported, the results would differ")
    if config.get("use_learnable_pos_emb") or config.get("cos_attn"):
        raise CheckpointError(f"{file}: learned positions or cosine attention: another network than VideoMAE's")


def _processing(folder: Path) -> dict[str, int]:
    """The short side that the folder's processor resizes to; warns where it normalises in another way than this code.

    transformers reads the configuration of its video processor first, then that of the image processor.
    """
    names = ("video_preprocessor_config.json", "preprocessor_config.json")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return {}
    config = read_json(file)
    for name, ours in _IMAGENET.items():
        theirs = config.get(name)
        if theirs is not None and [round(float(value), 3) for value in theirs] != list(ours):
            logger.warning(
                "%s: %s %s, but clips are normalised with ImageNet's here, %s", file, name, theirs, list(ours)
            )
    size = config.get("size")
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    return {"short_side_size": edge} if isinstance(edge, int) else {}


def _single_size(value: Any, folder: Path) -> Any:
    """A size given per side as one number: clips are square."""
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise CheckpointError(f"{folder / 'config.json'}: image_size {value}: clips must be square")
    return value[0]


def _class_names(id2label: Any, folder: Path) -> list[str]:
    """Class names by label."""
    try:
        return [str(id2label[str(label)]) for label in range(len(id2label))]
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: id2label does not name labels 0, 1, 2, ...") from error


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
