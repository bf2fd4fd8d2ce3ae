"""Weights from DeepSpeed's checkpoint folders, without DeepSpeed and without running code they might hold.

A folder has one subfolder per saved step (the tag), and a file `latest` that names the newest. In it, by ZeRO stage:

- 0: `mp_rank_00_model_states.pt` holds the whole model under `module`.
- 1, 2: the same, in the precision of training; the float32 master weights lie in `*_optim_states.pt`, one file a rank.
  Each group of parameters is one long vector, cut into equal parts, one a rank; `param_shapes` says its order.
- 3: every parameter by itself is cut into equal parts, the last one filled up; a rank's parts form one long vector.
  `zero_pp_rank_N_mp_rank_00_model_states.pt` hold the shapes, the buffers, and the parts of frozen parameters.

Facts of the layout are from the writer (DeepSpeed 0.19.8) and from files that it made (tests/golden/deepspeed).
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
_UNSUPPORTED = "saved with model, pipeline or expert parallelism; only DeepSpeed's own tools make one model of that"
_OTHER_PARALLELISM = re.compile(r"(layer_\d+|expp_rank_\d+|.*mp_rank_(?!00_)\d+).*_states\.pt")
_DEEPSPEED_KEYS = frozenset(  # of a model file; whatever else is there is the training script's
    {
        *("module", "buffer_names", "optimizer", "param_shapes", "frozen_param_shapes", "frozen_param_fragments"),
        *("shared_params", "lr_scheduler", "data_sampler", "random_ltd", "skipped_steps", "global_steps"),
        *("sparse_tensor_module_names", "csr_tensor_module_names", "global_samples", "dp_world_size", "mp_world_size"),
        *("checkpoint_parallel_dimensions", "universal_checkpoint_info", "num_experts", "ds_autoep_layers"),
        *("ds_config", "ds_version"),
    }
)


class _Placeholder:
    """Takes the place of an object that real folders hold and that no weight depends on."""


# Names of DeepSpeed's classes in its files, and what is made of such objects here.
_STAND_INS: list[Any] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Placeholder, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Placeholder, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Placeholder, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_Placeholder, "deepspeed.runtime.bf16_optimizer.fragment_address"),  # its place in earlier versions
]

Tensors = dict[str, torch.Tensor]


def read_deepspeed(path: str | Path, *, trust: bool = False) -> tuple[Tensors, int, dict[str, Any]]:
    """The weights of a DeepSpeed checkpoint in float32, put together from all ranks' files.

    Args:
        path: the folder with `latest` in it, a tag's folder (`global_stepN`), or a `*_model_states.pt` file in one.
        trust: also unpickle objects of unknown types, which can run any code (`--trust_checkpoint`).

    Returns:
        Tensors by name (parameters, also frozen ones and those with two names, and buffers; integers stay integers);
        the ZeRO stage; and what the training script saved besides (`epoch`, `args`), as far as it is plain values, an
        argparse.Namespace as a dictionary. Of stage 0 in half precision the weights are the model's, not the masters,
        which are saved without names there.

    Raises:
        CheckpointError: not such a folder; files missing, damaged or of another run; objects of other types without
            `trust`; or saved with model, pipeline or expert parallelism.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else _tag_folder(path)
    main = path if path.is_file() and not _SHARD.fullmatch(path.name) else _model_file(folder)
    in_parts = _SHARD.fullmatch(main.name) is not None  # stage 3
    content = _read_file(main, trust=trust)
    try:
        if content.get("mp_world_size", 1) != 1:
            raise CheckpointError(f"{main}: {_UNSUPPORTED}")
        if not in_parts and not content.get("param_shapes"):
            return _in_float32(content["module"]), 0, _client_state(content)
        ranks, stage = _read_master_weights(folder, content, trust=trust)
        if in_parts != (stage == 3):
            raise CheckpointError(f"{folder}: {main.name} is not of ZeRO stage {stage}, as its other files are")
        if in_parts:
            models = [_read_file(file, trust=trust) for file in _files_by_rank(folder, "model", len(ranks))]
            # Parameters are empty in `module` here, as no rank has a whole one.
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
            f"{folder}: its files do not fit together as those of a DeepSpeed checkpoint do "
            f"({type(error).__name__}: {str(error)[:300]})"
        ) from error


