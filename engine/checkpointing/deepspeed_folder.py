"""Read weights from DeepSpeed checkpoint folders, without DeepSpeed and without executing code in them.

A folder has one subfolder per saved step (the tag), and a file `latest` that names the newest. In it, by ZeRO stage:

- 0: `mp_rank_00_model_states.pt` holds the full model under `module`.
- 1, 2: the same, in training precision; the float32 master weights are in `*_optim_states.pt`, one file per rank. Each
  parameter group is one flat vector, split into equal shards, one per rank; `param_shapes` gives its order.
- 3: every parameter is split into equal shards, the last one padded; the shards of a rank form one flat vector.
  `zero_pp_rank_N_mp_rank_00_model_states.pt` hold shapes, buffers, and the shards of frozen parameters.

The layout is that of DeepSpeed 0.19.8, checked on files that it wrote (tests/golden/deepspeed).
"""

import argparse
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .io import read_checkpoint

_SHARD = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_00_(model|optim)_states\.pt")
_WHOLE = "mp_rank_00_model_states.pt"
_UNSUPPORTED = "saved with model, pipeline or expert parallelism; use DeepSpeed's own tools to convert it"
_OTHER_PARALLELISM = re.compile(r"(layer_\d+|expp_rank_\d+|.*mp_rank_(?!00_)\d+).*_states\.pt")
_DEEPSPEED_KEYS = frozenset(  # keys of a model file; all others were added by the training script
    {
        *("module", "buffer_names", "optimizer", "param_shapes", "frozen_param_shapes", "frozen_param_fragments"),
        *("shared_params", "lr_scheduler", "data_sampler", "random_ltd", "skipped_steps", "global_steps"),
        *("sparse_tensor_module_names", "csr_tensor_module_names", "global_samples", "dp_world_size", "mp_world_size"),
        *("checkpoint_parallel_dimensions", "universal_checkpoint_info", "num_experts", "ds_autoep_layers"),
        *("ds_config", "ds_version"),
    }
)


class _Placeholder:
    """Replaces objects in the files that no weight depends on."""


# DeepSpeed's classes in the files, and what they are unpickled as here.
_STAND_INS: list[Any] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Placeholder, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Placeholder, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Placeholder, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_Placeholder, "deepspeed.runtime.bf16_optimizer.fragment_address"),  # its module in earlier versions
]

Tensors = dict[str, torch.Tensor]


def read_deepspeed(path: str | Path, *, trust: bool = False) -> tuple[Tensors, int, dict[str, Any]]:
    """Merge the float32 weights of a DeepSpeed checkpoint from the files of all ranks.

    Args:
        path: the folder with `latest` in it, a tag's folder (`global_stepN`), or a `*_model_states.pt` file in one.
        trust: also unpickle objects of unknown types, which can execute code (`--trust_checkpoint`).

    Returns:
        Tensors by name (parameters, including frozen and shared ones, and buffers; integers stay integers); the ZeRO
        stage; and the plain values that the training script saved too (`epoch`, `args`), an argparse.Namespace as a
        dictionary. For stage 0 in half precision these are the model's weights: its master weights have no names.

    Raises:
        CheckpointError: no DeepSpeed folder; files missing, damaged or of another run; other objects without `trust`;
            or saved with model, pipeline or expert parallelism.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else _tag_folder(path)
    main = path if path.is_file() and not _SHARD.fullmatch(path.name) else _model_file(folder)
    is_sharded = _SHARD.fullmatch(main.name) is not None  # stage 3
    content = _read_file(main, trust=trust)
    try:
        if content.get("mp_world_size", 1) != 1:
            raise CheckpointError(f"{main}: {_UNSUPPORTED}")
        if not is_sharded and not content.get("param_shapes"):
            return _in_float32(content["module"]), 0, _client_state(content)
        ranks, stage = _read_master_weights(folder, content, trust=trust)
        if is_sharded != (stage == 3):
            raise CheckpointError(f"{folder}: {main.name} is not of ZeRO stage {stage}, as its other files are")
        if is_sharded:
            models = [_read_file(file, trust=trust) for file in _files_by_rank(folder, "model", len(ranks))]
            # Parameters are empty in `module`: no rank has a full one.
            tensors = _in_float32({name: content["module"][name] for name in content["buffer_names"]})
            tensors |= _merge_frozen(models) | _merge_parameters(content["param_shapes"], ranks)
        else:
            tensors = _in_float32(content["module"]) | _merge_groups(content["param_shapes"], ranks)
        for name, stored_as in (content.get("shared_params") or {}).items():
            tensors[name] = tensors[stored_as]
        return tensors, stage, _client_state(content)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder}: its files do not form a consistent DeepSpeed checkpoint "
            f"({type(error).__name__}: {str(error)[:300]})"
        ) from error


# ------------------------------------------------------------------------------------------------------------- files


def _tag_folder(path: Path) -> Path:
    """The folder with the files: `path`, or the one named in its file `latest`."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    latest = path / "latest"
    tags = sorted({file.parent.name for file in path.glob("*/*_states.pt")})
    if latest.is_file():
        tag = latest.read_text(errors="replace").strip()
        if tag not in tags:
            there = f"give the path of one that is there: {', '.join(tags)}" if tags else "and there is no other"
            raise CheckpointError(f"{latest}: names {tag[:100]!r}, which is no folder with a checkpoint; {there}")
        return path / tag
    if any(path.glob("*_states.pt")):
        return path
    hint = f"; give the path of one of its folders: {', '.join(tags)}" if tags else ""
    raise CheckpointError(f"{path}: not a DeepSpeed checkpoint: neither `latest` nor *_states.pt in it{hint}")


