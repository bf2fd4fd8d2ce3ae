"""Random access: frames by their times from the key frame before them, trusted only where the decoder confirms it."""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Set
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from .frame_index import FrameIndex
from .nal_units import is_h264_reference

T = TypeVar("T")

_KEYS_TRIED = 6  # all over a file


class Seeker:
    """Seeks in an open stream: to the key frame before, then decodes, and compares the time of every frame.

    The first frame after a seek has to be a key frame to the decoder, whatever the container says. Frames of H.264 that
    are neither asked for nor needed for others are not decoded.

    Attributes:
        index: of the stream.
        has_met_lying_key: whether a frame after a seek was no key frame to the decoder.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, index: FrameIndex) -> None:
        self._container, self._stream, self.index = container, stream, index
        self.has_met_lying_key = False

    def collect(self, indices: list[int], make: Callable[[int, av.VideoFrame], T]) -> list[T] | None:
        """What `make` makes of each frame, whose numbers rise; None if times and decoder disagree.

        Raises:
            av.FFmpegError: the file is damaged.
        """
        index = self.index
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
                    self.has_met_lying_key = True
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

    def has_lying_keys(self) -> bool:
        """Whether some of what the container calls key frames are none to the decoder: up to eight are tried."""
        keys = self.index.key_times
        if len(keys) < 2:
            return False
        near = min(range(1, len(keys)), key=lambda place: keys[place] - keys[place - 1])  # the least believable
        tried = {near, near - 1, *np.linspace(1, len(keys) - 1, _KEYS_TRIED).astype(int).tolist()}
        return not all(self._can_start_at(keys[place]) for place in sorted(tried))

    def _can_start_at(self, key_time: int) -> bool:
        """Whether decoding can begin at a key frame; so it is said of one that is not shown."""
        shown = bisect_left(self.index.times, key_time)
        is_shown = self.index.times[shown : shown + 1] == [key_time]
        return not is_shown or self.collect([shown], lambda number, frame: number) is not None