# ------------------------------------------------------------------------------------------------------------- files


def _tag_folder(path: Path) -> Path:
    """The folder with the files: `path` itself, or the one that `latest` in it names."""
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
    """The model file of rank 0. Raises where the folder holds two runs' files or a kind that is not read."""
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
    """The ranks' files of one kind (`model` or `optim`), in order of rank.

    Raises:
        CheckpointError: one is missing, or there twice, or (`exactly`) of a rank beyond the world's size.
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
            f"{folder}: {names} missing (the name may begin with bf16_). Every rank writes one, on its own machine: "
            "copy all of them here"
        )
    if exactly and len(by_rank) > world_size:
        raise CheckpointError(
            f"{by_rank[max(by_rank)]}: of another run: the other files say that they were saved by {world_size} ranks"
        )
    return [by_rank[rank] for rank in range(world_size)]


def _read_file(file: Path, *, trust: bool) -> dict[str, Any]:
    """Content of a file. Objects of unknown types are made only if it cannot be read otherwise, and with `trust`."""
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
    """What one rank's optimizer file says."""

    vectors: list[torch.Tensor]  # float32, one per group of parameters
    paddings: list[list[int]] | None  # values after each parameter that are none, by group; None: there are none
    world_size: int
    stage: int


def _read_master_weights(folder: Path, content: Mapping[str, Any], *, trust: bool) -> tuple[list[_RankState], int]:
    """Master weights of every rank, and the stage."""
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
    # DeepSpeed's optimizer for bfloat16 in stage 1 does not write the stage.
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
    """Stages 1 and 2: each group's vector lies across the ranks, one parameter after the other."""
    tensors = {}
    paddings_by_group = ranks[0].paddings or [[0] * len(shapes) for shapes in shapes_by_group]
    vectors_by_group = zip(*(rank.vectors for rank in ranks), strict=True)
    for shapes, paddings, vectors in zip(shapes_by_group, paddings_by_group, vectors_by_group, strict=True):
        flat, start = torch.cat(vectors), 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            size = math.prod(shape)
            tensors[name] = flat[start : start + size].view(tuple(shape)).float().clone()
            start += size + padding
        # The end may be filled up to a multiple of twice the number of ranks.
        _check_length(start, len(flat), spare=-start % (2 * len(ranks)))
    return tensors


def _merge_parameters(shapes_by_group: Sequence[Mapping[str, Sequence[int]]], ranks: Sequence[_RankState]) -> Tensors:
    """Stage 3: each parameter lies across the ranks, in equal parts."""
    flats = [torch.cat(rank.vectors) for rank in ranks]
    tensors, start = {}, 0
    for name, shape in (item for shapes in shapes_by_group for item in shapes.items()):
        size = math.prod(shape)
        part = math.ceil(size / len(flats))
        tensors[name] = torch.cat([flat[start : start + part] for flat in flats])[:size].view(tuple(shape)).float()
        start += part
    for flat in flats:
        _check_length(start, len(flat), spare=0)
    return tensors


def _merge_frozen(models: Sequence[Mapping[str, Any]]) -> Tensors:
    """Stage 3: parameters without an optimizer lie in the model files, also in equal parts."""
    tensors = {}
    for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
        flat = torch.cat([model["frozen_param_fragments"][name].flatten() for model in models])
        tensors[name] = flat[: math.prod(shape)].view(tuple(shape)).float().clone()
    return tensors


def _check_length(used: int, available: int, *, spare: int) -> None:
    if not used <= available <= used + spare:
        raise ValueError(f"{available} values saved, {used} expected")
