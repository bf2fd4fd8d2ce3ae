"""What is asked of PyAV: a container, the one stream of it that is decoded, and what comes with its frames."""

import io
from typing import BinaryIO

import av
from av.codec.context import Flags
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.stream import VideoStream

from ..errors import DecodeError
from .reader import is_shard_member, read_member


def _of_no_name(cls: type[Type], value: int) -> Type:
    """A kind of side data that PyAV has no name for: Exif data of pictures, the second eye of stereo HEVC."""
    kind = object.__new__(cls)
    kind._value_, kind._name_ = value, f"UNKNOWN_{value}"  # type: ignore[assignment]
    return kind


# PyAV 18.1 knows the kinds of FFmpeg 6: a frame with a newer one would give none of its side data, but a ValueError.
Type._missing_ = classmethod(_of_no_name)  # type: ignore[assignment]


def side_data(frame: av.VideoFrame, kind: str) -> object:
    """What comes with a frame, by FFmpeg's name of the kind without AV_FRAME_DATA_; None if there is none of it."""
    return frame.side_data.get(kind)


def open_container(path: str) -> InputContainer:
    """A video file, or one in a shard, opened.

    Raises:
        av.FFmpegError, OSError: it is missing, or not a video.
        DecodeError: as of `read_member`.
    """
    source = open_bytes(path) if is_shard_member(path) else path
    # a title that is not UTF-8 is no reason to lose the video
    return av.open(source, mode="r", metadata_errors="replace")


def open_bytes(path: str) -> BinaryIO:
    """The bytes of a file, or of one in a shard."""
    return io.BytesIO(read_member(path)) if is_shard_member(path) else open(path, "rb")


def video_stream(container: InputContainer) -> VideoStream:
    """The stream of moving pictures that the file marks as the one to show, else the first; to decode in one thread.

    Raises:
        DecodeError: there is none, or the header is not whole.
    """
    streams = [  # without the cover art of an audio file
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise DecodeError(container.name, "no video stream")
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    if stream.codec_context is None:
        raise DecodeError(container.name, "the header does not say how the video is coded: the file is cut off")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= Flags.unaligned  # else FFmpeg leaves a part of what is to be cropped on the left
    return stream
