"""The reader that is right on every file this project was tried on: PyAV, with an index of the frames."""

import contextlib
import io
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence, Set
from fractions import Fraction
from typing import BinaryIO, TypeVar

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ..errors import DecodeError
from .clock import mend_times
from .colours import without_odd_matrix
from .frame_index import NO_CLOCK, NO_ORDER, FrameIndex, index_from_header, index_from_packets, why_in_order
from .in_order import Damage, begins_whole, frames_in_order, without_lost_frames
from .nal_units import is_h264_reference
from .orientation import UPRIGHT, Orientation, orientation_of
from .reader import VideoReader, as_decode_error, is_shard_member, read_member, stack

T = TypeVar("T")

_KEYS_TRIED = 6  # all over a file
LYING_KEYS = "its container calls frames key frames that need others"
LOST_START = "it starts inside a group of frames"


class PyAVReader(VideoReader):
    """Frames by presentation time: seek to the key frame before, decode, and compare the time of every frame.

    The first frame after a seek has to be a key frame to the decoder, whatever the container says. Frames of H.264 that
    are neither asked for nor needed for others are not decoded. Where there is no index, or what comes out of the
    decoder does not fit it, the video is decoded from its start and counted: see `in_order.py`.
    """

    decoder = "pyav"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._reformatter = VideoReformatter()
        self._turned: tuple[int, Orientation] | None = None  # FFmpeg's rotation, and what it stands for here
        with as_decode_error(path):
            self._container = open_container(path)
        try:
            with as_decode_error(path):
                self._stream = self._open_stream(self._container)
                index = self._checked(self._make_index())
                self._index = index if isinstance(index, FrameIndex) else None
                self.why_in_order = "" if isinstance(index, FrameIndex) else index
                shown = self._index.times if self._index else self._list_times()
            self.num_frames = len(shown)
            if self.num_frames == 0:
                raise DecodeError(path, "no frames")
        except DecodeError:
            self.close()
            raise
        self._ticks = self._clock(shown)
        self.fps = self._rate()

    def close(self) -> None:
        self._container.close()

    def times(self) -> np.ndarray | None:
        """Seconds from the first frame to each one, float64 (num_frames,); None without times and without a frame rate.

        They are those of a player: see `mend_times`. Frames that have no times of their own are as far from one another
        as the average rate says.
        """
        if self._ticks is None or self._stream.time_base is None:
            return None if self.fps is None else np.arange(self.num_frames) / self.fps
        base = self._stream.time_base
        return (self._ticks - self._ticks[0]) * base.numerator / base.denominator

    def clock(self) -> tuple[np.ndarray, Fraction, Fraction]:
        """When the frames are shown, for a copy: ticks int64 (num_frames,) from 0 on, seconds a tick, rate."""
        rate = Fraction(self._header_rate() or 25)
        if self._ticks is None or self._stream.time_base is None:
            return np.arange(self.num_frames), 1 / rate, rate
        return self._ticks - self._ticks[0], self._stream.time_base, rate

    @property
    def has_times(self) -> bool:
        """Whether the file says when its frames are shown."""
        return self._ticks is not None

    @property
    def start_time(self) -> float:
        """When the first frame is shown by the file's own clock, in seconds; 0 without one."""
        if self._ticks is None or self._stream.time_base is None:
            return 0.0
        return float(int(self._ticks[0]) * self._stream.time_base)

    @contextlib.contextmanager
    def from_start(self) -> Iterator[None]:
        """Within the block frames are reached by decoding from the start of the file, not by a seek."""
        reason, self.why_in_order = self.why_in_order, self.why_in_order or "asked for"
        try:
            yield
        finally:
            self.why_in_order = reason

    @property
    def pixel_shape(self) -> Fraction | None:
        """Width by height of a stored pixel; None if the file does not say."""
        return self._stream.sample_aspect_ratio or None

    def _clock(self, shown: Sequence[int | None]) -> np.ndarray | None:
        """The times of the frames, rising; None where the format has none."""
        if self._index is not None:
            return np.asarray(shown, np.int64)
        if self.why_in_order == NO_CLOCK or all(time is None for time in shown):
            return None
        if self.why_in_order == NO_ORDER and not _rises(shown):
            return None
        rate, base = self._header_rate(), self._stream.time_base
        return mend_times(shown, max(1, round(1 / rate / base)) if rate and base else 1)

    def _header_rate(self) -> Fraction | None:
        return self._stream.average_rate or self._stream.guessed_rate

    def _rate(self) -> float | None:
        """Frames per second: what the header says, unless the times of the frames contradict it."""
        header_rate = self._header_rate()
        if self._ticks is None or self.num_frames < 2 or self._stream.time_base is None:
            return float(header_rate) if header_rate else None
        seconds = int(self._ticks[-1] - self._ticks[0]) * self._stream.time_base
        measured = float((self.num_frames - 1) / seconds)
        # times are rounded, to milliseconds in Matroska
        if header_rate and abs(measured / float(header_rate) - 1) < 0.01:
            return float(header_rate)
        return measured

    def _open_stream(self, container: InputContainer) -> VideoStream:
        """The stream to decode; a subclass may set how."""
        return video_stream(container)

    def _make_index(self) -> FrameIndex | str:
        """The index of the stream, before any frame is decoded, or why there is none; a subclass may see packets."""
        if "mp4" in self._container.format.name and not why_in_order(self._container, self._stream):
            with _source(self._path) as file:
                index = index_from_header(self._stream, file)
            if index is not None:
                return index
        return index_from_packets(self._container, self._stream)

    def _checked(self, index: FrameIndex | str) -> FrameIndex | str:
        """An index without the frames at the start of a stream that cannot be decoded."""
        if isinstance(index, str) or not index.times:
            return index
        if begins_whole(index):
            return index
        with open_container(self._path) as container:
            return without_lost_frames(index, container, self._open_stream(container)) or LOST_START

    def _read(self, indices: list[int]) -> np.ndarray:
        places = {number: place for place, number in enumerate(indices)}
        frames = np.empty(0, np.uint8)

        def keep(number: int, frame: av.VideoFrame) -> None:
            nonlocal frames
            image = self._image(frame)
            if not frames.size:
                frames = np.empty((len(indices), *image.shape), np.uint8)
            if image.shape != frames.shape[1:]:
                stack(self._path, [frames[0], image])  # says how they differ
            frames[places[number]] = image

        with as_decode_error(self._path):
            self._collect(indices, keep)
        return frames

    def first_frame(self) -> av.VideoFrame:
        """The first frame, as it comes out of the decoder.

        Raises:
            DecodeError: it cannot be decoded.
        """
        with as_decode_error(self._path), open_container(self._path) as container:
            return next(frames_in_order(container, self._open_stream(container)))

    def has_lying_keys(self) -> bool:
        """Whether some of what the container calls key frames are none to the decoder: up to eight are tried."""
        index = self._index
        keys = index.key_times if index else []
        if index is not None and len(keys) > 1:
            near = min(range(1, len(keys)), key=lambda place: keys[place] - keys[place - 1])  # the least believable
            tried = {near, near - 1, *np.linspace(1, len(keys) - 1, _KEYS_TRIED).astype(int).tolist()}
            for place in sorted(tried):
                shown = bisect_left(index.times, keys[place])
                if index.times[shown : shown + 1] == [keys[place]]:
                    with as_decode_error(self._path):
                        found = self._collect_by_time([shown], index, lambda number, frame: number)
                    if found is None:
                        return True
        return self.why_in_order == LYING_KEYS

    def map_frames(
        self, indices: Sequence[int] | np.ndarray, take: Callable[[torch.Tensor, int], None], *, max_bytes: int
    ) -> None:
        """See `VideoReader.map_frames`; the video is decoded in one pass, whatever the number of parts."""
        distinct, _ = self._distinct(indices)
        images: list[np.ndarray] = []
        taken = 0

        def hand_over() -> None:
            nonlocal taken
            frames = stack(self._path, images)
            images.clear()
            take(torch.from_numpy(frames).permute(0, 3, 1, 2), taken)
            taken += len(frames)

        def keep(number: int, frame: av.VideoFrame) -> None:
            nonlocal taken
            if number == distinct[0]:  # also where decoding begins again from the start of the file
                images.clear()
                taken = 0
            images.append(self._image(frame))
            if (len(images) + 1) * images[0].nbytes > max_bytes:
                hand_over()

        with as_decode_error(self._path):
            self._collect(distinct.tolist(), keep)
            if images:
                hand_over()

    def _collect(self, indices: list[int], make: Callable[[int, av.VideoFrame], T]) -> list[T]:
        """What `make` makes of each frame: it is given rising numbers, and their frames."""
        index = None if self.why_in_order else self._index
        made = self._collect_by_time(indices, index, make) if index else None
        return made or self._collect_from_start(indices, make)

    def _collect_by_time(
        self, indices: list[int], index: FrameIndex, make: Callable[[int, av.VideoFrame], T]
    ) -> list[T] | None:
        """The frames, or None if times and decoder disagree."""
        made = []
        wanted_times = {index.times[wanted] for wanted in indices}
        left_out: set[int] = set()
        # a seek throws away the frames that the decoder had begun to reorder
        seek_cost = 1 + self._stream.codec_context.has_b_frames
        position = 0  # of the next frame out of the decoder, those left out counted
        frames: Iterator[av.VideoFrame] | None = None
        for wanted in indices:
            key_time = index.last_key_before(wanted)
            if key_time is None:
                return None
            key, unconfirmed = bisect_left(index.times, key_time), False
            if frames is None or key > position + seek_cost:
                unconfirmed = index.times[key] == key_time
                if not unconfirmed and key_time != index.key_times[0]:
                    return None  # an edit list hides the key frame: only of the first is it sure that it is one
                position, frames = key, self._decode_from(key_time, wanted_times, left_out)
            frame = None
            while position <= wanted:
                frame = next(frames, None)
                if frame is None or frame.is_corrupt:
                    return None
                if unconfirmed and not frame.key_frame:
                    self.why_in_order = LYING_KEYS
                    return None
                unconfirmed = False
                while position < wanted and index.times[position] in left_out:
                    position += 1
                if frame.pts != index.times[position]:
                    return None
                position += 1
            assert frame is not None  # frames are asked for in rising order: the loop ran
            made.append(make(wanted, frame))
        return made

    def _decode_from(self, key_time: int, wanted: Set[int], left_out: set[int]) -> Iterator[av.VideoFrame]:
        """Frames shown from the key frame on, see `_decode_needed`; those before it need frames not decoded."""
        try:
            self._container.seek(key_time, stream=self._stream)
            frames = self._decode_needed(wanted, left_out)
            yield from itertools.dropwhile(lambda frame: frame.pts is None or frame.pts < key_time, frames)
        except av.FFmpegError:
            return  # a frame is missing then, and the caller decodes from the start, where the error comes again

    def _decode_needed(self, wanted: Set[int], left_out: set[int]) -> Iterator[av.VideoFrame]:
        """Frames from the container's position; the times of those not wanted, and not needed, go to `left_out`."""
        codec = self._stream.codec_context
        may_skip, extradata = codec.name == "h264" and codec.has_b_frames, codec.extradata
        for packet in self._container.demux(self._stream):
            needed = not may_skip or packet.pts is None or packet.pts in wanted or packet.is_keyframe
            if needed or is_h264_reference(memoryview(packet), extradata):
                yield from packet.decode()
            elif packet.pts is not None:
                left_out.add(packet.pts)

    def _collect_from_start(self, indices: list[int], make: Callable[[int, av.VideoFrame], T]) -> list[T]:
        """The frames by counting. Where the packets promised another number of frames, none can be trusted."""
        wanted = set(indices)
        made: list[T] = []
        count, damage, times = 0, Damage(), self._index.times if self._index else None
        is_as_promised = True  # every frame so far
        with open_container(self._path) as container:
            for number, frame in enumerate(frames_in_order(container, self._open_stream(container))):
                count, is_damaged = number + 1, damage.sees(frame)
                if times is not None:
                    is_as_promised = is_as_promised and number < len(times) and frame.pts == times[number]
                if number not in wanted:
                    continue
                if is_damaged:
                    raise DecodeError(self._path, f"frame {number} is damaged")
                made.append(make(number, frame))
                if is_as_promised and len(made) == len(indices):
                    return made
        if count != self.num_frames:
            raise DecodeError(self._path, f"{count} frames can be decoded, not {self.num_frames}")
        return made

    def _list_times(self) -> list[int | None]:
        """Times of the frames as the decoder gives them, by decoding all."""
        with open_container(self._path) as container:
            return [frame.pts for frame in frames_in_order(container, self._open_stream(container))]

    def _image(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame as players show it: uint8 (H, W, 3), a view of FFmpeg's memory."""
        frame = without_odd_matrix(frame, self._path)
        plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        image = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
        orientation = self.orientation_of(frame)
        return image if orientation == UPRIGHT else orientation.apply(image)

    def orientation_of(self, frame: av.VideoFrame) -> Orientation:
        """How a frame is shown; the matrix is looked at again only where the rotation is another."""
        rotation = frame.rotation
        if self._turned is None or self._turned[0] != rotation:
            self._turned = rotation, orientation_of(frame)
        return self._turned[1]


def _rises(times: Sequence[int | None]) -> bool:
    return None not in times and bool((np.diff(np.asarray(times, np.int64)) > 0).all())


def open_container(path: str) -> InputContainer:
    """A video file, or one in a shard, opened."""
    source = _source(path) if is_shard_member(path) else path
    # a title that is not UTF-8 is no reason to lose the video
    return av.open(source, mode="r", metadata_errors="replace")


def _source(path: str) -> BinaryIO:
    return io.BytesIO(read_member(path)) if is_shard_member(path) else open(path, "rb")


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
