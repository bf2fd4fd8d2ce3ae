"""A video reader that also gives the motion between frames, from the motion vectors of the video's own coding.

The vectors of H.264, MPEG-4 and MPEG-2 come with the decoded frames; what is made of them is in `motion_fields.py`.
HEVC, VP8, VP9 and AV1 give none (`has_motion_vectors`): there all motion is zero.
"""

import itertools
import logging
import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, cast

import av
import numpy as np
import torch
from av.codec.context import Flags2
from av.container import InputContainer
from av.sidedata.motionvectors import MotionVectors
from av.video.frame import PictureType
from av.video.stream import VideoStream

from ..decoding.containers import open_container, side_data, video_stream
from ..decoding.frame_index import FrameIndex, index_from_packets
from ..decoding.nal_units import is_h264_reference
from ..decoding.orientation import UPRIGHT, Orientation
from ..decoding.pyav import PyAVReader
from ..decoding.reader import as_decode_error
from ..errors import DecodeError, MotionVectorError
from ..lists.video_list import VideoList
from .motion_fields import FIELDS, Distances, follow, reference_distances, turn, velocities

logger = logging.getLogger(__name__)

_PROBED_FRAMES = 32  # of a video
_PROBED_VIDEOS = 32  # of a list
_WITH_B_VECTORS = ("h264", "mpeg1video", "mpeg2video")  # for others, MPEG-4 above all, FFmpeg gives zeros in B-frames
_H264_REFERENCES = 4  # that are tried on either side; the older codecs have one
_LUMA_SIDE = 256  # pixels of the shorter side that pictures are compared at


def has_motion_vectors(path: str | os.PathLike[str]) -> bool:
    """Whether the first 32 frames of a video have any motion vectors.

    Raises:
        DecodeError: it cannot be decoded.
    """
    path = os.fspath(path)
    with as_decode_error(path), open_container(path) as container:
        frames = itertools.islice(container.decode(_vector_stream(container)), _PROBED_FRAMES)
        return any(side_data(frame, "MOTION_VECTORS") for frame in frames)


