"""Frames of videos for counting: segments of training videos with their targets, whole spans of tested ones.

Letters: F frames of all segments of a batch, B segments, S side of a square frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from datasets.decoding.open import open_video
from datasets.loading.workers import reading
from datasets.samples import read_or_replace, sample_rng
from datasets.transforms.normalization import normalize_clips

from .annotations import Repetitions
from .cycles import State, cycles_within, draw_segment, neighbour_offsets

_FIXED_STREAM = 3  # last word of the seeds of segments that are drawn once; samples have (seed, epoch, index, repeat)


def letterbox(frames: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (T, 3, H, W) -> (T, 3, size, size): the longer side resized to `size`, black above and below or beside."""
    height, width = frames.shape[-2:]
    longer = max(height, width)
    new = [max(size * height // longer, 1), max(size * width // longer, 1)]
    resized = F.resize(frames, new, antialias=True)
    top, left = (size - new[0]) // 2, (size - new[1]) // 2
    return F.pad(resized, [left, top, size - new[1] - left, size - new[0] - top])


@dataclass
class SegmentBatch:
    """Segments of several videos, and the hypotheses about them.

    Attributes:
        frames: uint8 (F, 3, S, S), one segment after another, in host memory.
        following, previous: int64 (F,), see `neighbour_offsets`.
        lengths: frames of each segment.
        counts: cycles in each.
        keys: (epoch, place, ...) of each sample, which decide what is drawn.
        index: int64 (B,), places of the videos in the list.
        failures: videos that could not be decoded and were replaced; see `datasets.samples.Failure`.
        states: of each segment; [] before the first step.
        rngs: the random stream of each, from then on.
        device: where clips go.
    """

    frames: torch.Tensor
    following: torch.Tensor
    previous: torch.Tensor
    lengths: list[int]
    counts: list[float]
    keys: list[tuple[int, ...]]
    index: torch.Tensor
    failures: list[tuple[Any, ...]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    rngs: list[np.random.Generator] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to(self, device: torch.device | str) -> "SegmentBatch":
        """The same object: clips are made of its frames, and go to the device, when a step asks for them."""
        self.device = torch.device(device)
        return self

    @property
    def starts(self) -> list[int]:
        """The first frame of each segment among all frames."""
        return [0, *np.cumsum(self.lengths)[:-1].tolist()]


def collate_segments(items: Sequence[dict[str, Any]]) -> SegmentBatch:
    """Samples of SegmentDataset -> SegmentBatch, in shared memory so that an error there is the worker's own."""
    frames = torch.cat([item["frames"] for item in items])
    return SegmentBatch(
        frames=frames.share_memory_() if torch.utils.data.get_worker_info() else frames,
        following=torch.cat([torch.from_numpy(item["following"]) for item in items]),
        previous=torch.cat([torch.from_numpy(item["previous"]) for item in items]),
        lengths=[len(item["frames"]) for item in items],
        counts=[item["count"] for item in items],
        keys=[item["key"] for item in items],
        index=torch.tensor([item["index"] for item in items]),
        failures=[failure for item in items for failure in item["failures"]],
    )


def gather_clips(frames: torch.Tensor, places: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Normalised clips of frames: float32 (B, 3, T, S, S) on the device.

    Args:
        frames: uint8 (F, 3, S, S).
        places: int64 (B, T), numbers of frames; -1 for one outside of the segment, which is 0 in every channel, the
            colour that normalisation takes to 0.
    """
    padded = (places < 0).to(device)
    clips = normalize_clips(frames[places.clamp(min=0).to(frames.device)].to(device, non_blocking=True))
    return clips.masked_fill_(padded[:, None, :, None, None], 0.0)


class SegmentDataset(Dataset):
    """Segments of training videos, asked for by (epoch, place): place n is of video n modulo the number of videos.

    Args:
        segments_per_video: segments of each video in an epoch.
        max_frames: of a segment.
        redrawn: a segment is drawn anew in every epoch; otherwise it has the same frames in all of them.
        size: height and width of a frame.
        flip: whether half of them are mirrored.
        seed: of the run; at least 0.
        decoder: back end, see `open_video`.
    """

    def __init__(
        self,
        repetitions: Repetitions,
        *,
        segments_per_video: int,
        max_frames: int,
        redrawn: bool,
        size: int,
        flip: bool,
        seed: int,
        decoder: str = "auto",
    ) -> None:
        self.repetitions, self.segments_per_video, self.max_frames = repetitions, segments_per_video, max_frames
        self.redrawn, self.size, self.flip, self.seed, self.decoder = redrawn, size, flip, seed, decoder
        self._places = {path: place for place, path in enumerate(repetitions.videos.paths)}

    def __len__(self) -> int:
        return len(self.repetitions.videos) * self.segments_per_video

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        """The sample of (epoch, place): `frames` uint8 (T, 3, S, S), `following` and `previous` int64 (T,), `count`,
        `key`, `index` of the video shown and `failures`."""
        epoch, place, *_ = key
        rng = sample_rng(self.seed, epoch, place)
        drawing = rng if self.redrawn else np.random.default_rng([self.seed, place, 0, 0, _FIXED_STREAM])
        videos = self.repetitions.videos
        item, index, failures = read_or_replace(
            videos, place % len(videos), rng=rng, read=lambda path, span: self._read(path, drawing, rng)
        )
        return {**item, "key": tuple(key), "index": index, "failures": failures}

    def _read(self, path: str, drawing: np.random.Generator, rng: np.random.Generator) -> dict[str, Any]:
        bounds = self.repetitions.bounds[self._places[path]]
        first, last = draw_segment(bounds, drawing, most=self.max_frames)
        with open_video(path, decoder=self.decoder) as video:
            frames = letterbox(video.get_frames(np.arange(first, last + 1)), self.size)
        if self.flip and rng.random() < 0.5:
            frames = frames.flip(-1)
        following, previous = neighbour_offsets(bounds)
        own = slice(first - bounds[0], last + 1 - bounds[0])
        return {
            "frames": frames,
            "following": following[own],
            "previous": previous[own],
            "count": cycles_within(bounds, first, last),
        }


class SpanDataset(Dataset):
    """The repetitions of a video from the first to the last boundary, asked for by index, for a loader of one a batch.

    Args: see SegmentDataset.
    """

    def __init__(self, repetitions: Repetitions, *, size: int, decoder: str = "auto") -> None:
        self.repetitions, self.size, self.decoder = repetitions, size, decoder

    def __len__(self) -> int:
        return len(self.repetitions.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`clip` uint8 (1, T, 3, S, S), `label` its count, `index`, `views` 1 and `failures`.

        Raises:
            DecodeError: the video cannot be decoded; nothing takes its place.
        """
        path, bounds = self.repetitions.videos.paths[index], self.repetitions.bounds[index]
        with reading(path), open_video(path, decoder=self.decoder) as video:
            frames = letterbox(video.get_frames(np.arange(bounds[0], bounds[-1] + 1)), self.size)
        return {"clip": frames[None], "label": len(bounds) - 1, "index": index, "views": 1, "failures": []}
