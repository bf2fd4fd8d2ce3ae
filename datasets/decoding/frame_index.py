"""Which frame of a video has which time, without decoding: from the header of an MP4 file, or from all its packets."""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

_KEY, _DISCARDED = 1, 2  # flags of FFmpeg's index entries
_TABLES = (b"mdia", b"minf", b"stbl", b"ctts")  # the boxes from a track to its table of composition offsets


@dataclass(frozen=True)
class FrameIndex:
    """When frames are shown, in the units of the stream.

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


def index_from_packets(
    container: InputContainer, stream: VideoStream, see: Callable[[av.Packet], None] | None = None
) -> FrameIndex | None:
    """Index a stream by reading its packets to the end of the file; None if their times do not tell the frames apart.

    Args:
        container, stream: at their start.
        see: called with every packet, in decoding order.
    """
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        return None  # AVI has no presentation times, and FFmpeg's guesses are out of order where there are B-frames
    shown, keys = [], []
    for packet in container.demux(stream):
        if not packet.size:
            continue  # the mark at the end
        if packet.pts is None:
            return None
        if see is not None:
            see(packet)
        if packet.is_keyframe:
            keys.append(packet.pts)
        if not packet.is_discard:
            shown.append(packet.pts)
    return _index(shown, keys)


def index_from_header(stream: VideoStream, file: BinaryIO) -> FrameIndex | None:
    """Index a stream of an MP4 or MOV file from its header, ten times as fast as from the packets.

    FFmpeg's index knows when frames are decoded, the file's table of composition offsets how much later each is shown.

    Args:
        stream: of the opened file.
        file: the same file.

    Returns:
        None where the two do not go together: fragments, frames cut away, a file cut off, an FFmpeg without index.
    """
    entries = [(entry.timestamp, entry.flags, entry.pos + entry.size) for entry in getattr(stream, "index_entries", ())]
    offsets = _composition_offsets(file, stream.id, len(entries))
    if not entries or offsets is None:
        return None
    decoded, flags, ends = np.array(entries, np.int64).T
    if (flags & _DISCARDED).any() or ends.max() > file.seek(0, io.SEEK_END):
        return None
    shown = decoded + offsets
    return _index(shown.tolist(), shown[flags & _KEY > 0].tolist()) if shown.min() == stream.start_time else None


def _index(shown: list[int], keys: list[int]) -> FrameIndex | None:
    times = sorted(set(shown))
    return FrameIndex(times, sorted(keys)) if len(times) == len(shown) else None


def _composition_offsets(file: BinaryIO, track: int, count: int) -> np.ndarray | None:
    """How much later than it is decoded each sample is shown: int64 (count,); None if this is not told, or negative.

    ISO/IEC 14496-12, 8.6.1.3. A track without the table shows samples as they are decoded.
    """
    header = list(_boxes(_top_level_box(file, b"moov")))
    if any(kind == b"mvex" for kind, _ in header):  # fragmented: FFmpeg may have seen only the first fragments
        return None
    body = next((body for kind, body in header if kind == b"trak" and _track_number(body) == track), None)
    if body is None:
        return None
    for name in _TABLES:
        body = next((inner for kind, inner in _boxes(body) if kind == name), b"")
    return _unpack_runs(body, count) if body else np.zeros(count, np.int64)


def _unpack_runs(table: bytes, count: int) -> np.ndarray | None:
    """The offsets in a `ctts` box of runs (number of samples, offset): int64 (count,); None if they do not fit."""
    stop = 8 + 8 * int.from_bytes(table[4:8], "big")  # after version and flags the number of runs
    if stop > len(table):
        return None
    runs = np.frombuffer(table[8:stop], ">i4").reshape(-1, 2).astype(np.int64)
    return np.repeat(runs[:, 1], runs[:, 0]) if (runs >= 0).all() and runs[:, 0].sum() == count else None


def _top_level_box(file: BinaryIO, name: bytes) -> bytes:
    """What is in a box of the file; empty if there is none."""
    file.seek(0)
    while len(start := file.read(16)) >= 8:
        size, kind = int.from_bytes(start[:4], "big"), start[4:8]
        length = 8
        if size == 1:  # a large box: its size follows
            size, length = int.from_bytes(start[8:], "big"), 16
        if kind == name:
            file.seek(length - len(start), io.SEEK_CUR)
            return file.read(size - length)
        if size < length:  # the rest of the file
            break
        file.seek(size - len(start), io.SEEK_CUR)
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes that a box holds."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size < 8:  # none in a header is as large as needs another form
            return
        yield data[place + 4 : place + 8], data[place + 8 : place + size]
        place += size


def _track_number(track: bytes) -> int | None:
    header = next((body for kind, body in _boxes(track) if kind == b"tkhd"), b"")
    place = 12 if header[:1] == b"\0" else 20  # behind two times, of 4 bytes in version 0 and of 8 in version 1
    return int.from_bytes(header[place : place + 4], "big") if header else None
