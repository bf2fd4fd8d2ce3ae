"""Batches: collation, samplers that can be resumed, loaders.

Training samples are asked for by (epoch, index) and depend on nothing else, so a batch is the same whatever the number
of workers, and a global batch the same whatever the number of ranks it is split over.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import AnnotationError
from ..transforms.presets import normalize_clips
from .permutation import KeyedPermutation
from .workers import (
    DECODE_TIMEOUT,
    MAIN_PROCESS,
    SeededByEpoch,
    init_worker,
    requests_held_back,
    set_timeout,
    watch_folder,
    worker_number,
)

_ORDER_STREAM = 1  # last word of the order's key; samples have (seed, epoch, index, repeat)
_STEPS_AT_ONCE = 64  # whose order is computed in one go
_TIMEOUTS_PER_BATCH = 10  # of a clip: after so long without a batch the loader gives up
_LEAST_TIMEOUT = 5.0  # seconds; workers have to start before they can give a batch


@dataclass
class Batch:
    """Clips with what belongs to them.

    Attributes:
        clip: uint8 (B, T, 3, H, W); after `to`, normalised float32 (B, 3, T, H, W). B counts clips: repeats and views
            of a video follow one another.
        index: (B,) int64, positions in the list; in evaluation (B / views,), one for each video.
        mask: bool (B, N), True = masked, or (G * B, N): G masks of each clip in a row; None outside pre-training.
        label: int64, as many as `index`; None in pre-training.
        views: clips in a row that belong to one video: repeats in training, views in evaluation.
        failures: (path, reason, worker) of the videos that could not be decoded and were replaced.
    """

    clip: torch.Tensor
    index: torch.Tensor
    mask: torch.Tensor | None = None
    label: torch.Tensor | None = None
    views: int = 1
    failures: list[tuple[str, str, int]] = field(default_factory=list)

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to `device` as uint8, without waiting for it, and normalise there.

        The mask stays in host memory: the model reads from it how many tokens are visible.
        """
        moved = dataclasses.replace(
            self,
            clip=self.clip.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
            label=None if self.label is None else self.label.to(device, non_blocking=True),
        )
        if moved.clip.dtype == torch.uint8:
            moved.clip = normalize_clips(moved.clip)
        return moved

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; called by the DataLoader."""
        return dataclasses.replace(
            self,
            clip=self.clip.pin_memory(),
            index=self.index.pin_memory(),
            mask=None if self.mask is None else self.mask.pin_memory(),  # a motion guide copies it
            label=None if self.label is None else self.label.pin_memory(),
        )


def collate(items: Sequence[dict[str, Any]]) -> Batch:
    """Samples of a data set -> Batch; items with several clips are laid out one after another, video by video.

    In training (no "views" in the items) label and index are repeated for every clip; in evaluation they stay one for
    each video. Masks come one for each clip.
    """
    first = items[0]
    join = torch.stack if first["clip"].ndim == 4 else torch.cat
    clip = join([item["clip"] for item in items])
    views = len(clip) // len(items)
    repeats = 1 if "views" in first else views
    return Batch(
        clip=clip,
        index=torch.tensor([item["index"] for item in items]).repeat_interleave(repeats),
        mask=join([item["mask"] for item in items]).flatten(0, -2) if "mask" in first else None,
        label=torch.tensor([item["label"] for item in items]).repeat_interleave(repeats) if "label" in first else None,
        views=views,
        failures=[failure for item in items for failure in item["failures"]],
    )


class TrainSampler(Sampler[tuple[int, int]]):
    """The share of one rank in a seeded order of the videos, as (epoch, index).

    Step g of an epoch uses videos g*B .. (g+1)*B of the epoch's order, B = batch_size * world_size, and rank r the r-th
    part of them: the global batch depends on B only. Videos that do not fill a last global batch are left out of that
    epoch. The order is computed as it is needed: neither time nor memory grow with the list.

    Args:
        num_samples: videos in the list.
        batch_size: of one rank.
        rank, world_size: of this process.
        seed: of the run; at least 0.

    Raises:
        AnnotationError: fewer videos than one global batch.
    """

    def __init__(self, num_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        self.global_batch = batch_size * world_size
        if num_samples < self.global_batch:
            raise AnnotationError(
                f"the list has {num_samples} videos, fewer than the {self.global_batch} of one batch over all ranks "
                f"(--batch_size {batch_size} x {world_size} ranks): lower --batch_size"
            )
        self.num_samples, self.batch_size, self.rank, self.seed = num_samples, batch_size, rank, seed
        self.num_steps = num_samples // self.global_batch
        self.epoch = 0
        self.start_step = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields: from its start, unless it is the one just resumed."""
        if epoch != self.epoch:
            self.epoch, self.start_step = epoch, 0

    def state_dict(self, finished_steps: int = 0) -> dict[str, int]:
        """What resumes this order.

        Args:
            finished_steps: batches of the current epoch that were trained on. The caller knows: workers fetch ahead.
        """
        return {
            "epoch": self.epoch,
            "position": finished_steps * self.global_batch,
            "num_samples": self.num_samples,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the videos that a `state_dict` has done with, on any number of ranks.

        Raises:
            ValueError: another list length or seed, so that the order would differ; or a place in the epoch at which no
                global batch of this size begins.
        """
        for name, flag in (("num_samples", "the list"), ("seed", "--seed")):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"cannot go on in the order of the samples: {name} was {state[name]} and is now "
                    f"{getattr(self, name)}; keep {flag}"
                )
        position = state["position"]
        if position % self.global_batch or not 0 <= position <= self.num_steps * self.global_batch:
            raise ValueError(
                f"cannot go on after {position} videos of the epoch: global_batch is now {self.global_batch}; keep "
                "--batch_size x ranks"
            )
        self.epoch, self.start_step = state["epoch"], position // self.global_batch

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, also when this one starts in the middle."""
        return self.num_steps * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = KeyedPermutation(self.num_samples, [self.seed, epoch, 0, 0, _ORDER_STREAM])
        own = self.rank * self.batch_size + np.arange(self.batch_size)
        for first in range(self.start_step, self.num_steps, _STEPS_AT_ONCE):
            steps = np.arange(first, min(first + _STEPS_AT_ONCE, self.num_steps))
            for index in order((steps[:, None] * self.global_batch + own).ravel()).tolist():
                yield epoch, index


class EvalSampler(Sampler[int]):
    """Every `world_size`-th index from `rank` on: over all ranks each index once, none added to even out the shares."""

    def __init__(self, num_samples: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_samples, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def collate_in_worker(items: Sequence[dict[str, Any]]) -> Batch:
    """`collate`, and in a worker into shared memory at once.

    Otherwise a thread of the worker's queue would do it, whose error, where there is no room left, nobody hears of.
    """
    batch = collate(items)
    if worker_number() != MAIN_PROCESS:
        for tensor in (batch.clip, batch.index, batch.mask, batch.label):
            if tensor is not None:
                tensor.share_memory_()
    return batch


def _build_loader(
    dataset: Dataset,
    sampler: Sampler,
    *,
    batch_size: int,
    drop_last: bool,
    num_workers: int,
    pin_memory: bool,
    seed: int,
    rank: int,
    decode_timeout: float,
    clips: int = 1,
) -> DataLoader:
    set_timeout(decode_timeout)  # where this process reads the videos itself
    patience = max(_TIMEOUTS_PER_BATCH * clips * decode_timeout, _LEAST_TIMEOUT) if decode_timeout else 0
    return _DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate_in_worker,
        worker_init_fn=functools.partial(
            init_worker,
            seed=seed,
            rank=rank,
            timeout=decode_timeout,
            folder=watch_folder() if num_workers else None,
        ),
        persistent_workers=num_workers > 0,
        prefetch_factor=2 if num_workers > 0 else None,
        timeout=patience if num_workers else 0,
        # without one of its own, every start of an iteration would draw from torch's global generator, and a run
        # that is resumed in mid-epoch would see other random numbers than one that is not interrupted
        generator=torch.Generator().manual_seed(seed),
    )


def build_train_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    decode_timeout: float = DECODE_TIMEOUT,
) -> DataLoader:
    """The training loader of one rank; `loader.sampler` is its TrainSampler.

    Args:
        batch_size: videos of one rank.
        decode_timeout: seconds after which a worker that reads one clip counts as stuck; 0: never.
    """
    sampler = TrainSampler(
        len(dataset),  # type: ignore[arg-type]
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=seed,
    )
    return _build_loader(
        SeededByEpoch(dataset, seed=seed, rank=rank),
        sampler,
        batch_size=batch_size,
        drop_last=True,
        num_workers=num_workers,
        pin_memory=pin_memory,
        seed=seed,
        rank=rank,
        decode_timeout=decode_timeout,
    )


