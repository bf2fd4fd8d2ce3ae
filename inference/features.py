"""Features of a list, kept in a folder: `features.npy` (V, G, D), or (V, G, N, D), an index of its rows, their origin.

Letters: V samples of the list, G views of each, N tokens, D width, B samples of a batch.

The list is cut into shards, which ranks share out and write one by one, so that an extraction that is stopped goes on
where it was, with any number of ranks. A batch never crosses a shard: the same samples go through the model together
whatever the number of ranks, and give the same bits.
"""

import csv
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.loading.batch import Batch
from engine.distributed.world import World, on_every_rank, on_main_process
from engine.errors import CheckpointError, ConfigError, NonFiniteError
from engine.files import replace_text
from engine.resilience.holder import NAME as LOCK
from engine.resilience.lock import output_lock

logger = logging.getLogger(__name__)

FORMAT = 1  # of a folder
SHARD = 512  # samples, about
LOG_EVERY = 50  # batches
ARRAY, INDEX, META = "features.npy", "index.csv", "meta.json"
PART_LOCK = re.compile(rf"{re.escape(LOCK)}\.part-\d+-of-(\d+)")
WAYS_OUT = "makes features in this folder. Wait for it to end, or choose another folder."
DTYPES = ("float32", "float16")
Key = Mapping[str, Any]  # what features depend on, by kind: "checkpoint", "list", "views" and so on


@dataclass(frozen=True)
class Row:
    """A sample: its path, its span in seconds (None: all of it) and its label."""

    path: str
    span: tuple[float, float] | None
    label: Any


