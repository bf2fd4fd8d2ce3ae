"""Checks of a list before a run: labels within range, files that exist, overlap with other lists."""

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..decoding.image_folder import split_pickled
from ..decoding.shards import has_member, split_member
from ..errors import AnnotationError, ShardError
from .entries import MAX_CLASSES
from .text_files import at, refuse_no_file
from .video_list import VideoList

logger = logging.getLogger(__name__)

_STAT_THREADS = 16  # a network file system answers one `stat` in about a millisecond: ask many at a time
_STAT_CHUNK = 1024
_HANDFUL = 5  # videos that may be lost without the root being wrong


def read_class_names(file: Path) -> list[str]:
    """The names in a file of one a line, in label order; `3 name` in the line of label 3 is a name as well.

    Raises:
        AnnotationError: it cannot be read or is not text, holds no names, an empty one, or one twice.
    """
    refuse_no_file(file)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except OSError as error:
        raise AnnotationError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{file}: not UTF-8 text ({error.reason}): save it as UTF-8, one class name a line"
        ) from error
    numbered = [line.split(maxsplit=1) for line in lines]
    if lines and all(len(words) == 2 and words[0] == str(label) for label, words in enumerate(numbered)):
        lines = [words[1] for words in numbered]
    refuse_bad_names(file, lines)
    return lines


def refuse_bad_names(file: Path, names: Sequence[str]) -> None:
    """Refuse names of classes, one a line of `file`, of which one is empty or another's.

    Raises:
        AnnotationError: so it is.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise AnnotationError(f"{at(file, number)}: no class name. Write one a line, without empty lines.")
        if first.setdefault(name, number) != number:
            raise AnnotationError(
                f"{at(file, number)}: '{name}' is the class of line {first[name]} as well. Give every class a name of "
                "its own."
            )


def count_classes(videos: VideoList) -> int:
    """The number of classes of a list: its largest label + 1, or the number of its class names if that is larger.

    Raises:
        AnnotationError: a label too large to be meant.
    """
    if videos.num_classes > MAX_CLASSES:
        sets = videos.label_sets
        highest = [max(labels, default=-1) for labels in sets] if sets is not None else list(videos.labels)
        place = max(range(len(videos)), key=highest.__getitem__)
        raise AnnotationError(
            f"{videos.where(place)}: label {highest[place]} would make that many "
            "classes; correct it, or give --nb_classes"
        )
    return videos.num_classes


def check_labels(videos: VideoList, num_classes: int, *, labels: str = "class") -> None:
    """Refuse a list that does not fit a model of `num_classes` classes.

    Args:
        labels: what the list was read for, one of LABELS.

    Raises:
        AnnotationError: the list has no labels, or several a video where one is wanted, or a label is outside
            0..num_classes - 1.
    """
    if labels == "value":
        return
    if videos.label_sets is not None and labels == "class":
        raise AnnotationError(
            f"{videos.file} has several labels for a video; a classifier of one class takes one: --task multilabel "
            "learns all of them."
        )
    if videos.num_classes == 0:
        raise AnnotationError(f"{videos.file} has no labels. Write one `path label` a line.")
    lowest_is_fine = videos.lowest_label >= 0 or videos.label_sets is not None
    if lowest_is_fine and videos.num_classes <= num_classes:
        return
    for place, label in _placed_labels(videos):
        if not 0 <= label < num_classes:
            raise AnnotationError(
                f"{videos.where(place)}: label {label} does not fit {num_classes} classes "
                f"(0..{num_classes - 1}); the list has {videos.num_classes}. Labels count from 0; check the list and "
                "`--nb_classes`."
            )


def _placed_labels(videos: VideoList) -> Iterator[tuple[int, int]]:
    """Every label with the place of its video in the list."""
    sets = videos.label_sets if videos.label_sets is not None else ((label,) for label in videos.labels)
    for place, labels in enumerate(sets):
        yield from ((place, label) for label in labels)


def check_files(videos: VideoList, *, handful: int | None = None, at_most: int | None = None) -> list[str]:
    """The paths of videos that do not exist; the caller reports them.

    Args:
        videos: the list.
        handful: how many may be missing; by default five, but not all of a list.
        at_most: check about so many, evenly spread over the list, so that the time does not grow with it.

    Raises:
        AnnotationError: more than `handful` are missing, which is a wrong root rather than lost videos; or one that is
            missing is a path of Windows.
    """
    step = 1 if at_most is None else -(-len(videos) // at_most)
    width = _STAT_CHUNK * step
    chunks = (videos.paths[start : start + width : step] for start in range(0, len(videos), width))
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        missing = list(itertools.chain.from_iterable(pool.map(_missing, chunks)))
    _refuse_windows(videos, missing)
    looked_for = len(range(0, len(videos), step))
    if len(missing) > (min(_HANDFUL, looked_for - 1) if handful is None else handful):
        tried = f"Relative paths were joined with {videos.root}." if videos.root else "The list has absolute paths."
        raise AnnotationError(
            f"{videos.file}: {len(missing)} of {looked_for} videos do not exist, for example "
            f"{', '.join(missing[:3])}. {tried} Check the list and `--data_root`."
        )
    return missing


def _refuse_windows(videos: VideoList, missing: Sequence[str]) -> None:
    path = next((path for path in missing if "\\" in path), None)
    if path is not None:
        place = videos.where(list(videos.paths).index(path))
        raise AnnotationError(
            f"{place}: '{path:.200}' does not exist. It looks like one of Windows: write it with `/`."
        )


def count_overlap(videos: VideoList, others: VideoList) -> int:
    """How many of `others` are in `videos` as well, by their paths and spans."""
    return len(set(others.samples()).intersection(videos.samples()))


def refuse_same_videos(chosen_on: VideoList, test: VideoList) -> int:
    """How many test videos are in the list that the tested weights are chosen on, under this name or another.

    Raises:
        AnnotationError: all videos of one list are in the other, so that the test would not be one.
    """
    first, second = (
        {(os.path.realpath(path), span) for path, span in videos.samples()} for videos in (chosen_on, test)
    )
    common = len(first & second)
    if common == min(len(first), len(second)):
        raise AnnotationError(
            f"--test_best: {chosen_on.file} and {test.file} hold the same videos ({common}), so the weights would be "
            "chosen on the test: give a val list of other videos than the test's, or leave --test_best out"
        )
    return common


def _missing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not _is_there(path)]


def _is_there(path: str) -> bool:
    """Whether there is a file, a folder of frames, or a member of a shard; a damaged shard is told when it is read."""
    if split_member(path) is None:
        pickled = split_pickled(path)
        return os.path.exists(pickled[0] if pickled else path)
    try:
        return has_member(path)
    except ShardError as error:
        logger.warning("%s", error)
        return False