def build_eval_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    decode_timeout: float = DECODE_TIMEOUT,
) -> DataLoader:
    """The evaluation loader of one rank; `batch_size` counts videos, each of which brings all its views."""
    sampler = EvalSampler(
        len(dataset),  # type: ignore[arg-type]
        rank=rank,
        world_size=world_size,
    )
    return _build_loader(
        dataset,
        sampler,
        batch_size=batch_size,
        drop_last=False,
        num_workers=num_workers,
        pin_memory=pin_memory,
        seed=0,
        rank=rank,
        decode_timeout=decode_timeout,
        clips=getattr(dataset, "num_clips", 1),
    )


class _DataLoader(DataLoader):
    """Starts its workers so that signals to all processes of a run do not end them."""

    def __iter__(self) -> Any:
        with requests_held_back():
            return super().__iter__()


class DevicePrefetcher:
    """A loader's batches on the device, one ahead: copied and normalised while the caller computes with the one before.

    On a GPU the copies run on a stream of their own; elsewhere a batch is only moved.
    """

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self.loader, self.device, self.sampler = loader, device, loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        if self.device.type != "cuda":
            yield from (batch.to(self.device) for batch in self.loader)
            return
        stream = torch.cuda.Stream(self.device)
        ahead = None
        for batch in self.loader:
            ready, ahead = ahead, self._copy(batch, stream)
            if ready is not None:
                yield self._hand_over(*ready)
        if ahead is not None:
            yield self._hand_over(*ahead)

    def _copy(self, batch: Batch, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return batch.to(self.device), stream.record_event()

    def _hand_over(self, batch: Batch, copied: torch.cuda.Event) -> Batch:
        """Let the caller's stream wait for the copy, and the allocator know that this stream uses the memory too."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for tensor in (batch.clip, batch.index, batch.label):
            if tensor is not None:
                tensor.record_stream(current)
        return batch
