"""Parts of published lists that the paper's benchmarks use (SEVERE, arXiv 2203.14221): few samples, some labels."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePath
from types import MappingProxyType

import numpy as np

from ..errors import AnnotationError
from .video_list import VideoList

SUBSET_SIZE = 1000
SUBSET_SEED = 99999
GYM_LABELS = MappingProxyType({"FXS1": range(6, 17), "UBS1": range(74, 89)})  # labels of GYM99, in their new order


@dataclasses.dataclass(frozen=True)
class KnownSubset:
    """What SUBSET_SIZE samples of a published training list have to be.

    Attributes:
        num_videos: of the whole list.
        size: of the subset: as many of each class, so a little more than asked for.
        fingerprint: `fingerprint_of` the subset's names, in its order.
    """

    num_videos: int
    size: int
    fingerprint: str


KNOWN_SUBSETS = MappingProxyType(
    {
        "UCF101": KnownSubset(9_537, 1_010, "9c0db60953908a9f"),
        "GYM99": KnownSubset(20_484, 1_089, "7395b788a7426283"),
    }
)
_UCF101_NAME = re.compile(r"v_([A-Za-z]+)_g\d\d_c\d\d\.avi")
_UCF101_FOLDERS = MappingProxyType({"HandStandPushups": "HandstandPushups"})


def draw_subset(labels: Sequence[int], *, size: int = SUBSET_SIZE, seed: int = SUBSET_SEED) -> list[int]:
    """Indices into a training list of its subset of `size` samples: ceil(size / classes) of every class.

    Classes come in the order of their labels; within a class NumPy's legacy generator chooses without replacement from
    its places in list order. A class with fewer videos gives all of them. The list has to be whole: leaving out videos
    that are missing on disk would draw others.

    Raises:
        AnnotationError: videos without a label.
    """
    values = np.asarray(labels, np.int64)
    if len(values) == 0 or values.min() < 0:
        raise AnnotationError("a subset needs a list in which every video has a label")
    classes = np.unique(values)
    per_class = -(-size // len(classes))
    rng = np.random.RandomState(seed)
    places: list[int] = []
    for label in classes:
        own = np.flatnonzero(values == label)
        places += rng.choice(own, min(per_class, len(own)), replace=False).tolist()
    return places


def fingerprint_of(names: Sequence[str]) -> str:
    """Start of the SHA-256 of names, one a line, as the subsets are published."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def check_known_subset(data_set: str, videos: VideoList, places: Sequence[int]) -> None:
    """Refuse a subset of a published list that is not the published one, where that is known.

    Args:
        data_set: name in the catalogue.
        videos: the whole training list.
        places: what `draw_subset` drew from it.

    Raises:
        AnnotationError: the list has another number of videos, or other names or another order.
    """
    known = KNOWN_SUBSETS.get(data_set)
    if known is None:
        return
    if len(videos) != known.num_videos:
        raise AnnotationError(
            f"{videos.file}: {len(videos)} videos, the training list of {data_set} has {known.num_videos}. The subset "
            "is drawn from the whole list; use the published one."
        )
    names = [_published_name(data_set, videos.paths[place]) for place in places]
    if fingerprint_of(names) != known.fingerprint:
        raise AnnotationError(
            f"{videos.file}: the subset of {len(names)} videos is not the published one (fingerprint "
            f"{fingerprint_of(names)}, published {known.fingerprint}): its order or its names differ from "
            "the published list's."
        )


def _published_name(data_set: str, path: str) -> str:
    """What the published list calls a video: `name.avi`, and of UCF101 `Class/name.avi`.

    Neither the extension nor the folder on disk counts: the class is in the name of the file, spelled otherwise than
    the folder is in the published list for one of them.
    """
    name = PurePath(path.partition(".tar#")[2] or path).with_suffix(".avi").name
    match = _UCF101_NAME.fullmatch(name) if data_set == "UCF101" else None
    return f"{_UCF101_FOLDERS.get(match[1], match[1])}/{name}" if match else name


def select_labels(videos: VideoList, labels: Sequence[int]) -> VideoList:
    """The videos with certain labels, renumbered in the order given: `GYM_LABELS["FXS1"]` of GYM99.

    Raises:
        AnnotationError: one of the labels has no video.
    """
    new = {label: place for place, label in enumerate(labels)}
    places = np.flatnonzero(np.isin(np.asarray(videos.labels, np.int64), np.asarray(labels, np.int64))).tolist()
    absent = set(labels) - {videos.labels[place] for place in places}
    if absent:
        raise AnnotationError(f"{videos.file}: no video with label {min(absent)}: is this the list of all classes?")
    chosen = select(videos, places)
    names = tuple(videos.class_names[label] for label in labels) if videos.class_names else ()
    return dataclasses.replace(
        chosen,
        labels=tuple(new[label] for label in chosen.labels),
        num_classes=len(new),
        class_names=names,
        lowest_label=0,
    )


def select(videos: VideoList, places: Sequence[int]) -> VideoList:
    """The videos at these places, in this order. The fingerprint is that of the paths as they are."""
    paths = tuple(videos.paths[place] for place in places)
    labels = tuple(videos.labels[place] for place in places)
    spans = None if videos.spans is None else tuple(videos.spans[place] for place in places)
    written_spans = ["" if span is None else f"\t{span[0]}\t{span[1]}" for span in spans or [None] * len(places)]
    lines = "".join(f"{path}\t{label}{span}\n" for path, label, span in zip(paths, labels, written_spans, strict=True))
    return dataclasses.replace(
        videos,
        paths=paths,
        labels=labels,
        line_numbers=tuple(videos.line_numbers[place] for place in places),
        label_sets=None if videos.label_sets is None else tuple(videos.label_sets[place] for place in places),
        spans=spans,
        moments=None if videos.moments is None else videos.moments.of(places),
        fingerprint=hashlib.sha256(lines.encode()).hexdigest()[:12],
        notes=(),
    )
