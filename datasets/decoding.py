"""Frames of a video by their number: one interface, two back ends, one error.

`open_video(path)` gives a reader; `reader.get_frames([0, 4, 8])` gives exactly these frames or raises `DecodeError`.
Frame numbers count the frames that a player shows, in the order it shows them: B-frames are put in order, frames that
an edit list cuts away are not counted, and a phone's rotation is applied.

A reader decodes in one thread: the loader's workers are the parallelism.
"""

import contextlib
import functools
import importlib.util
import itertools
import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

# A seek restarts the decoder, which throws away the frames it had begun to reorder: about this many are decoded again.
_SEEK_COST = 8

T = TypeVar("T")
Reader = TypeVar("Reader", bound="VideoReader")

_DECORD_PREFIX = re.compile(r"^(\[[\d:]+\] \S+: )+")


class DecodeError(RuntimeError):
    """A video that cannot be decoded, whatever the reason and the back end.

    Attributes:
        path: the video.
        reason: one line of text.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str = "") -> None:
        # The DataLoader makes a worker's exception again from one text, a traceback that ends in our own message.
        text = f"{path}: {reason}" if reason else str(path).strip().splitlines()[-1].split("DecodeError: ")[-1]
        super().__init__(text)
        self.path, self.reason = (str(path), reason) if reason else text.split(": ", 1)


class VideoReader(ABC):
    """An open video; a context manager that closes it.

    Attributes:
        num_frames: how many frames are shown; at least one.
    """

    num_frames: int

    def __init__(self, path: str) -> None:
        self._path = path

    def get_frames(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Frames in the order asked for, repeats allowed: uint8 (T, 3, H, W), RGB, channels last in memory.

        Raises:
            DecodeError: an index outside 0..num_frames - 1, or a frame that cannot be decoded.
        """
        distinct, places = self._distinct(indices)
        frames = self._read(distinct.tolist())
        if len(frames) != len(distinct):
            raise DecodeError(self._path, f"{len(frames)} frames came back for {len(distinct)} asked for")
        if not np.array_equal(places, np.arange(len(distinct))):
            frames = frames[places]
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

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


def resolve_decoder(decoder: str) -> str:
    """The name in `BACKENDS` that a choice stands for.

    "auto" is PyAV: it is right on every file this project was tried on, and with seeks by key frame as fast as decord,
    which gives wrong frames without an error for open-GOP H.264, edit lists and damaged files.

    Raises:
        ValueError: no such back end.
        ImportError: decord was asked for and is not installed.
    """
    if decoder == "auto":
        return "pyav"
    if decoder not in BACKENDS:
        raise ValueError(f"unknown decoder '{decoder}': choose from auto, {', '.join(BACKENDS)}")
    if decoder == "decord" and not _has_decord():
        raise ImportError("decord is not installed (it has wheels for Linux on x86-64 only): use `--decoder pyav`")
    return decoder


def open_video(path: str | os.PathLike[str], *, decoder: str = "auto") -> VideoReader:
    """Open a video with a back end: "pyav", "decord" or "auto".

    Raises:
        DecodeError: the file is missing, empty, truncated, not a video, or has no frames.
        ValueError, ImportError: see `resolve_decoder`.
    """
    name = resolve_decoder(decoder)
    path = os.fspath(path)
    with as_decode_error(path):
        if os.path.getsize(path) == 0:
            raise DecodeError(path, "empty file")
    return BACKENDS[name](path)


@contextlib.contextmanager
def as_decode_error(path: str, errors: tuple[type[Exception], ...] = (av.FFmpegError, OSError)) -> Iterator[None]:
    """Turns what a decoding library raises into `DecodeError`; bugs of our own pass through."""
    try:
        yield
    except DecodeError:
        raise
    except errors as error:
        text = getattr(error, "strerror", None) or str(error).partition("\n")[0]  # decord adds a C++ stack trace,
        raise DecodeError(path, _DECORD_PREFIX.sub("", text)) from error  # the time of day and its build folder


# ------------------------------------------------------------------------------------------------- PyAV


@dataclass(frozen=True)
class _FrameIndex:
    """Which frame has which time: read from the packets, without decoding.

    Attributes:
        times: presentation time of every frame that is shown, rising.
        key_times: presentation time of every key frame, shown or not, rising.
    """

    times: list[int]
    key_times: list[int]

    def last_key_before(self, frame: int) -> int | None:
        """Time of the last key frame at or before a frame; None for a stream that starts without one."""
        place = bisect_right(self.key_times, self.times[frame])
        return self.key_times[place - 1] if place else None


