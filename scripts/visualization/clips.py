"""The clips of a video that pictures are made of.

Letters: C clips, T H W frames and pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from datasets.decoding.media_names import is_image, is_video
from datasets.decoding.open import open_video
from datasets.decoding.pyav import PyAVReader
from datasets.decoding.reader import VideoReader
from datasets.lists.read import read_list
from datasets.lists.spans import frames_within
from datasets.lists.video_list import Span
from datasets.sampling import pretrain_indices
from datasets.transforms.presets import ValTransform
from engine.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """Which frames make the clips, as in the training of the weights.

    Attributes:
        stride: every `stride`-th frame of the video is in a clip; None: as many apart as spread one over the video.
        fps: frames a second in a clip, in place of the stride.
        num_clips: that follow one another around the middle of the video; 0: the whole video.
    """

    num_frames: int
    size: int
    stride: int | None
    fps: float | None
    num_clips: int


@dataclass(frozen=True)
class Clips:
    """Clips of one video that follow one another.

    Attributes:
        name: of the file.
        frames: (C, T, 3, H, W) uint8, as the model sees them.
        seconds: (C, T) when each is shown; None where nothing tells.
        numbers: (C, T) of the frames in the video.
        stride: every `stride`-th frame of the video is in a clip.
        rate: frames a second in the clips; 25 in the video where nothing tells.
    """

    path: str
    name: str
    frames: torch.Tensor
    seconds: np.ndarray | None
    numbers: np.ndarray
    stride: int
    rate: float

    def when(self, clip: int, frame: int) -> str:
        """When a frame is shown, in words."""
        if self.seconds is None:
            return f"frame {self.numbers[clip, frame]}"
        return f"{self.seconds[clip, frame]:.2f} s"

    def captions(self) -> list[str]:
        """`when` for every frame of all clips."""
        return [self.when(*place) for place in np.ndindex(self.numbers.shape)]

    def describe(self) -> str:
        """Which part of which video this is."""
        clips, frames = self.numbers.shape
        number = "1 clip" if clips == 1 else f"{clips} clips in a row"
        ends = f"{self.when(0, 0)} to {self.when(-1, -1)}"
        ending = "th" if self.stride % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(self.stride % 10, "th")
        step = "frame" if self.stride == 1 else f"{self.stride}{ending} frame"
        return f"{self.name}, {ends}: {number} of {frames} frames, every {step} of the video"

    def pictures(self) -> np.ndarray:
        """(C T, H, W, 3) uint8."""
        return self.frames.flatten(0, 1).permute(0, 2, 3, 1).contiguous().numpy()


def find_videos(source: str, *, root: str = "", list_format: str = "auto") -> list[tuple[str, Span | None]]:
    """Paths, and spans where a list has them: of a video, of all in a folder, or of those in a list.

    Raises:
        AnnotationError: a list that cannot be read, a folder without videos.
    """
    path = Path(source)
    if is_video(source) or is_image(source) or _is_folder_of_frames(path):
        return [(source, None)]
    videos = read_list(source, root=root, list_format="videos" if path.is_dir() else list_format)
    return list(videos.samples())


def _is_folder_of_frames(path: Path) -> bool:
    """Whether a folder is one video: its pictures, and nothing else."""
    return path.is_dir() and all(is_image(entry) for entry in path.iterdir()) and any(path.iterdir())


def spread(videos: Sequence[T], number: int) -> list[T]:
    """`number` of them, evenly spread over the list; all if there are not more."""
    count = min(number, len(videos))
    return [videos[place * len(videos) // count] for place in range(count)]


def read_clips(path: str, span: Span | None, sampling: Sampling) -> Clips:
    """The clips of a video: whole frames, scaled to the short side, their centre.

    Raises:
        DecodeError: it cannot be decoded.
    """
    with open_video(path) as video:
        within = frames_within(video, path, span)
        stride = _stride(sampling, video, len(within))
        numbers = within.start + clip_numbers(len(within), sampling.num_frames, stride, sampling.num_clips)
        frames = video.get_frames(numbers.ravel())
        seconds, rate = seconds_of(video), (video.fps or 25) / stride
    frames = ValTransform(sampling.size, sampling.size)(frames).unflatten(0, numbers.shape)
    times = None if seconds is None else seconds[numbers]
    return Clips(path, Path(path).name, frames, times, numbers, stride, rate)


def clip_numbers(num_frames: int, length: int, stride: int, num_clips: int) -> np.ndarray:
    """(C, T) frame numbers of clips that follow one another around the middle of a video; a short video has one.

    Args:
        num_clips: 0: as many as fit.
    """
    window = length * stride
    fitting = max(num_frames // window, 1)
    count = min(num_clips or fitting, fitting)
    first = max(num_frames - count * window, 0) // 2
    return np.stack([pretrain_indices(num_frames, length, stride, first + clip * window) for clip in range(count)])


def _stride(sampling: Sampling, video: VideoReader, num_frames: int) -> int:
    if sampling.fps is None:
        return sampling.stride or max(num_frames // sampling.num_frames, 1)
    if video.fps is None:
        raise ConfigError(f"{video.path}: it does not say how many frames it has a second: give --sampling_rate")
    return max(round(video.fps / sampling.fps), 1)


def seconds_of(video: VideoReader) -> np.ndarray | None:
    """When each frame is shown; None of pictures."""
    if isinstance(video, PyAVReader) and (times := video.clock.seconds()) is not None:
        return times
    return None if video.fps is None else np.arange(video.num_frames) / video.fps
