"""The reader that is right on every file this project was tried on: PyAV, with an index of the frames."""

import io
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence, Set
from typing import BinaryIO, TypeVar

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ..errors import DecodeError
from .frame_index import FrameIndex, index_from_header, index_from_packets
from .nal_units import is_h264_reference
from .reader import VideoReader, as_decode_error, is_shard_member, read_member, stack

T = TypeVar("T")


class PyAVReader(VideoReader):
    """Frames by presentation time: seek to the key frame before, decode, and compare the time of every frame.

    Frames of H.264 that are neither asked for nor needed for others are not decoded. Where the times do not fit what
    comes out of the decoder, the video is decoded from its start and counted.
    """

    decoder = "pyav"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._reformatter = VideoReformatter()
        with as_decode_error(path):
            self._container = open_container(path)
        try:
            with as_decode_error(path):
                self._stream = self._open_stream(self._container)
                self._index = self._make_index()
                self.num_frames = len(self._index.times) if self._index else self._count()
            if self.num_frames == 0:
                raise DecodeError(path, "no frames")
        except DecodeError:
            self.close()
            raise
        self.fps = self._rate()

    def close(self) -> None:
        self._container.close()

    def times(self) -> np.ndarray | None:
        """Seconds from the first frame to each one, float64 (num_frames,); None without times and without a frame rate.

        Frames that have no times of their own are as far from one another as the average rate says.
        """
        if self._index is None or self._stream.time_base is None:
            return None if self.fps is None else np.arange(self.num_frames) / self.fps
        ticks = np.asarray(self._index.times, np.int64)
        return (ticks - ticks[0]) * self._stream.time_base.numerator / self._stream.time_base.denominator

    def _rate(self) -> float | None:
        """Frames per second: what the header says, unless the times of the frames contradict it."""
        header_rate = self._stream.average_rate or self._stream.guessed_rate
        if self._index is None or self.num_frames < 2 or self._stream.time_base is None:
            return float(header_rate) if header_rate else None
        seconds = (self._index.times[-1] - self._index.times[0]) * self._stream.time_base
        measured = float((self.num_frames - 1) / seconds)
        # times are rounded, to milliseconds in Matroska
        if header_rate and abs(measured / float(header_rate) - 1) < 0.01:
            return float(header_rate)
        return measured

    def _open_stream(self, container: InputContainer) -> VideoStream:
        """The stream to decode; a subclass may set how."""
        return video_stream(container)

    def _make_index(self) -> FrameIndex | None:
        """The index of the stream, before any frame is decoded; a subclass may look at the packets."""
        if "mp4" in self._container.format.name:
            with _source(self._path) as file:
                index = index_from_header(self._stream, file)
            if index is not None:
                return index
        return index_from_packets(self._container, self._stream)

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
        made = self._collect_by_time(indices, self._index, make) if self._index else None
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
            key = bisect_left(index.times, key_time)
            if frames is None or key > position + seek_cost:
                position, frames = key, self._decode_from(key_time, wanted_times, left_out)
            frame = None
            while position <= wanted:
                frame = next(frames, None)
                if frame is None or frame.is_corrupt:
                    return None
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
        """A frame as players show it: uint8 (H, W, 3), a view of FFmpeg's memory."""
        plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        image = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
        return np.rot90(image, k=round(frame.rotation / 90)) if frame.rotation else image


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