def _model_file(folder: Path) -> Path:
    """The model file of rank 0. Raises CheckpointError for files of two runs or an unsupported format."""
    names = sorted(file.name for file in folder.iterdir())
    if other := next((name for name in names if _OTHER_PARALLELISM.fullmatch(name)), None):
        raise CheckpointError(f"{folder / other}: {_UNSUPPORTED}")
    found = [name for name in names if name == _WHOLE or ((m := _SHARD.fullmatch(name)) and m[2] == "model")]
    if _WHOLE in found and len(found) > 1:
        raise CheckpointError(f"{folder}: holds {_WHOLE} and {found[-1]}: files of two runs, of ZeRO stage 3 and not")
    if _WHOLE in found:
        return folder / _WHOLE
    if not found:
        raise CheckpointError(
            f"{folder}: no model file: {_WHOLE} is missing, or, of ZeRO stage 3, zero_pp_rank_0_{_WHOLE}"
        )
    return _files_by_rank(folder, "model", 1, exactly=False)[0]


def _files_by_rank(folder: Path, kind: str, world_size: int, *, exactly: bool = True) -> list[Path]:
    """The files of one kind (`model` or `optim`) of all ranks, in rank order.

    Raises:
        CheckpointError: a file is missing or duplicated, or (`exactly`) of a rank beyond the world size.
    """
    by_rank: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        match = _SHARD.fullmatch(file.name)
        if match and match[2] == kind:
            other = by_rank.setdefault(int(match[1]), file)
            if other != file:
                raise CheckpointError(f"{folder}: {other.name} and {file.name} are files of two runs")
    missing = list(itertools.islice((rank for rank in range(world_size) if rank not in by_rank), 8))
    if missing:
        names = ", ".join(f"zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt" for rank in missing)
        raise CheckpointError(
            f"{folder}: {names} missing (the name may begin with bf16_). Every rank writes one, on its own node: copy "
            "all of them here"
        )
    if exactly and len(by_rank) > world_size:
        raise CheckpointError(
            f"{by_rank[max(by_rank)]}: of another run: the other files say that they were saved by {world_size} ranks"
        )
    return [by_rank[rank] for rank in range(world_size)]


def _read_file(file: Path, *, trust: bool) -> dict[str, Any]:
    """Content of a file. Unknown types are unpickled only with `trust`, and only if necessary."""
    with torch.serialization.safe_globals(_STAND_INS):
        try:
            return read_checkpoint(file)
        except CheckpointError:
            if not trust:
                raise
            return read_checkpoint(file, trust=True)


def _client_state(content: Mapping[str, Any]) -> dict[str, Any]:
    state = {}
    for name, value in content.items():
        if isinstance(value, argparse.Namespace):
            value = {option: given for option, given in vars(value).items() if _is_plain(given)}
        if name not in _DEEPSPEED_KEYS and _is_plain(value):
            state[name] = value
    return state


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


