"""Presentation times of the frames of a video, without decoding: from an MP4 header, or from all packets.

There is an index only where random access can be right. What `why_in_order` names, and streams whose packets do not
tell the frames apart, are decoded from their start.
"""

import io
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from .nal_units import is_h264_restart
from .silent_packets import is_hidden_vpx, is_not_coded

_KEY, _DISCARDED = 1, 2  # flags of FFmpeg's index entries
_TABLES = (b"mdia", b"minf", b"stbl", b"ctts")  # the boxes from a track to its table of composition offsets
_SMALL = 32  # bytes: a packet of MPEG-4 that may hold a picture that is not coded has fewer
_NO_TIMESTAMPS = 0x80  # of the flags of FFmpeg's formats
_INTRA_ONLY = 1  # of the properties of FFmpeg's codecs
# Those whose decoders tell key frames from others themselves; cinepak's, for example, calls every frame one.
# fmt: off
_TELL_KEYS = frozenset((
    "apng", "av1", "cavs", "ffv1", "flv1", "gif", "h261", "h263", "h263i", "h263p", "hevc", "h264", "mpeg1video",
    "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "rv10", "rv20", "rv30", "rv40", "theora",
    "vc1", "vp3", "vp7", "vp8", "vp9", "vvc", "wmv1", "wmv2", "wmv3",
))
# fmt: on
NO_CLOCK = "its format has no times of its own"
NO_ORDER = "AVI has no times of presentation, and its frames are stored in another order"
UNTOLD_KEYS = "its decoder does not tell which frames need no others"
NO_TIMES = "its packets do not say when each frame is shown"
SET_BACK = "its clock is set back in the middle"
SKIPPED = "it has pictures that are not coded"


def why_in_order(container: InputContainer, stream: VideoStream) -> str:
    """Why frames of a stream have to be decoded from its start, by its format and codec; "" if they need not."""
    name, codec = container.format.name, stream.codec_context.codec
    if container.format.flags & _NO_TIMESTAMPS or name.endswith("pipe"):
        return NO_CLOCK
    if name == "avi" and stream.codec_context.has_b_frames:
        return NO_ORDER  # FFmpeg's guesses are out of order
    if not codec.properties & _INTRA_ONLY and codec.canonical_name not in _TELL_KEYS:
        return UNTOLD_KEYS
    return ""


@dataclass(frozen=True)
class FrameIndex:
    """Presentation times of the frames, in the time base of the stream.

    Attributes:
        times: presentation time of every frame that is shown, rising.
        key_times: presentation time of every key frame, shown or not, rising.
        is_restart: whether decoding can begin with the first packet; of H.264, where a key frame may need others. Of
            other codecs the times tell.
        is_as_stored: whether frames are said to be shown in the order they are stored.
    """

    times: list[int]
    key_times: list[int]
    is_restart: bool = True
    is_as_stored: bool = False

    def last_key_before(self, frame: int) -> int | None:
        """Time of the last key frame at or before a frame; None for a stream that starts without one."""
        place = bisect_right(self.key_times, self.times[frame])
        return self.key_times[place - 1] if place else None


def index_from_packets(
    container: InputContainer, stream: VideoStream, see: Callable[[av.Packet], None] | None = None
) -> FrameIndex | str:
    """Index a stream by reading its packets to the end of the file; the reason if that cannot be done.

    Args:
        container, stream: at their start.
        see: called with every packet that holds a picture, in decoding order.
    """
    if reason := why_in_order(container, stream):
        return reason
    hides = _silence_of(stream)
    shown, keys, latest = [], [], -math.inf
    is_restart: bool | None = None
    for packet in container.demux(stream):
        if not packet.size:
            continue  # the mark at the end
        if packet.pts is None:
            return NO_TIMES
        decoded = latest if packet.dts is None else packet.dts
        if decoded < latest:
            return SET_BACK
        latest = decoded
        if is_restart is None:
            is_restart = _is_restart(stream, memoryview(packet))
        if packet.is_keyframe:
            keys.append(packet.pts)
        if hides is not None and hides(packet):
            if stream.codec_context.name == "mpeg4":
                return SKIPPED  # or packed: then the frame comes with another packet
            continue
        if see is not None:
            see(packet)
        if not packet.is_discard:
            shown.append(packet.pts)
    return _index(shown, keys, is_restart is not False) or NO_TIMES


def _is_restart(stream: VideoStream, packet: memoryview) -> bool:
    """Whether decoding can begin at a packet, as far as it tells."""
    codec = stream.codec_context
    return codec.name != "h264" or is_h264_restart(packet, codec.extradata)


def _silence_of(stream: VideoStream) -> Callable[[av.Packet], bool] | None:
    """What tells packets that show nothing, for the codecs that have some."""
    codec = stream.codec_context
    if codec.codec.canonical_name in ("vp8", "vp9"):
        name = codec.codec.canonical_name
        return lambda packet: is_hidden_vpx(name, memoryview(packet))
    if codec.name == "mpeg4":
        header = codec.extradata or b""

        def hides(packet: av.Packet) -> bool:
            nonlocal header
            header = header or bytes(packet)
            return packet.size <= _SMALL and is_not_coded(bytes(packet), header)

        return hides
    return None


def index_from_header(stream: VideoStream, file: BinaryIO) -> FrameIndex | None:
    """Index a stream of an MP4 or MOV file from its header, ten times as fast as from the packets.

    FFmpeg's index knows when frames are decoded, the file's table of composition offsets how much later each is shown.

    Args:
        stream: of the opened file.
        file: the same file.

    Returns:
        None where the two do not go together (fragments, frames cut away, an FFmpeg without index), or a packet shows
        nothing.

    Raises:
        OSError: the file is cut off: it ends before the frames of its index do.
    """
    entries = [(entry.timestamp, entry.flags, entry.pos + entry.size) for entry in getattr(stream, "index_entries", ())]
    decoded, flags, ends = np.array(entries, np.int64).reshape(-1, 3).T
    if lost := int((ends > file.seek(0, io.SEEK_END)).sum()):
        raise OSError(f"the file is cut off: {lost} of the {len(ends)} frames of its index are not in it")
    if stream.codec_context.name == "mpeg4" and _has_not_coded(stream, file):
        return None
    offsets = _composition_offsets(file, stream.id, len(entries))
    if not entries or offsets is None or (flags & _DISCARDED).any():
        return None
    shown = decoded + offsets
    if shown.min() != stream.start_time:
        return None
    first = stream.index_entries[0]
    file.seek(first.pos)
    is_restart = _is_restart(stream, memoryview(file.read(first.size)))
    return _index(shown.tolist(), shown[flags & _KEY > 0].tolist(), is_restart)


def _has_not_coded(stream: VideoStream, file: BinaryIO) -> bool:
    """Whether a packet of MPEG-4 part 2 shows nothing."""
    header = stream.codec_context.extradata or b""
    for entry in stream.index_entries:
        if entry.size <= _SMALL:
            file.seek(entry.pos)
            if is_not_coded(file.read(entry.size), header):
                return True
    return False


def _index(shown: list[int], keys: list[int], is_restart: bool) -> FrameIndex | None:
    times = sorted(set(shown))
    return FrameIndex(times, sorted(keys), is_restart, times == shown) if len(times) == len(shown) else None


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
