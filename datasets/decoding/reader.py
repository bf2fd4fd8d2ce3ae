"""What every reader of frames is: the interface, and the one error."""

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import av
import numpy as np
import torch

from ..errors import DecodeError

Reader = TypeVar("Reader", bound="VideoReader")

_DECORD_PREFIX = re.compile(r"^(\[[\d:]+\] \S+: )+")


class VideoReader(ABC):
    """An open video; a context manager that closes it.

    Attributes:
        num_frames: how many frames are shown; at least one.
        fps: frames per second, on average; None where the file does not say.
        decoder: name of the back end that reads it.
        why_in_order: why frames are reached by decoding from the start of the file; "" where a key frame will do. It is
            known when the file is opened, or, where a container calls the wrong frames key frames, from the first seek.
    """

    num_frames: int
    fps: float | None = None
    decoder: str
    why_in_order: str = ""

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def path(self) -> str:
        """Of the file or folder."""
        return self._path

    def get_frames(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Frames in the order asked for, repeats allowed: uint8 (T, 3, H, W), RGB, channels last in memory.

        Raises:
            DecodeError: an index outside 0..num_frames - 1, a frame that cannot be decoded, frames of several sizes.
        """
        distinct, places = self._distinct(indices)
        frames = self._read(distinct.tolist())
        if len(frames) != len(distinct):
            raise DecodeError(self._path, f"{len(frames)} frames came back for {len(distinct)} asked for")
        if not np.array_equal(places, np.arange(len(distinct))):
            frames = frames[places]
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def map_frames(
        self, indices: Sequence[int] | np.ndarray, take: Callable[[torch.Tensor, int], None], *, max_bytes: int
    ) -> None:
        """Hand frames to `take` in parts of at most `max_bytes` (one frame, if that is larger), none kept afterwards.

        Args:
            indices: distinct frame numbers, rising.
            take: given uint8 (U, 3, H, W) and the place in `indices` of the first of them; the parts follow one
                another, but begin again with place 0 where a decoder had to begin again.

        Raises:
            DecodeError: as of `get_frames`.
        """
        start, count = 0, 1  # the first frame tells how many make a part
        while start < len(indices):
            frames = self.get_frames(indices[start : start + count])
            take(frames, start)
            start, count = start + count, max(max_bytes // frames[0].numel(), 1)
            del frames  # before the next ones are made

    def _distinct(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distinct frame numbers asked for, rising, and the place of each one asked for among them."""
        wanted = np.asarray(indices, dtype=np.int64)
        distinct, places = np.unique(wanted, return_inverse=True)
        if not wanted.size or distinct[0] < 0 or distinct[-1] >= self.num_frames:
            raise DecodeError(self._path, f"asked for frames {wanted.tolist()} of a video of {self.num_frames}")
        return distinct, places

    @abstractmethod
    def _read(self, indices: list[int]) -> np.ndarray:
        """Distinct, rising frame numbers -> uint8 (len(indices), H, W, 3)."""

    @abstractmethod
    def close(self) -> None:
        """Free the file and the decoder."""

    def __enter__(self: Reader) -> Reader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@contextlib.contextmanager
def as_decode_error(path: str, errors: tuple[type[Exception], ...] = (av.FFmpegError, OSError)) -> Iterator[None]:
    """Turns what a decoding library raises into `DecodeError`; bugs of our own pass through."""
    try:
        yield
    except DecodeError:
        raise
    except errors as error:
        text = getattr(error, "strerror", None) or str(error).partition("\n")[0]  # decord adds a C++ stack trace,
        raise DecodeError(path, _DECORD_PREFIX.sub("", text) or type(error).__name__) from error  # time and folder


def stack(path: str, images: Sequence[np.ndarray]) -> np.ndarray:
    """Images (H, W, 3) of one video -> (T, H, W, 3).

    Raises:
        DecodeError: they differ in size.
    """
    sizes = dict.fromkeys(image.shape[:2] for image in images)
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = list(sizes)[:2]
        raise DecodeError(path, f"the picture changes its size, {width}x{height} to {other_width}x{other_height}")
    return np.stack(images)


def is_shard_member(path: str) -> bool:
    """Whether a path is of the form `/path/shard-000.tar#name.mp4`."""
    return ".tar#" in path


def read_member(path: str) -> bytes:
    """The bytes of a file in a shard.

    Raises:
        DecodeError: the shard or the member is missing or cannot be read.
    """
    from .shards import read_member as read  # here, where one is asked for: most lists have no shards

    with as_decode_error(path, (OSError, ValueError, KeyError)):
        return read(path)
