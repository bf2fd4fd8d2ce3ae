"""A batch of clips, and its collation."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..transforms.presets import normalize_clips
from .workers import MAIN_PROCESS, worker_number


@dataclass
class Batch:
    """Clips with their masks or labels.

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


def collate_in_worker(items: Sequence[dict[str, Any]]) -> Batch:
    """`collate`, and in a worker into shared memory at once.

    Otherwise a thread of the worker's queue would do it, and its error where shared memory is full would be lost.
    """
    batch = collate(items)
    if worker_number() != MAIN_PROCESS:
        for tensor in (batch.clip, batch.index, batch.mask, batch.label):
            if tensor is not None:
                tensor.share_memory_()
    return batch
