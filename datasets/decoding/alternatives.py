"""The other back ends, decord and torchcodec, and the properties of files that they decode wrongly."""

import functools
import importlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from av.container import InputContainer

from ..errors import DecodeError
from .colours import is_converted
from .containers import open_container, video_stream
from .nal_units import is_h264_restart
from .orientation import display_matrix, from_matrix, is_exact
from .pyav import LYING_KEYS, PyAVReader
from .reader import VideoReader, as_decode_error, is_shard_member, read_member

_INSTALL = {
    "decord": "it has wheels for Linux on x86-64 only",
    "torchcodec": "pip install torchcodec, and FFmpeg's shared libraries, see INSTALL.md",
}
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # containers with the time and position of every frame
_ALIGNED = 32  # bytes: a picture that begins elsewhere in memory was cropped by the decoder
_OLD_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")  # that decord decodes correctly
NO_TIMES = "the container is not MP4, MOV, Matroska or WebM, or frames have no times of their own"
HIDDEN_FRAMES = "an edit list hides frames (a cut with `-c copy`, for example)"
SEVERAL_STREAMS = "it has several video streams"
OPEN_GOP = "key frames are followed by frames that need earlier ones (open GOP, intra refresh)"
MIRRORED = "the picture is mirrored, or turned by an angle that is no multiple of 90 degrees"
ODD_COLOURS = "the colour matrix is not one that FFmpeg converts"
CROPPED = "a part of the picture on its left is not to be shown"
OTHER_COUNT = "they count other frames than a player shows"
NEW_CODEC = "the codec is not H.264, HEVC, MPEG-4, VP8 or VP9"


class DecordReader(VideoReader):
    """For comparison with the released code: fast on ordinary files, silent about damage."""

    decoder = "decord"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        decord = importlib.import_module("decord")
        decord.logging.set_level(decord.logging.FATAL)  # what goes wrong is raised
        self._errors = (decord.DECORDError, RuntimeError, OSError)
        source = io.BytesIO(read_member(path)) if is_shard_member(path) else path
        with as_decode_error(path, self._errors):
            self._reader: Any = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
            self.num_frames, self.fps = len(self._reader), float(self._reader.get_avg_fps())
        if self.num_frames == 0:
            raise DecodeError(path, "no frames")

    def close(self) -> None:
        self._reader = None

    def _read(self, indices: list[int]) -> np.ndarray:
        with as_decode_error(self._path, self._errors):
            return self._reader.get_batch(indices).asnumpy()


class TorchCodecReader(VideoReader):
    """torchcodec with an index of the whole file, seek_mode="exact": its other mode guesses where frames lie."""

    decoder = "torchcodec"
    _errors = (RuntimeError, ValueError, IndexError, OSError)

    def __init__(self, path: str) -> None:
        super().__init__(path)
        decoders = importlib.import_module("torchcodec.decoders")
        source = read_member(path) if is_shard_member(path) else path
        with as_decode_error(path, self._errors):
            self._decoder: Any = decoders.VideoDecoder(
                source, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
            self.num_frames, self.fps = len(self._decoder), self._decoder.metadata.average_fps
        if self.num_frames == 0:
            raise DecodeError(path, "no frames")

    def close(self) -> None:
        self._decoder = None

    def _read(self, indices: list[int]) -> np.ndarray:
        with as_decode_error(self._path, self._errors):
            return self._decoder.get_frames_at(indices).data.numpy()


class FallbackReader(VideoReader):
    """A reader that gives way to PyAV at the first frame it cannot decode; PyAV's error is the one raised then."""

    def __init__(self, path: str, reader: VideoReader) -> None:
        super().__init__(path)
        self._reader = reader
        self.num_frames, self.fps, self.decoder = reader.num_frames, reader.fps, reader.decoder

    def close(self) -> None:
        self._reader.close()

    def _read(self, indices: list[int]) -> np.ndarray:
        try:
            return self._reader._read(indices)
        except DecodeError as error:
            if self.decoder == "pyav":
                raise
            promised, name = self.num_frames, self.decoder
            self._reader.close()
            self._reader = PyAVReader(self._path)
            self.num_frames, self.decoder = self._reader.num_frames, "pyav"
            if self.num_frames != promised:  # the frames asked for were chosen for another length
                reason = f"{name} counts {promised} frames, PyAV {self.num_frames}"
                raise DecodeError(self._path, reason) from error
            return self._reader._read(indices)


@functools.cache
def why_missing(decoder: str) -> str:
    """Why a back end cannot be used here, with the remedy; "" if it can."""
    try:
        importlib.import_module("torchcodec.decoders" if decoder == "torchcodec" else decoder)
    except ModuleNotFoundError:
        return f"{decoder} is not installed ({_INSTALL[decoder]}): use `--decoder pyav`"
    except (ImportError, OSError, RuntimeError) as error:  # its own libraries, or FFmpeg's
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        return f"{decoder} cannot be loaded ({reason}; {_INSTALL[decoder]}): use `--decoder pyav`"
    return ""


def known_issues(path: str, decoder: str) -> Iterator[str]:
    """Why a back end is known to decode a file wrongly, by its header and packets; docs/decoding.md has the table.

    Raises:
        DecodeError: the file cannot be opened.
    """
    with as_decode_error(path), open_container(path) as container:
        stream = video_stream(container)
        codec = stream.codec_context
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = [packet.pts for packet in packets]
        if container.format.name not in _INDEXED or not _are_distinct(times):
            yield NO_TIMES
        if any(packet.is_discard for packet in packets) or min(filter(None, times), default=0) < 0:
            yield HIDDEN_FRAMES
        if _num_video_streams(container) > 1:
            yield SEVERAL_STREAMS
        if _has_open_gops(packets, codec.extradata if codec.name == "h264" else None):
            yield OPEN_GOP
        if decoder == "decord" and codec.name not in _OLD_CODECS:
            yield NEW_CODEC
    with PyAVReader(path) as reader:
        if reader.why_in_order or len(packets) != reader.num_frames:
            yield reader.why_in_order or OTHER_COUNT
        if reader.has_lying_keys():
            yield LYING_KEYS
        frame = reader.first_frame()
        matrix = display_matrix(frame)
        if matrix is not None and (from_matrix(matrix).is_mirrored or not is_exact(matrix)):
            yield MIRRORED
        if not is_converted(int(frame.colorspace)):
            yield ODD_COLOURS
        if any(plane.buffer_ptr % _ALIGNED for plane in frame.planes):
            yield CROPPED


def _are_distinct(times: list[int | None]) -> bool:
    """Whether every packet has a time of its own."""
    return None not in times and len(set(times)) == len(times)


def _num_video_streams(container: InputContainer) -> int:
    """Streams of moving pictures; cover art is none."""
    return sum(not stream.disposition & stream.disposition.attached_pic for stream in container.streams.video)


def _has_open_gops(packets: list[Any], h264_extradata: bytes | None) -> bool:
    """Whether a frame shown before a key frame comes after it, or a key frame of H.264 is no full restart."""
    key_time = None
    for packet in packets:
        if packet.is_keyframe:
            if h264_extradata is not None and not is_h264_restart(memoryview(packet), h264_extradata):
                return True
            key_time = packet.pts
        elif key_time is not None and packet.pts is not None and packet.pts < key_time:
            return True
    return False
