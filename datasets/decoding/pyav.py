"""The reader that is right on every file this project was tried on: PyAV, with an index of the frames."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from ..errors import DecodeError
from .clock import Clock, mend_times, rises
from .colours import without_odd_matrix
from .containers import open_bytes, open_container, video_stream
from .frame_index import NO_CLOCK, NO_ORDER, FrameIndex, index_from_header, index_from_packets, why_in_order
from .in_order import Damage, begins_whole, comes_as_stored, frames_in_order, without_lost_frames
from .orientation import UPRIGHT, Orientation, orientation_of
from .reader import VideoReader, as_decode_error, stack
from .seeking import Seeker

T = TypeVar("T")

LYING_KEYS = "its container calls frames key frames that need others"
LOST_START = "it starts inside a group of frames"
TOLD_ORDER = "its times are those of decoding, and its frames are shown in another order"
_REORDERED = ("h264", "hevc", "mpeg4")  # codecs whose headers say whether frames are stored in another order


class PyAVReader(VideoReader):
    """Frames by presentation time: seek to the key frame before, decode, and compare the time of every frame.

    Where there is no index, or what comes out of the decoder does not fit it (see `Seeker`), the video is decoded from
    its start and counted: see `in_order.py`.

    Attributes:
        clock: when its frames are shown, as a player shows them.
    """

    decoder = "pyav"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._reformatter = VideoReformatter()
        self._seeker: Seeker | None = None
        self._turned: tuple[int, Orientation] | None = None  # FFmpeg's rotation, and what it stands for here
        with as_decode_error(path):
            self._container = open_container(path)
        try:
            with as_decode_error(path):
                self._stream = self._open_stream(self._container)
                index = self._checked(self._make_index())
                if isinstance(index, FrameIndex):
                    self._seeker = Seeker(self._container, self._stream, index)
                else:
                    self.why_in_order = index
                shown = self.index.times if self.index else self._list_times()
            self.num_frames = len(shown)
            if self.num_frames == 0:
                raise DecodeError(path, "no frames")
        except DecodeError:
            self.close()
            raise
        self.clock = self._make_clock(shown)
        self.fps = self.clock.rate()

    @property
    def index(self) -> FrameIndex | None:
        """When every frame is shown, before any is decoded; None where the file has to be read in order."""
        return None if self._seeker is None else self._seeker.index

    def close(self) -> None:
        self._container.close()

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

    def _make_clock(self, shown: Sequence[int | None]) -> Clock:
        """The clock of a stream whose frames have these times."""
        stream = self._stream
        rate, base = stream.average_rate or stream.guessed_rate or None, stream.time_base
        if self.why_in_order == TOLD_ORDER:
            shown = sorted(time for time in shown if time is not None)
        has_none = self.why_in_order == NO_CLOCK or all(time is None for time in shown)
        if base is None or has_none or (self.why_in_order == NO_ORDER and not rises(shown)):
            return Clock(len(shown), None, base or Fraction(1), rate)
        return Clock(len(shown), mend_times(shown, max(1, round(1 / rate / base)) if rate else 1), base, rate)

    def _open_stream(self, container: InputContainer) -> VideoStream:
        """The stream to decode; a subclass may set how."""
        return video_stream(container)

    def _make_index(self) -> FrameIndex | str:
        """The index of the stream, before any frame is decoded, or why there is none; a subclass may see packets."""
        if "mp4" in self._container.format.name and not why_in_order(self._container, self._stream):
            with open_bytes(self._path) as file:
                index = index_from_header(self._stream, file)
            if index is not None:
                return index
        return index_from_packets(self._container, self._stream)

    def _checked(self, index: FrameIndex | str) -> FrameIndex | str:
        """An index without the frames at the start of a stream that cannot be decoded; why, if its times are wrong."""
        if isinstance(index, str) or not index.times:
            return index
        codec = self._stream.codec_context
        if index.is_as_stored and codec.has_b_frames and codec.name in _REORDERED:
            with open_container(self._path) as container:
                if not comes_as_stored(container, self._open_stream(container)):
                    return TOLD_ORDER
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
        """Whether some of what the container calls key frames are none to the decoder."""
        if self._seeker is None or self.why_in_order:
            return self.why_in_order == LYING_KEYS
        with as_decode_error(self._path):
            has_some = self._seeker.has_lying_keys()
        self._heed(self._seeker)
        return has_some

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
        made = None
        if self._seeker is not None and not self.why_in_order:
            made = self._seeker.collect(indices, make)
            self._heed(self._seeker)
        return made or self._collect_from_start(indices, make)

    def _heed(self, seeker: Seeker) -> None:
        """No more seeks in a file whose key frames are none."""
        if seeker.has_met_lying_key:
            self.why_in_order = LYING_KEYS

    def _collect_from_start(self, indices: list[int], make: Callable[[int, av.VideoFrame], T]) -> list[T]:
        """The frames by counting. Where the packets promised another number of frames, none can be trusted."""
        wanted = set(indices)
        made: list[T] = []
        count, damage, times = 0, Damage(), self.index.times if self.index else None
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
