"""A batch of clips, and its collation."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..transforms.normalization import normalize_clips
from .shared import Segments, new_segment, release
from .workers import MAIN_PROCESS, worker_number


@dataclass
class Batch:
    """Clips with their masks or labels.

    Attributes:
        clip: uint8 (B, T, 3, H, W); after `to`, normalised float32 (B, 3, T, H, W). B counts clips: repeats and views
            of a video follow one another.
        index: (B,) int64, positions in the list; in evaluation (B / views,), one for each video.
        mask: bool (B, N), True = masked, or (G * B, N): G masks of each clip in a row; None outside pre-training.
        label: as many as `index`: int64 (B,) classes, int64 (B, K) of 0 and 1, or float64 (B,); None in pre-training.
        views: clips in a row that belong to one video: repeats in training, views in evaluation.
        failures: of training: the videos that could not be decoded and were replaced; see `samples.Failure`.
        reused: whether the clip's memory goes back to its worker with `pin_memory`.
    """

    clip: torch.Tensor
    index: torch.Tensor
    mask: torch.Tensor | None = None
    label: torch.Tensor | None = None
    views: int = 1
    failures: list[tuple[Any, ...]] = field(default_factory=list)
    reused: bool = False

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to `device` as uint8, without waiting for it, and normalise there.

        The mask stays in host memory: the model reads from it how many tokens are visible.
        """
        moved = self.copy_to(device)
        return moved.normalize() if moved.clip.dtype == torch.uint8 else moved

    def copy_to(self, device: torch.device | str) -> "Batch":
        """Copy to `device` as it is, all but the mask; nothing that is there already."""
        return dataclasses.replace(
            self,
            clip=self.clip.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
            label=None if self.label is None else self.label.to(device, non_blocking=True),
        )

    def normalize(self, *, out: torch.Tensor | None = None) -> "Batch":
        """The same batch with uint8 clips made float32; `out` is memory for them, see `normalize_clips`."""
        return dataclasses.replace(self, clip=normalize_clips(self.clip, out=out))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; called by the DataLoader, which drops this one then."""
        pinned = dataclasses.replace(
            self,
            clip=self.clip.pin_memory(),
            index=self.index.pin_memory(),
            mask=None if self.mask is None else self.mask.pin_memory(),  # a motion guide copies it
            label=None if self.label is None else self.label.pin_memory(),
            reused=False,
        )
        if self.reused:
            release(self.clip)
        return pinned


def collate(items: Sequence[dict[str, Any]], *, new_memory: Callable[[int], torch.Tensor] | None = None) -> Batch:
    """Samples of a data set -> Batch; items with several clips are laid out one after another, video by video.

    In training (no "views" in the items) label and index are repeated for every clip; in evaluation they stay one for
    each video. Masks come one for each clip.

    Args:
        new_memory: number of bytes -> uint8 memory for the clips; default: private.
    """
    first = items[0]
    clip = _join([item["clip"] for item in items], new_memory)
    views = len(clip) // len(items)
    repeats = 1 if "views" in first else views
    join = torch.stack if first["clip"].ndim == 4 else torch.cat
    return Batch(
        clip=clip,
        index=torch.tensor([item["index"] for item in items]).repeat_interleave(repeats),
        mask=join([item["mask"] for item in items]).flatten(0, -2) if "mask" in first else None,
        label=_labels([item["label"] for item in items], repeats) if "label" in first else None,
        views=views,
        failures=[failure for item in items for failure in item["failures"]],
    )


def _labels(labels: Sequence[Any], repeats: int) -> torch.Tensor:
    dtype = torch.float64 if isinstance(labels[0], float) else torch.int64
    return torch.tensor(labels, dtype=dtype).repeat_interleave(repeats, dim=0)


def _join(clips: Sequence[torch.Tensor], new_memory: Callable[[int], torch.Tensor] | None) -> torch.Tensor:
    """(T, 3, H, W) or (R, T, 3, H, W) each -> (B, T, 3, H, W), frames laid out in memory as the first's.

    So each is copied as it lies: changing to planes here would take three times as long.
    """
    first = clips[0]
    several = [clip if clip.ndim == 5 else clip[None] for clip in clips]
    shape = (sum(map(len, several)), *first.shape[-4:])
    channels_last = first.stride(-3) == 1
    stored = tuple(shape[axis] for axis in (0, 1, 3, 4, 2)) if channels_last else shape
    if new_memory is None:
        joined = torch.empty(stored, dtype=first.dtype)
    else:
        joined = new_memory(math.prod(shape) * first.element_size()).view(first.dtype).view(stored)
    joined = joined.permute(0, 1, 4, 2, 3) if channels_last else joined
    torch.cat(several, out=joined)
    return joined


class WorkerCollate:
    """`collate`, and in a worker straight into shared memory.

    Otherwise a thread of the worker's queue would copy the batch there, and its error where shared memory is full would
    be lost.

    Args:
        reuse: the batches are pinned before anything else is done with them, so that their memory can be used again.
    """

    def __init__(self, *, reuse: bool) -> None:
        self.segments = Segments() if reuse else None

    def __call__(self, items: Sequence[dict[str, Any]]) -> Batch:
        if worker_number() == MAIN_PROCESS:
            return collate(items)
        batch = collate(items, new_memory=self.segments.take if self.segments else new_segment)
        for tensor in (batch.index, batch.mask, batch.label):
            if tensor is not None:
                tensor.share_memory_()
        return dataclasses.replace(batch, reused=self.segments is not None)