class PyAVReader(VideoReader):
    """Frames by way of the presentation times: seek to the key frame before, decode, compare every time on the way.

    Where the times do not fit what comes out of the decoder, the video is decoded from its start and counted.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._reformatter = VideoReformatter()
        with as_decode_error(path):
            self._container = open_container(path)
        try:
            with as_decode_error(path):
                self._stream = self._open_stream(self._container)
                self._index = _scan(self._container, self._stream, self._see_packet)
                self.num_frames = len(self._index.times) if self._index else self._count()
            if self.num_frames == 0:
                raise DecodeError(path, "no frames")
        except DecodeError:
            self.close()
            raise

    def close(self) -> None:
        self._container.close()

    def _open_stream(self, container: InputContainer) -> VideoStream:
        """The stream to decode; a subclass may set how."""
        return video_stream(container)

    def _see_packet(self, packet: av.Packet) -> None:
        """Called with every packet in decoding order, before any frame is decoded, where an index is made."""

    def _read(self, indices: list[int]) -> np.ndarray:
        with as_decode_error(self._path):
            return np.stack(self._collect(indices, lambda _, frame: self._image(frame)))

    def _collect(self, indices: list[int], make: Callable[[int, av.VideoFrame], T]) -> list[T]:
        """What `make` makes of each frame: it is given rising numbers, and their frames."""
        made = self._collect_by_time(indices, self._index, make) if self._index else None
        return made or self._collect_from_start(indices, make)

    def _collect_by_time(
        self, indices: list[int], index: _FrameIndex, make: Callable[[int, av.VideoFrame], T]
    ) -> list[T] | None:
        """The frames, or None if times and decoder disagree."""
        made = []
        position = 0  # of the next frame out of the decoder
        frames: Iterator[av.VideoFrame] | None = None
        for wanted in indices:
            key_time = index.last_key_before(wanted)
            if key_time is None:
                return None
            key = bisect_left(index.times, key_time)
            if frames is None or key > position + _SEEK_COST:
                position, frames = key, self._decode_from(key_time)
            passed = list(itertools.islice(frames, wanted + 1 - position))
            if [frame.pts for frame in passed] != index.times[position : wanted + 1]:
                return None
            if any(frame.is_corrupt for frame in passed):
                return None
            position = wanted + 1
            made.append(make(wanted, passed[-1]))
        return made

    def _decode_from(self, key_time: int) -> Iterator[av.VideoFrame]:
        """Frames shown from the key frame on; those shown before it need frames that were skipped."""
        try:
            self._container.seek(key_time, stream=self._stream)
            yield from itertools.dropwhile(
                lambda frame: frame.pts is None or frame.pts < key_time, self._container.decode(self._stream)
            )
        except av.FFmpegError:
            return  # a frame is missing then, and the caller decodes from the start, where the error comes again

    def _collect_from_start(self, indices: list[int], make: Callable[[int, av.VideoFrame], T]) -> list[T]:
        """The frames by counting. Where the packets promised another number of frames, none can be trusted."""
        wanted = set(indices)
        made: list[T] = []
        count, damaged = 0, False
        with open_container(self._path) as container:
            for count, frame in enumerate(container.decode(self._open_stream(container)), start=1):
                damaged = frame.is_corrupt or (damaged and not frame.key_frame)  # damage spreads up to a key frame
                if count - 1 not in wanted:
                    continue
                if damaged:
                    raise DecodeError(self._path, f"frame {count - 1} is damaged")
                made.append(make(count - 1, frame))
                if self._index is None and len(made) == len(indices):
                    return made
        if count != self.num_frames:
            raise DecodeError(self._path, f"{count} frames can be decoded, not {self.num_frames}")
        return made

    def _count(self) -> int:
        with open_container(self._path) as container:
            return sum(1 for _ in container.decode(video_stream(container)))

    def _image(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame as players show it: uint8 (H, W, 3)."""
        image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return np.rot90(image, k=round(frame.rotation / 90)) if frame.rotation else image


def open_container(path: str) -> InputContainer:
    return av.open(path, metadata_errors="replace")  # a title that is not UTF-8 is no reason to lose the video


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures, set to decode in one thread."""
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:  # cover art of an audio file
            if stream.codec_context is None:
                raise DecodeError(container.name, "the header does not say how the video is coded: the file is cut off")
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    raise DecodeError(container.name, "no video stream")


def _scan(container: InputContainer, stream: VideoStream, see: Callable[[av.Packet], None]) -> _FrameIndex | None:
    """Index a stream from its packets, to the end of the file; None if their times do not tell the frames apart."""
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        return None  # AVI has no presentation times, and FFmpeg's guesses are out of order where there are B-frames
    shown, keys = [], []
    for packet in container.demux(stream):
        if not packet.size:
            continue  # the mark at the end
        if packet.pts is None:
            return None
        see(packet)
        if packet.is_keyframe:
            keys.append(packet.pts)
        if not packet.is_discard:
            shown.append(packet.pts)
    times = sorted(set(shown))
    return _FrameIndex(times, sorted(keys)) if len(times) == len(shown) else None


# ------------------------------------------------------------------------------------------------- decord


class _DecordReader(VideoReader):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        import decord

        decord.logging.set_level(decord.logging.FATAL)  # what goes wrong is raised
        self._errors = (decord.DECORDError, RuntimeError, OSError)
        with as_decode_error(path, self._errors):
            self._reader: Any = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            self.num_frames = len(self._reader)
        if self.num_frames == 0:
            raise DecodeError(path, "no frames")

    def close(self) -> None:
        self._reader = None

    def _read(self, indices: list[int]) -> np.ndarray:
        with as_decode_error(self._path, self._errors):
            return self._reader.get_batch(indices).asnumpy()


@functools.cache
def _has_decord() -> bool:
    return importlib.util.find_spec("decord") is not None


BACKENDS: dict[str, Callable[[str], VideoReader]] = {"decord": _DecordReader, "pyav": PyAVReader}
