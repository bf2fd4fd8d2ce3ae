"""Properties of a video file: codec, size, frame rate, key frame interval, and the time to decode a clip."""

import contextlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from datasets.decoding.containers import video_stream
from datasets.decoding.image_folder import is_image
from datasets.decoding.in_order import Damage, frames_in_order
from datasets.decoding.open import open_video
from datasets.decoding.reader import as_decode_error
from datasets.decoding.shards import read_member, split_member
from datasets.errors import DecodeError
from datasets.sampling import draw_pretrain_clip

CLIP_FRAMES, CLIP_STRIDE = 16, 4  # the clip whose decoding is timed
_CLIPS = 5  # of each video
_SHORT = 0.75  # frames that end before this part of the duration in the header: the file was cut off, perhaps


@contextlib.contextmanager
def open_source(path: str) -> Iterator[InputContainer]:
    """The container of a video file or a member of a shard.

    Raises:
        DecodeError: while it is opened, and in the block.
    """
    with as_decode_error(path):
        source = io.BytesIO(read_member(path)) if split_member(path) else path
        with av.open(source, metadata_errors="replace") as container:
            yield container


def is_video_file(path: str) -> bool:
    """Whether a path names a file that FFmpeg decodes, rather than a folder of frames."""
    return split_member(path) is not None or not os.path.isdir(path)


def describe(path: str) -> dict[str, Any]:
    """Codec, container, frame rate, seconds, mean key frame interval, bytes; a folder of frames has a codec only.

    Raises:
        DecodeError: the headers or packets cannot be read.
    """
    if not is_video_file(path):
        return {"codec": "frames"}
    with open_source(path) as container:
        stream = video_stream(container)
        packets = [packet for packet in container.demux(stream) if packet.size]
        seconds = _seconds(stream, packets)
        header = (container.duration or 0) / 1_000_000
        facts = {
            "codec": stream.codec_context.codec.canonical_name,
            "container": container.format.name.partition(",")[0],
            "fps": float(stream.average_rate) if stream.average_rate else None,
            "seconds": seconds,
            "key_distance": len(packets) / max(sum(packet.is_keyframe for packet in packets), 1),
            "bytes": sum(packet.size for packet in packets),
        }
    if seconds < _SHORT * header:
        facts["warning"] = f"its header says {header:.1f} s, its frames end after {seconds:.1f} s"
    return facts


def _seconds(stream: VideoStream, packets: Sequence[av.Packet]) -> float:
    """How long a stream lasts by its packets; 0 if they have no times."""
    ends = [packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None]
    if not ends or not stream.time_base:
        return 0.0
    return float((max(ends) - (stream.start_time or 0)) * stream.time_base)


def shown_frames(path: str) -> Iterator[av.VideoFrame]:
    """Every frame of a video file that a player shows, in order.

    Raises:
        DecodeError: the video cannot be opened, or a frame is damaged.
    """
    damage = Damage()
    with open_source(path) as container:
        for number, frame in enumerate(frames_in_order(container, video_stream(container))):
            if damage.sees(frame):
                raise DecodeError(path, f"frame {number} is damaged")
            yield frame


def decode_all(path: str, num_frames: int) -> None:
    """Decode every frame.

    Raises:
        DecodeError: a frame is damaged, or there are not `num_frames`.
    """
    if not is_video_file(path) or is_image(path):
        with open_video(path) as video:
            for index in range(num_frames):
                video.get_frames([index])
        return
    count = sum(1 for _ in shown_frames(path))
    if count != num_frames:
        raise DecodeError(path, f"{count} frames can be decoded, not {num_frames}")


def clip_seconds(path: str) -> float:
    """Mean time of opening a video and decoding a clip at a random place."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(_CLIPS):
        with open_video(path) as video:
            video.get_frames(draw_pretrain_clip(video.num_frames, CLIP_FRAMES, CLIP_STRIDE, rng))
    return (time.perf_counter() - start) / _CLIPS
