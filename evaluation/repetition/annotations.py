"""UCFRep in its official layout: videos of UCF101 with the boundaries of their repetitions.

    ROOT/annotations/train/v_BenchPress_g01_c02.mat     `label`: temporal_bound, start_frame, end_frame and others
    ROOT/annotations/val/v_BenchPress_g21_c01.mat
    ROOT/imgs/train/BenchPress/v_BenchPress_g01_c02/    000001.png ..., or image_00001.jpg ...

Instead of `imgs` there may be UCF101 itself, `BenchPress/v_BenchPress_g01_c02.avi`. Frames count from 1 in the files,
from 0 here.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from datasets.decoding.image_folder import frame_names
from datasets.decoding.open import open_video
from datasets.errors import AnnotationError, DecodeError
from datasets.lists.video_list import VideoList
from sigma_video.options import Options, option

LEAST_CYCLES = 2
_VIDEO = re.compile(r"v_([A-Za-z]+)_g(\d\d)_c\d\d")
_CLASS_FOLDERS = {"HandStandPushups": "HandstandPushups"}  # files and folder of UCF101 are spelled differently
_FIELDS = ("temporal_bound", "start_frame", "end_frame")


@dataclass(frozen=True, kw_only=True)
class RepetitionDataConfig(Options):
    """Where UCFRep lies."""

    data_root: str = option(help="folder of UCFRep, with annotations/train and annotations/val", metavar="FOLDER")
    video_root: str = option(
        "", "folder of the videos, as frames or as UCF101's files; default: imgs in --data_root", metavar="FOLDER"
    )

    @property
    def videos(self) -> Path:
        """The folder in which videos are looked for."""
        return Path(self.video_root) if self.video_root else Path(self.data_root) / "imgs"


@dataclass(frozen=True)
class Repetitions:
    """The videos of a part.

    Attributes:
        videos: paths; the labels are the counts.
        bounds: of each video, the frames at which its cycles begin and, the last one, end.
        sha256: over names and boundaries.
    """

    videos: VideoList
    bounds: Sequence[tuple[int, ...]]
    sha256: str

    @property
    def names(self) -> list[str]:
        """Of the videos, in their order."""
        return [Path(path).stem for path in self.videos.paths]

    @property
    def counts(self) -> np.ndarray:
        """Repetitions of each video, int64."""
        return np.array(self.videos.labels, np.int64)


def read_repetitions(config: RepetitionDataConfig, part: str) -> Repetitions:
    """The videos of "train" or "val", in the order of their names.

    Raises:
        AnnotationError: no annotations, one that is not readable or not as described, a video that is not there.
    """
    folder = Path(config.data_root) / "annotations" / part
    files = sorted(folder.glob("*.mat")) if folder.is_dir() else []
    if not files:
        raise AnnotationError(f"{folder}: no *.mat of UCFRep. Give the folder that has annotations/ as --data_root.")
    bounds = [_read_bounds(file) for file in files]
    paths = [_find_video(config.videos, part, file) for file in files]
    lines = [f"{file.stem}\t{' '.join(map(str, edges))}\n" for file, edges in zip(files, bounds, strict=True)]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    listed = VideoList(
        file=folder,
        format="UCFRep",
        paths=paths,
        labels=[len(edges) - 1 for edges in bounds],
        root=str(config.videos),
        fingerprint=digest[:12],
        line_numbers=range(1, len(files) + 1),
        num_classes=0,
        unit="file",
    )
    return Repetitions(listed, bounds, digest)


def _read_bounds(file: Path) -> tuple[int, ...]:
    if not _VIDEO.fullmatch(file.stem):
        raise AnnotationError(f"{file}: not named as a video of UCF101, v_CLASS_gNN_cNN.mat. Remove it.")
    try:
        label: Any = loadmat(file)["label"][0, 0]
        bound, start, end = (np.asarray(label[name], np.float64).ravel() for name in _FIELDS)
    except (MatReadError, OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise AnnotationError(
            f"{file}: not an annotation of UCFRep with label.{', '.join(_FIELDS)} ({error!r:.80}). Copy it again."
        ) from error
    if not (np.isfinite(bound).all() and (bound == np.floor(bound)).all() and len(start) == len(end) == 1):
        raise AnnotationError(f"{file}: its boundaries are not frame numbers. Copy it again.")
    if len(bound) <= LEAST_CYCLES or (np.diff(bound) < 1).any() or bound[0] < 1:
        raise AnnotationError(
            f"{file}: temporal_bound {bound.tolist()!s:.60}: not three or more frame numbers from 1 in ascending order."
        )
    if (start[0], end[0]) != (bound[0], bound[-1]):
        raise AnnotationError(
            f"{file}: start_frame and end_frame, {start[0]:g} and {end[0]:g}, are not the first and the last boundary, "
            f"{bound[0]:g} and {bound[-1]:g}. Copy it again."
        )
    return tuple(int(edge) - 1 for edge in bound)


def _candidates(root: Path, part: str, name: str) -> Iterator[Path]:
    spelled = name.split("_")[1]
    for folder in dict.fromkeys((spelled, _CLASS_FOLDERS.get(spelled, spelled))):
        for place in (root / part / folder, root / folder):
            yield place / name
            yield from (place / f"{name}{ending}" for ending in (".avi", ".mp4", ".mkv", ".webm"))


def _find_video(root: Path, part: str, file: Path) -> str:
    found = next((path for path in _candidates(root, part, file.stem) if path.exists()), None)
    if found is None:
        places = f"{root}/{part}/{file.stem.split('_')[1]}/{file.stem}"
        raise AnnotationError(
            f"{file}: its video is not there, as {places}/ with frames or {places}.avi, nor without '{part}'. All "
            "videos have to be: put it there, or give --video_root."
        )
    return str(found)


def check_frames(repetitions: Repetitions) -> None:
    """Refuse videos that do not have all frames of their cycles, or folders of frames with gaps.

    Raises:
        AnnotationError, DecodeError: so it is.
    """
    for path, edges in zip(repetitions.videos.paths, repetitions.bounds, strict=True):
        if os.path.isdir(path):
            number = _frames_of_folder(path)
        else:
            with open_video(path) as video:
                number = video.num_frames
        if number <= edges[-1]:
            raise AnnotationError(
                f"{path}: {number} frames, its repetitions end in frame {edges[-1] + 1}. Extract it again, at its "
                "own rate."
            )


def _frames_of_folder(folder: str) -> int:
    numbers = [int(re.findall(r"\d+", Path(name).stem)[-1]) for name in frame_names(folder)]
    if numbers[0] != 1 or numbers[-1] != len(numbers):
        raise DecodeError(folder, f"{len(numbers)} frames from {numbers[0]} to {numbers[-1]}: have to be all from 1 on")
    return len(numbers)


def check_apart(train: Repetitions, val: Repetitions) -> None:
    """Refuse a video that is in both parts. Raises AnnotationError."""
    both = set(train.names) & set(val.names)
    if both:
        raise AnnotationError(
            f"{train.videos.file}: {len(both)} videos are in {val.videos.file} as well, for example {min(both)}. "
            "Remove them from one."
        )