# ---------------------------------------------------------------------------------------------------- master weights


@dataclass(frozen=True)
class _RankState:
    """Content of one rank's optimizer file."""

    vectors: list[torch.Tensor]  # float32, one per parameter group
    paddings: list[list[int]] | None  # padding after each parameter, by group; None: no padding
    world_size: int
    stage: int


def _read_master_weights(folder: Path, content: Mapping[str, Any], *, trust: bool) -> tuple[list[_RankState], int]:
    """Master weights of every rank, and the ZeRO stage."""
    first = _files_by_rank(folder, "optim", 1, exactly=False)[0]
    ranks = [_read_rank(first, content, trust=trust)]
    world_size, stage = ranks[0].world_size, ranks[0].stage
    for file in _files_by_rank(folder, "optim", world_size)[1:]:
        rank = _read_rank(file, content, trust=trust)
        if (rank.world_size, rank.stage) != (world_size, stage):
            raise CheckpointError(
                f"{file}: saved by {rank.world_size} ranks in ZeRO stage {rank.stage}, but {first.name} by "
                f"{world_size} in stage {stage}: files of two runs"
            )
        ranks.append(rank)
    return ranks, stage


def _read_rank(file: Path, content: Mapping[str, Any], *, trust: bool) -> _RankState:
    state = _read_file(file, trust=trust)["optimizer_state_dict"]
    counts = state["partition_count"]
    # DeepSpeed's bfloat16 optimizer in stage 1 does not save the stage.
    stage = state["zero_stage"] if "zero_stage" in state else content["ds_config"]["zero_optimization"]["stage"]
    vectors = state["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]
    return _RankState(
        [vector.detach() for vector in vectors],
        state.get("param_alignment_paddings"),
        world_size=max(counts) if isinstance(counts, list) else int(counts),
        stage=int(stage),
    )


def _in_float32(tensors: Mapping[str, Any]) -> Tensors:
    tensors = {name: tensor.detach() for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _merge_groups(shapes_by_group: Sequence[Mapping[str, Sequence[int]]], ranks: Sequence[_RankState]) -> Tensors:
    """Stages 1 and 2: concatenate each group's flat vector over ranks, and split it into parameters."""
    tensors = {}
    paddings_by_group = ranks[0].paddings or [[0] * len(shapes) for shapes in shapes_by_group]
    vectors_by_group = zip(*(rank.vectors for rank in ranks), strict=True)
    for shapes, paddings, vectors in zip(shapes_by_group, paddings_by_group, vectors_by_group, strict=True):
        flat, start = torch.cat(vectors), 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            size = math.prod(shape)
            tensors[name] = flat[start : start + size].view(tuple(shape)).float().clone()
            start += size + padding
        # The end may be padded to a multiple of twice the world size.
        _check_length(start, len(flat), max_padding=-start % (2 * len(ranks)))
    return tensors


def _merge_parameters(shapes_by_group: Sequence[Mapping[str, Sequence[int]]], ranks: Sequence[_RankState]) -> Tensors:
    """Stage 3: concatenate the equal shards of each parameter."""
    flats = [torch.cat(rank.vectors) for rank in ranks]
    tensors, start = {}, 0
    for name, shape in (item for shapes in shapes_by_group for item in shapes.items()):
        size = math.prod(shape)
        part = math.ceil(size / len(flats))
        tensors[name] = torch.cat([flat[start : start + part] for flat in flats])[:size].view(tuple(shape)).float()
        start += part
    for flat in flats:
        _check_length(start, len(flat), max_padding=0)
    return tensors


def _merge_frozen(models: Sequence[Mapping[str, Any]]) -> Tensors:
    """Stage 3: frozen parameters are in the model files, also in equal shards."""
    tensors = {}
    for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
        flat = torch.cat([model["frozen_param_fragments"][name].flatten() for model in models])
        tensors[name] = flat[: math.prod(shape)].view(tuple(shape)).float().clone()
    return tensors


def _check_length(used: int, available: int, *, max_padding: int) -> None:
    if not used <= available <= used + max_padding:
        raise ValueError(f"{available} values saved, {used} expected")
