"""Views of videos for a loaded model: the clips that it was tested on, of files or of frames in memory.

Letters: G views of a video, T frames of a clip, S its height and width.
"""

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.catalogue import CATALOGUE
from datasets.classification import ViewDataset
from datasets.decoding.reader import VideoReader
from datasets.errors import DecodeError
from datasets.lists.video_list import VideoList
from datasets.loading.workers import worker_number
from datasets.transforms.presets import ViewTransform

from .load import ClipFacts, Loaded

DEFAULT_RATE = 4  # of dense clips, where the file does not say
_VIEWS = {"uniform": (2, 3)}  # clips and crops of a data set that the file does not name; else 5 x 3


@dataclass(frozen=True)
class Views:
    """Clips spread over a video, and crops of each along its longer side."""

    clips: int
    crops: int

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"

    @property
    def number(self) -> int:
        """G."""
        return self.clips * self.crops


def parse_views(text: str) -> Views:
    """`5x3`, as a command line has it."""
    clips, _, crops = text.partition("x")
    if not (clips.isdecimal() and crops.isdecimal() and int(clips) and int(crops)):
        raise argparse.ArgumentTypeError(f"{text}: clips x crops, such as 5x3")
    return Views(int(clips), int(crops))


def tested_views(loaded: Loaded) -> Views:
    """Those of the run that made a file, else those of its data set."""
    spec = CATALOGUE.get(str(loaded.args.get("data_set")))
    default = (spec.test_num_segment, spec.test_num_crop) if spec else _VIEWS.get(loaded.clip.sampling, (5, 3))
    given = (loaded.args.get("test_num_segment"), loaded.args.get("test_num_crop"))
    return Views(*(int(own or other) for own, other in zip(given, default, strict=True)))


def view_dataset(videos: VideoList, clip: ClipFacts, views: Views, *, decoder: str = "auto") -> ViewDataset:
    """All views of the videos of a list; items as of ViewDataset."""
    return ViewDataset(
        videos,
        transform=ViewTransform(clip.input_size, clip.short_side_size, views.crops),
        sampler=clip.sampling,
        num_frames=clip.num_frames,
        sampling_rate=None if clip.fps else clip.sampling_rate or DEFAULT_RATE,
        fps=clip.fps,
        num_clips=views.clips,
        decoder=decoder,
    )


def with_sampling_rate(loaded: Loaded, rate: int | None) -> Loaded:
    """A model that takes every `rate`-th frame of a video; None: as it is."""
    return loaded if rate is None else replace(loaded, clip=replace(loaded.clip, sampling_rate=rate, fps=None))


def doubts(loaded: Loaded) -> str:
    """What is assumed of clips, where the file does not say it; "" where it does."""
    clip, found = loaded.clip, []
    if loaded.assumed_clip:
        found.append(
            f"the file does not say how long and large clips are: {clip.num_frames} frames of {clip.input_size} pixels "
            "are taken; num_frames and input_size say otherwise"
        )
    if not (clip.sampling == "uniform" or clip.fps or clip.sampling_rate):
        found.append(
            f"the file does not say how far apart the frames of a clip are: every {DEFAULT_RATE}th is taken; "
            "sampling_rate says otherwise"
        )
    return "; ".join(found)


class Tolerant(Dataset):
    """A ViewDataset whose videos may be unreadable: the item then says why, and its clips are black.

    Nothing is taken of these clips; they keep the batch in shape.
    """

    def __init__(self, dataset: ViewDataset, clip: ClipFacts, views: Views) -> None:
        self.dataset, self.num_clips = dataset, dataset.num_clips
        self.shape = (views.number, clip.num_frames, clip.input_size, clip.input_size, 3)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[index]
        except DecodeError as error:
            black = torch.zeros(self.shape, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
            failure = (index, error.reason, worker_number())
            return {"clip": black, "label": -1, "index": index, "views": len(black), "failures": [failure]}


class FramesInMemory(VideoReader):
    """Frames as a video.

    Args:
        frames: uint8 (T, H, W, 3), RGB.

    Raises:
        ValueError: anything else.
    """

    decoder = "memory"

    def __init__(self, frames: np.ndarray) -> None:
        super().__init__("frames in memory")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise ValueError(
                f"frames in memory are uint8 of (frames, height, width, 3), RGB, not {frames.dtype} of {frames.shape}"
            )
        self.frames, self.num_frames = frames, len(frames)

    def _read(self, indices: list[int]) -> np.ndarray:
        return self.frames[indices]

    def close(self) -> None:
        """There is no file."""


def views_of_frames(frames: np.ndarray, clip: ClipFacts, views: Views) -> torch.Tensor:
    """Frames in memory, uint8 (T, H, W, 3) -> uint8 (G, T, 3, S, S)."""
    if clip.fps:
        raise ValueError(f"the model takes {clip.fps:g} frames a second, and these have no times: give a path")
    reader = FramesInMemory(frames)
    dataset = view_dataset(_NO_VIDEOS, clip, views)
    return dataset.views_of(reader, range(reader.num_frames))


_NO_VIDEOS: Any = ()
