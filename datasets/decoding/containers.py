"""Opening video files with FFmpeg: the container, and the one stream of it that is decoded."""

import io
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from ..errors import DecodeError
from .reader import is_shard_member, read_member


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
    """The first stream of moving pictures, set to decode in one thread.

    Raises:
        DecodeError: there is none, or the header is not whole.
    """
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:  # cover art of an audio file
            if stream.codec_context is None:
                raise DecodeError(container.name, "the header does not say how the video is coded: the file is cut off")
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    raise DecodeError(container.name, "no video stream")
