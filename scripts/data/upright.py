"""What a video becomes when it is re-encoded: upright frames of the new size, at the times a player shows them."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from datasets.decoding.colours import without_odd_matrix
from datasets.decoding.orientation import UPRIGHT, Orientation, orientation_of
from datasets.decoding.pyav import PyAVReader
from datasets.errors import DecodeError


@dataclass(frozen=True)
class Source:
    """What is known of a video before it is decoded.

    Attributes:
        path: of the file.
        ticks: when each frame is shown, from 0 on, in units of `time_base`: int64 (F,).
        time_base: seconds.
        rate: frames per second, as the header has it.
        pixel_shape: width by height of a pixel as it is stored; None if the file does not say.
    """

    path: str
    ticks: np.ndarray
    time_base: Fraction
    rate: Fraction
    pixel_shape: Fraction | None

    @property
    def seconds(self) -> np.ndarray:
        """When each frame is shown: float64 (F,)."""
        return self.ticks * float(self.time_base)


def examine(path: str) -> Source:
    """Count the frames of a video and read its clock.

    Raises:
        DecodeError: it cannot be opened or decoded, or has no frames.
    """
    with PyAVReader(path) as video:
        ticks, time_base, rate = video.clock.of_copy()
        return Source(path, ticks, time_base, rate, video.pixel_shape)


def target_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of the new video: even, as the pixel format needs, and never larger than the old, but for 1."""
    scale = min(1.0, short_side / min(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


class Uprighter:
    """Frames -> frames of one size in yuv420p, turned and mirrored as players do; their times start at 0 and rise."""

    def __init__(self, first: av.VideoFrame, source: Source, short_side: int) -> None:
        self.orientation = orientation_of(first)
        transposed = self.orientation.transposed
        height, width = (first.width, first.height) if transposed else (first.height, first.width)
        self.height, self.width = target_size(height, width, short_side)
        self.coded = (self.width, self.height) if transposed else (self.height, self.width)
        self.source = source
        shape = source.pixel_shape
        self.pixel_shape = 1 / shape if shape and transposed else shape
        self.count = 0
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        height, width = self.coded
        made = self.reformatter.reformat(
            without_odd_matrix(frame, self.source.path),
            width=width,
            height=height,
            format="yuv420p",
            dst_color_range=ColorRange.MPEG,  # not all decoders see that a file has the full range
            interpolation="BICUBIC",
            threads=1,
        )
        if self.orientation != UPRIGHT:
            made = av.VideoFrame.from_ndarray(_turn(made.to_ndarray(), height, width, self.orientation), "yuv420p")
        if self.count == len(self.source.ticks):
            raise DecodeError(self.source.path, f"more frames can be decoded than the {self.count} that were counted")
        made.pts, made.time_base = int(self.source.ticks[self.count]), self.source.time_base
        made.pict_type = 0  # else the encoder takes over the key frames of the source
        self.count += 1
        return made


def _turn(planes: np.ndarray, height: int, width: int, orientation: Orientation) -> np.ndarray:
    """The three planes of a yuv420p picture, (height * 3 / 2, width), each turned and mirrored."""
    size, quarter = height * width, height * width // 4
    flat = planes.reshape(-1)
    luma = orientation.apply(flat[:size].reshape(height, width))
    chroma = [
        orientation.apply(flat[begin : begin + quarter].reshape(height // 2, width // 2))
        for begin in (size, size + quarter)
    ]
    turned_width = luma.shape[1]
    return np.concatenate([luma.reshape(-1), *(plane.reshape(-1) for plane in chroma)]).reshape(-1, turned_width)