def check_motion_vectors(videos: VideoList) -> None:
    """Look for motion vectors in 32 videos from all over a list; log a warning if some have none.

    A video that cannot be decoded is logged and not counted: training replaces it.

    Raises:
        MotionVectorError: none of these videos has any.
    """
    step = max(len(videos) // _PROBED_VIDEOS, 1)
    num_probed, without = 0, []
    for path in videos.paths[::step][:_PROBED_VIDEOS]:
        try:
            without += [] if has_motion_vectors(path) else [path]
            num_probed += 1
        except DecodeError as error:
            logger.warning("%s", error)
    if len(without) == num_probed:
        raise MotionVectorError(
            f"--mask_type motion_vectors: the videos of the list hold none, for example {videos.paths[0]}. H.264, "
            "MPEG-4 and MPEG-2 files do: re-encode them, or use --mask_type motion"
        )
    if without:
        logger.warning(
            "%d of %d videos probed hold no motion vectors and get tube masks, for example %s",
            len(without),
            num_probed,
            without[0],
        )


def _vector_stream(container: InputContainer) -> VideoStream:
    stream = video_stream(container)
    stream.codec_context.flags2 |= Flags2.export_mvs
    return stream


class _DecodedFrame(NamedTuple):
    """What is kept of a decoded frame.

    Attributes:
        image: uint8 (H, W, 3), upright; None if it was not asked for.
        vectors: int32 (8, any), the fields of FFmpeg's records.
        luma: see `_luma`.
        size: height and width as it is coded.
        pts: its presentation time.
        is_b: whether it is a B-frame.
        orientation: how it is shown.
    """

    image: np.ndarray | None
    vectors: np.ndarray
    luma: np.ndarray | None
    size: tuple[int, int]
    pts: int | None
    is_b: bool
    orientation: Orientation


class MotionReader(PyAVReader):
    """A PyAV reader that also gives the motion between the frames asked for."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._packets: list[tuple[int, bool]] = []  # (time, is a reference), in decoding order
        self._latest: float = -math.inf
        super().__init__(os.fspath(path))
        codec = self._stream.codec_context.name
        self._num_references = _H264_REFERENCES if codec == "h264" else 1
        self._distances = reference_distances(self._packets, self._num_references)

    def get_frames_and_motion(
        self, indices: Sequence[int] | np.ndarray, pairs: Sequence[tuple[int, int]]
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Frames as by `get_frames`, and the motion between some of them.

        Args:
            indices: T frame numbers, in any order, repeats allowed.
            pairs: P pairs of positions in `indices`: motion from the first of a pair to the second.

        Returns:
            frames uint8 (T, 3, H, W); motion float32 (P, 2, ceil(H / 8), ceil(W / 8)), in pixels: where a cell of
            8 x 8 pixels of the one frame lies in the other, minus where it lies itself, x before y.

        Raises:
            DecodeError: see `get_frames`.
        """
        distinct, places = self._distinct(indices)
        wanted, first = set(distinct.tolist()), self._first_kept(int(distinct[0]))
        with as_decode_error(self._path):
            passed = self._collect(
                list(range(first, int(distinct[-1]) + 1)), lambda number, frame: self._keep(frame, number in wanted)
            )
        if len({(frame.size, frame.orientation) for frame in passed}) > 1:
            raise DecodeError(self._path, "the picture's size changes in the middle of the video")
        frames = np.stack([frame.image for frame in passed if frame.image is not None])[places]
        lumas = [frame.luma for frame in passed if frame.luma is not None]
        velocity = velocities(
            [frame.vectors for frame in passed],
            self._distances_of(passed),
            np.stack(lumas) if len(lumas) == len(passed) else None,
            *passed[0].size,
        )
        numbers = np.asarray(indices) - first
        motion = follow(velocity, [(int(numbers[one]), int(numbers[other])) for one, other in pairs])
        if passed[0].orientation != UPRIGHT:
            motion = turn(motion, passed[0].orientation, frames.shape[1], frames.shape[2])
        return torch.from_numpy(frames).permute(0, 3, 1, 2), motion

    def _first_kept(self, number: int) -> int:
        """A frame far enough before to know the references of `number`, if it is decoded anyway."""
        key = 0
        if self.index is not None:
            key_time = self.index.last_key_before(number)
            key = 0 if key_time is None else bisect_left(self.index.times, key_time)
        return max(key, number - self._num_references)

    def _open_stream(self, container: InputContainer) -> VideoStream:
        return _vector_stream(container)

    def _make_index(self) -> FrameIndex | str:
        return index_from_packets(self._container, self._stream, self._see_packet)

    def _see_packet(self, packet: av.Packet) -> None:
        assert packet.pts is not None  # the index would not be made
        codec = self._stream.codec_context
        if codec.name == "h264":
            is_reference = is_h264_reference(memoryview(packet), codec.extradata)
        else:  # all but B-frames, which come after a frame that is shown later
            is_reference = packet.pts > self._latest
            self._latest = max(self._latest, packet.pts)
        self._packets.append((packet.pts, is_reference))

    def _keep(self, frame: av.VideoFrame, is_wanted: bool) -> _DecodedFrame:
        is_b = frame.pict_type == PictureType.B
        is_told = not is_b or self._stream.codec_context.name in _WITH_B_VECTORS
        vectors = cast("MotionVectors | None", side_data(frame, "MOTION_VECTORS")) if is_told else None
        return _DecodedFrame(
            image=self._image(frame) if is_wanted else None,
            vectors=_columns(vectors),
            luma=_luma(frame) if self._num_references > 1 else None,
            size=(frame.height, frame.width),
            pts=frame.pts,
            is_b=is_b,
            orientation=self.orientation_of(frame),
        )

    def _distances_of(self, passed: Sequence[_DecodedFrame]) -> list[Distances]:
        """Of every frame to its references; by the kinds of the frames where the packets do not tell."""
        times = [frame.pts for frame in passed if frame.pts is not None]
        if len(times) == len(passed) and self._distances.keys() >= set(times):
            return [self._distances[time] for time in times]
        kinds = [(number, not frame.is_b) for number, frame in enumerate(passed)]
        kinds.sort(key=lambda kind: not kind[1])  # B-frames are decoded last
        distances = reference_distances(kinds, self._num_references)
        return [distances[number] for number in range(len(passed))]


def _columns(vectors: MotionVectors | None) -> np.ndarray:
    """A frame's vectors, copied: int32 (8, any)."""
    if vectors is None:
        return np.empty((len(FIELDS), 0), np.int32)
    records = vectors.to_ndarray()
    return np.stack([records[field] for field in FIELDS], dtype=np.int32, casting="unsafe")


def _luma(frame: av.VideoFrame) -> np.ndarray | None:
    """Luma of every s-th pixel, uint8 (H / s, W / s); None where the format has no 8-bit luma plane."""
    first = frame.format.components[0]
    if frame.format.is_rgb or not frame.format.is_planar or first.bits != 8:
        return None
    stride = max(1, round(min(frame.height, frame.width) / _LUMA_SIDE))
    rows = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(-1, frame.planes[0].line_size)
    return rows[: frame.height : stride, : frame.width : stride].copy()