@dataclass(frozen=True)
class Plan:
    """What has to be made.

    Attributes:
        folder: where the features are kept.
        key: what they depend on; JSON.
        rows: of the list, in its order.
        views: G.
        width: D, or (N, D) where tokens are kept.
        batch: samples of a forward pass.
        dtype: one of DTYPES.
        shard: samples of a shard, about.
    """

    folder: Path
    key: Key
    rows: Sequence[Row]
    views: int
    width: int | tuple[int, int]
    batch: int
    dtype: str = "float32"
    shard: int = field(default_factory=lambda: SHARD)

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, G, D), or (V, G, N, D)."""
        return len(self.rows), self.views, *(self.width if isinstance(self.width, tuple) else (self.width,))

    def meta(self, *, complete: bool) -> dict[str, Any]:
        """Content of `meta.json`."""
        key = json.loads(json.dumps(dict(self.key)))  # tuples become lists, as in a file
        return {"format": FORMAT, "complete": complete, "shape": list(self.shape), "dtype": self.dtype, "key": key}

    def shards(self) -> list[range]:
        """Rows of each shard: whole batches."""
        size = max(self.shard // self.batch, 1) * self.batch
        return [range(start, min(start + size, len(self.rows))) for start in range(0, len(self.rows), size)]

    def file_of(self, shard: range) -> Path:
        """Where a shard lies until all are there."""
        return self.folder / f"rows-{shard.start:08d}-{shard.stop:08d}.npy"


def extract(
    plan: Plan,
    world: World,
    *,
    batches: Callable[[Sequence[int]], Iterable[Batch]],
    encode: Callable[[torch.Tensor], torch.Tensor],
    rebuild: bool = False,
    share: tuple[int, int] = (0, 1),
) -> np.ndarray | None:
    """The features of a plan, from its folder if they are there. Every rank must call it.

    Args:
        batches: places in the list -> batches of them, in this order, `plan.batch` samples each but the last.
        encode: normalised clips (B * G, 3, T, H, W) on the device -> (B * G, D), or (B * G, N, D).
        rebuild: make them anew, whatever the folder holds.
        share: (number, of): every so many shards from the number on, from 0, are made here; all others by other
            commands, such as the tasks of a slurm array, and one that makes all of them puts them together.

    Returns:
        (V, G, D), or (V, G, N, D), memory-mapped, read-only; None of a share.

    Raises:
        ConfigError: the folder holds features of something else, or the disk is too small.
        NonFiniteError: features that are NaN or Inf.
    """
    if share[1] > 1 and rebuild:
        raise ConfigError(f"{plan.folder}: a part does not remake what the others made: remove the folder first")
    if on_main_process(world, lambda: refuse_folder(plan, rebuild=rebuild)):
        return _open(plan)
    number, of = share
    name = LOCK if of == 1 else f"{LOCK}.part-{number + 1}-of-{of}"
    with output_lock(str(plan.folder), world, WAYS_OUT, name=name, against=partial(_excludes, of=of)):
        return _extract(plan, world, batches=batches, encode=encode, rebuild=rebuild, share=share)


def _excludes(name: str, *, of: int) -> bool:
    """Whether a lock keeps a command from making its share, one of `of`: that of all, or of a part cut another way."""
    part = PART_LOCK.fullmatch(name)
    return name == LOCK or (part is not None and int(part[1]) != of)


def _extract(
    plan: Plan,
    world: World,
    *,
    batches: Callable[[Sequence[int]], Iterable[Batch]],
    encode: Callable[[torch.Tensor], torch.Tensor],
    rebuild: bool,
    share: tuple[int, int],
) -> np.ndarray | None:
    """See `extract`; no other command writes into the folder meanwhile, but for other parts."""
    if on_main_process(world, lambda: prepare(plan, rebuild=rebuild, part=share[0] + 1 if share[1] > 1 else 0)):
        return _open(plan)
    own = plan.shards()[share[0] :: share[1]]
    missing = on_main_process(world, lambda: [shard for shard in own if not plan.file_of(shard).is_file()])
    if len(missing) < len(own):
        logger.info("%s: %d of %d shards are there", plan.folder, len(own) - len(missing), len(own))
    mine = missing[world.rank :: world.size]
    on_every_rank(world, lambda: _encode_shards(plan, world, mine, batches=batches, encode=encode))
    if share[1] > 1:
        return None
    on_main_process(world, lambda: _join(plan))
    return _open(plan)


def missing_shards(plan: Plan, world: World, *, rebuild: bool = False) -> list[int]:
    """Numbers of the shards that are still to be made: each may be given to another process, as its `share`.

    Every rank must call it. What was left in the folder by another batch size is removed.

    Args:
        rebuild: all of them, whatever the folder holds.

    Raises:
        ConfigError: see `extract`.
    """
    if on_main_process(world, lambda: refuse_folder(plan, rebuild=rebuild)):
        return []
    with output_lock(str(plan.folder), world, WAYS_OUT, against=partial(_excludes, of=1)):
        if on_main_process(world, lambda: prepare(plan, rebuild=rebuild)):
            return []
        return on_main_process(
            world, lambda: [number for number, shard in enumerate(plan.shards()) if not plan.file_of(shard).is_file()]
        )


def prepare(plan: Plan, *, rebuild: bool, part: int = 0) -> bool:
    """Make the folder ready on one rank; True: the features are there already.

    Args:
        part: from 1, of those that write into the folder at the same time, and remove nothing; 0: no other does.

    Raises:
        ConfigError: see `extract`.
    """
    if refuse_folder(plan, rebuild=rebuild):
        return True
    folder = plan.folder
    if rebuild:
        for child in _content(folder):
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {plan.file_of(shard) for shard in plan.shards()}
    for file in folder.glob("rows-*"):
        if file in wanted or (part and file.suffix != ".npy"):
            continue
        if part:
            raise ConfigError(f"{file}: made with another --batch_size: give the one that the other parts have")
        file.unlink()  # of another batch size, or not whole
    if not part:
        (folder / f"{ARRAY}.tmp").unlink(missing_ok=True)  # not whole
    there = sum(file.stat().st_size for file in wanted if file.is_file())
    need = 2 * int(np.prod(plan.shape)) * np.dtype(plan.dtype).itemsize - there  # the shards, then all of them together
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ConfigError(
            f"{folder}: features of {len(plan.rows):,} samples take {need / 2**30:.1f} GiB while they are put "
            f"together, free are {free / 2**30:.1f} GiB: choose another folder, or --feature_dtype float16"
        )
    scratch = folder / f"{META}.{part}"  # parts that start together do not write into one file
    replace_text(scratch, json.dumps(plan.meta(complete=False), indent=1) + "\n")
    os.replace(scratch, folder / META)
    return False


def refuse_folder(plan: Plan, *, rebuild: bool) -> bool:
    """Whether the folder holds the plan's features already.

    Raises:
        ConfigError: it holds something else, or, unless they are to be made anew, features of something else.
    """
    meta = read_meta(plan.folder)
    others = [child for child in _content(plan.folder) if not child.name.startswith(META)]  # another part begins
    if meta is None and others:
        raise ConfigError(f"{plan.folder}: not a folder of features, and not empty: choose another, or empty it")
    if meta is None or rebuild:
        return False
    refuse_others(plan, meta)
    return bool(meta["complete"])


def _content(folder: Path) -> list[Path]:
    return [child for child in folder.iterdir() if not child.name.startswith(LOCK)] if folder.is_dir() else []


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What a folder says of its features; None if it is not one.

    Raises:
        CheckpointError: what it says cannot be read.
    """
    file = folder / META
    if not file.is_file():
        return None
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        if {"format", "complete", "shape", "dtype", "key"} <= meta.keys():
            return dict(meta)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: not readable ({error}): delete {folder}") from error
    raise CheckpointError(f"{file}: not of features: delete {folder}")


