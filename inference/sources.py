"""Videos that a command line names: files, folders of videos and lists, and their parts by the second."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.decoding.media_names import is_image, is_video
from datasets.decoding.open import open_video
from datasets.decoding.reader import is_shard_member
from datasets.errors import AnnotationError, DecodeError
from datasets.lists.entries import LABELS
from datasets.lists.folders import scan_folder
from datasets.lists.read import read_list
from datasets.lists.spans import frames_within, times_within
from datasets.lists.video_list import Span, VideoList

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A video, or the part of it from one second to another."""

    path: str
    span: Span | None = None


def find_samples(sources: Iterable[str | Path], *, data_root: str = "") -> list[Sample]:
    """The videos of files, folders and lists, in this order; those of a folder by name.

    Args:
        sources: a video, a picture, a folder of frames, a folder of videos, or a list of any known format, whose labels
            are not looked at.
        data_root: folder of the videos of lists.

    Raises:
        AnnotationError: nothing there, or no video in it.
    """
    return [sample for source in sources for sample in _find(str(source), data_root)]


def _find(source: str, data_root: str) -> list[Sample]:
    path = Path(source)
    if is_shard_member(source) or (path.is_file() and (is_video(path.name) or is_image(path.name))):
        return [Sample(source)]
    if path.is_dir():
        return _find_in_folder(path)
    if not path.exists():
        raise AnnotationError(f"{source}: no such video, folder or list. Check the path.")
    return [Sample(path, span) for path, span in _read_any(source, data_root).samples()]


def _read_any(source: str, data_root: str) -> VideoList:
    """A list of any task's labels, which are not looked at; raises what is wrong with it as one of classes."""
    errors = []
    for labels in LABELS:
        try:
            return read_list(source, root=data_root, labels=labels)
        except AnnotationError as error:
            errors.append(error)
    raise errors[0]


def _find_in_folder(folder: Path) -> list[Sample]:
    scan = scan_folder(str(folder), frames_from=1)
    if scan.items and all(item.kind == "picture" for item in scan.items):
        return [Sample(str(folder))]  # the frames of one video
    if not scan.items:
        raise AnnotationError("; ".join([f"{folder}: no videos in it", *scan.notes()]) + ".")
    for note in scan.notes():
        logger.warning("%s: %s", folder, note)
    return [Sample(str(folder / item.path)) for item in scan.items]


def windows_of(sample: Sample, length: float, stride: float, *, decoder: str = "auto") -> list[Sample]:
    """Windows of a sample, `length` seconds each, that start `stride` seconds apart and end before the sample does.

    Raises:
        DecodeError: it cannot be read, its frames have no times, or it is shorter than a window.
    """
    with open_video(sample.path, decoder=decoder) as video:
        frames = frames_within(video, sample.path, sample.span)
        times = times_within(video, sample.path, frames)
    shown = float(np.median(np.diff(times))) if len(times) > 1 else 0.0  # for how long the last frame is
    first, last = float(times[0]), float(times[-1]) + shown
    if last - first < length - 1e-6:
        raise DecodeError(sample.path, f"it has {last - first:.2f} s, a window {length:g} s: give a shorter --window")
    starts = first + stride * np.arange(int((last - first - length + 1e-6) / stride) + 1)
    return [Sample(sample.path, (round(float(start), 6), round(float(start) + length, 6))) for start in starts]


def as_list(samples: Sequence[Sample]) -> VideoList:
    """Samples as a list without labels."""
    return VideoList(
        file=Path("the command line"),
        format="",
        paths=[sample.path for sample in samples],
        labels=[-1] * len(samples),
        root="",
        fingerprint="",
        line_numbers=range(1, len(samples) + 1),
        num_classes=0,
        spans=[sample.span for sample in samples],
    )
