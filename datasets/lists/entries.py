"""What the readers of all list formats return: one entry per video."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..decoding.media_names import has_extension
from ..errors import AnnotationError
from ..moments import Moment

NO_LABEL = -1
LABEL_LIMIT = 10**18  # above all labels, which have to fit 64 bits
MAX_CLASSES = 100_000  # more than any list of videos has: a larger label is a typing error

# What the lists say of a video: one class, any number of classes, or a value.
LABELS = ("class", "classes", "value")
Label = int | float | str | tuple[int, ...] | tuple[str, ...] | None


class Entry(NamedTuple):
    """One video of a list.

    Attributes:
        line: where the list names it, from 1; its place in the list for formats without lines.
        path: its path, absolute or relative to the root.
        label: a class number, a class name, a tuple of these for a video with several labels, a value, None without.
        label_name: the name of class `label`, if the list gives both.
        span: (start, end) in seconds of a part of the video; None for the whole video.
        written: what the list says in place of `path`, for the fingerprint; "" if `path` itself.
        folders, stems: where to look for the video: in the first of these folders (relative to the root) that has one
            of these names with any extension. Without folders the video is at `path`.
        uncut_span: the part that is meant where the video is found under the last of `stems`, the name of the uncut
            video, while the others are names of the part; it then takes the place of `span`.
        uncut: the name of the uncut video if all its parts have to be found in the same way, "" if that is no matter.
        moments: when each class of `label` is seen, see `Parsed.moments`; () where the list does not say.
    """

    line: int
    path: str
    label: Label = None
    label_name: str = ""
    span: tuple[float, float] | None = None
    written: str = ""
    folders: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    uncut_span: tuple[float, float] | None = None
    uncut: str = ""
    moments: tuple[Moment, ...] = ()


class Parsed(NamedTuple):
    """What a reader returns for a list.

    Attributes:
        format: how it was read, for the log at the start of a run.
        entries: in the list's order.
        class_names: in label order, from files beside the list; () where only the labels give them.
        root: the folder that the paths start from, where the list itself is a folder; else "".
        notes: what else is to be told of the list; it may grow while the entries are read.
        pictures: whether files that are named without extension may be pictures, if no videos are found.
        unit: what `Entry.line` counts.
        moments: "frames" or "seconds" where entries say when each of their classes is seen, else "".
    """

    format: str
    entries: Iterable[Entry]
    class_names: tuple[str, ...] = ()
    root: str = ""
    notes: Sequence[str] = ()
    pictures: bool = False
    unit: str = "line"
    moments: str = ""


@dataclass(frozen=True)
class ListPart:
    """Which part of a data set to read, where one list or folder holds several.

    Attributes:
        part: "train", "val" or "test"; "" if the list is a single part.
        split: number of the split, from 1.
        labels: what a label is, one of LABELS.
    """

    part: str = ""
    split: int = 1
    labels: str = "class"


def value_of(place: str, label: Any) -> float:
    """A number, as a target of regression. Raises AnnotationError."""
    try:
        value = math.nan if isinstance(label, bool) else float(label)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"{place}: label {label!r:.60} is not a number, which --task regression learns.")
    return value


def classes_of(cell: str) -> tuple[int, ...] | tuple[str, ...]:
    """The classes in a cell: `3;7` or `3|7`, numbers or names; numbers may have blanks or commas between them."""
    separator = r"[;|,\s]" if re.fullmatch(r"[\d;|,\s]*", cell) else r"[;|]"
    words = [word.strip() for word in re.split(separator, cell) if word.strip()]
    return tuple(map(int, words)) if all(word.isdecimal() for word in words) else tuple(words)


def entry_with_search(
    line: int,
    path: str,
    label: Label,
    *,
    label_name: str = "",
    span: tuple[float, float] | None = None,
) -> Entry:
    """An entry whose file is looked for with any extension if the list gives none."""
    if has_extension(path):
        return Entry(line, path, label, label_name, span)
    folder, stem = os.path.split(path)
    return Entry(line, path, label, label_name, span, folders=(folder,), stems=(stem,))
