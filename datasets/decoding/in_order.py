"""The one rule for which frames a video has: those that come out of the decoder, from the stream's start to its end.

This is what players show. All else (indices, random access, other back ends, what `reencode.py` writes) is a faster
way to the same frames, and is given up where it does not lead there.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from .clock import rises
from .frame_index import FrameIndex
from .silent_packets import is_not_coded

_FRAMES_TRIED = 64


def frames_in_order(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Every frame that is shown, in the order it is shown.

    What the decoder cannot use before the first frame that it can show is passed over: streams start inside a group.

    Args:
        container, stream: at their start.

    Raises:
        av.FFmpegError: the file is damaged.
    """
    codec = stream.codec_context
    has_begun, header, latest = False, codec.extradata or b"", None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if has_begun:
                raise
            continue
        if packet.size:
            latest = packet if codec.name == "mpeg4" else None
            header = header or (bytes(packet) if codec.name == "mpeg4" else b"")
        elif latest is not None and not codec.has_b_frames and is_not_coded(bytes(latest), header):
            # for a last picture that is not coded FFmpeg gives the one before once more
            frames = [frame for frame in frames if frame.pts != latest.pts]
        has_begun = has_begun or bool(frames)
        yield from frames


@dataclass
class Damage:
    """Follows which frames show damage: it spreads up to the next key frame.

    Before the first key frame of a stream that starts inside a group, players show what there is.
    """

    has_key: bool = False
    is_damaged: bool = False

    def sees(self, frame: av.VideoFrame) -> bool:
        """Whether the next frame in order is damaged."""
        self.has_key = self.has_key or frame.key_frame
        self.is_damaged = self.has_key and (frame.is_corrupt or (self.is_damaged and not frame.key_frame))
        return self.is_damaged


def begins_whole(index: FrameIndex) -> bool:
    """Whether the first frame that is shown needs none that is not there."""
    return index.is_restart and bool(index.key_times) and index.key_times[0] <= index.times[0]


def comes_as_stored(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the first frames come out of the decoder in the order of their times; their packets are in that order.

    A file whose writer left out when frames are shown has, of pictures that are stored in another order, the times of
    their packets.
    """
    frames = itertools.islice(frames_in_order(container, stream), _FRAMES_TRIED)
    return rises([frame.pts for frame in frames])


def without_lost_frames(index: FrameIndex, container: InputContainer, stream: VideoStream) -> FrameIndex | None:
    """The index of a stream that starts inside a group, without the frames that cannot be decoded; None if it fails.

    The frames up to the first key frame of the decoder are decoded; what is shown after that one is in the index.

    Args:
        index: by the packets.
        container, stream: at their start.
    """
    known, lead = set(index.times), list[int]()
    for frame in frames_in_order(container, stream):
        if frame.pts not in known or (lead and frame.pts <= lead[-1]):
            return None
        lead.append(frame.pts)
        if frame.key_frame and frame.pts in index.key_times:
            times = lead + [time for time in index.times if time > frame.pts]
            return replace(index, times=times, key_times=[time for time in index.key_times if time >= frame.pts])
    return None