def refuse_others(plan: Plan, meta: Mapping[str, Any]) -> None:
    """Raise ConfigError, which names what differs, for features of anything but the plan's."""
    own = plan.meta(complete=bool(meta["complete"]))
    parts = [part for part in own["key"].keys() | meta["key"].keys() if own["key"].get(part) != meta["key"].get(part)]
    parts = sorted(parts) or [name for name in ("format", "shape", "dtype") if own[name] != meta[name]]
    if parts:
        raise ConfigError(
            f"{plan.folder}: its features are of another {' and '.join(parts)}: choose another folder, or make them "
            "anew with --rebuild_features"
        )


def _encode_shards(
    plan: Plan,
    world: World,
    shards: Sequence[range],
    *,
    batches: Callable[[Sequence[int]], Iterable[Batch]],
    encode: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Write some shards, one after the other."""
    places = [place for shard in shards for place in shard]
    done, waiting, left = 0, list[np.ndarray](), list(shards)
    with torch.inference_mode():
        for number, batch in enumerate(batches(places) if places else (), start=1):
            if batch.failures:
                path, reason, *_ = batch.failures[0]
                raise ConfigError(f"{path}: {reason}; features are of the list's own samples: take it off the list")
            found = encode(batch.to(world.device).clip).float().cpu().numpy()
            with np.errstate(over="ignore"):  # an overflow is told below, with the sample
                waiting.append(found.reshape(-1, *plan.shape[1:]).astype(plan.dtype))
            done += len(waiting[-1])
            if sum(map(len, waiting)) == len(left[0]):
                _write_shard(plan, left.pop(0), np.concatenate(waiting))
                waiting.clear()
            if number % LOG_EVERY == 0 or done == len(places):
                logger.info("features: %d of this rank's %d samples", done, len(places))
    assert not left


def _write_shard(plan: Plan, shard: range, rows: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))
    if len(bad):
        path = plan.rows[shard[int(bad[0])]].path
        remedy = "give --feature_dtype float32" if plan.dtype == "float16" else "the weights are not usable"
        raise NonFiniteError(f"{path}: its features are NaN or Inf: {remedy}")
    file = plan.file_of(shard)
    scratch = file.with_suffix(".tmp")
    with scratch.open("wb") as stream:
        np.save(stream, rows)
    os.replace(scratch, file)


def _join(plan: Plan) -> None:
    """All shards into one array; the index; then the shards are not needed any more."""
    scratch = plan.folder / f"{ARRAY}.tmp"
    whole = np.lib.format.open_memmap(scratch, mode="w+", dtype=plan.dtype, shape=plan.shape)
    for shard in plan.shards():
        whole[shard.start : shard.stop] = np.load(plan.file_of(shard))
    whole.flush()
    del whole
    os.replace(scratch, plan.folder / ARRAY)
    replace_text(plan.folder / INDEX, index_text(plan.rows))
    replace_text(plan.folder / META, json.dumps(plan.meta(complete=True), indent=1) + "\n")
    for shard in plan.shards():
        plan.file_of(shard).unlink()


def index_text(rows: Sequence[Row]) -> str:
    """The index as CSV: `row,path,start,end,label`; times are empty where a sample is a whole file."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("row", "path", "start", "end", "label"))
    for number, row in enumerate(rows):
        writer.writerow((number, row.path, *(row.span or ("", "")), row.label))
    return stream.getvalue()


def _open(plan: Plan) -> np.ndarray:
    file = plan.folder / ARRAY
    try:
        found = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}): give --rebuild_features") from error
    if found.shape != plan.shape:
        raise CheckpointError(f"{file}: {found.shape} features where {plan.shape} are wanted: give --rebuild_features")
    return found
