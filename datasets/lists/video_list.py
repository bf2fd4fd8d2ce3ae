"""A list of videos as it was read: paths, labels, class names and spans."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..moments import Moments
from .entries import NO_LABEL
from .text_files import at

Span = tuple[float, float]  # seconds: from the first one on, to before the second one


def describe_span(span: Span) -> str:
    """A span in words."""
    return f"from {span[0]} s on" if span[1] == float("inf") else f"from {span[0]} s to {span[1]} s"


def sample_name(path: str, span: Span | None) -> str:
    """What a video is called in reports: its path, and its span if it is a part."""
    return path if span is None else f"{path} {describe_span(span)}"


def counted(number: int, one: str, more: str = "") -> str:
    """A number and what is counted: "1 class", "2 classes"."""
    return f"{number} {one if number == 1 else more or one + 's'}"


@dataclass(frozen=True)
class MultiHot(Sequence[list[int]]):
    """Sets of classes as 0 or 1 for each of K classes, made when they are asked for."""

    sets: Sequence[tuple[int, ...]]
    num_classes: int

    def __len__(self) -> int:
        return len(self.sets)

    def __getitem__(self, index: Any) -> Any:
        return self.row(self.sets[index])

    def row(self, labels: Iterable[int]) -> list[int]:
        """0 or 1 for each class."""
        row = [0] * self.num_classes
        for label in labels:
            row[label] = 1
        return row


@dataclass(frozen=True)
class VideoList:
    """Videos of one list, in its order. Columns of a large list are read from its index when asked for.

    Attributes:
        file: the list.
        format: how its lines were read, in words.
        paths: absolute, or joined with `root`: a file, a folder of frames, or `SHARD.tar#MEMBER`.
        labels: one for each path; all -1 when the list has none, or several a video. In what `with_targets` gives, what
            is learnt of each video.
        root: the folder that relative paths were joined with; "" when all are absolute.
        fingerprint: start of the SHA-256 of the lines `path<TAB>label`, with the paths as written in the list, and
            `<TAB>start<TAB>end` where a line has a span.
        line_numbers: where the file names each path, from 1, in `unit`s.
        num_classes: highest label + 1, or as many as there are names; 0 for a list without labels.
        class_names: in label order; () if neither the list nor `read_list`'s caller names them.
        label_sets: all labels of each video; None unless the list has several a video.
        values: the number of each video; None unless the list was read for numbers.
        spans: the part of each video that is meant, None for a whole one; None if the list says nothing of it.
        names_from: the file that `class_names` come from.
        lowest_label: the smallest label; -1 for a list without labels, or with several a video.
        moments: when each label of each video is seen; None unless the list says so.
        notes: anomalies of the list, for the log at the start of a run.
        unit: what `line_numbers` count: lines, or what a format without lines has.
    """

    file: Path
    format: str
    paths: Sequence[str]
    labels: Sequence[Any]
    root: str
    fingerprint: str
    line_numbers: Sequence[int]
    num_classes: int
    class_names: tuple[str, ...] = ()
    label_sets: Sequence[tuple[int, ...]] | None = None
    values: Sequence[float] | None = None
    spans: Sequence[Span | None] | None = None
    names_from: str = ""
    lowest_label: int = NO_LABEL
    moments: Moments | None = None
    notes: tuple[str, ...] = ()
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.paths)

    def span(self, index: int) -> Span | None:
        """The part of a video that is meant; None for all of it."""
        return None if self.spans is None else self.spans[index]

    def samples(self) -> Iterator[tuple[str, Span | None]]:
        """Path and span of every video: two parts of one file are two samples."""
        return zip(self.paths, itertools.repeat(None) if self.spans is None else self.spans, strict=False)

    def describe(self) -> str:
        """One line for the start of a run."""
        size = f"{counted(len(self), 'video')}, {self._describe_labels()}"
        return f"{self.file}: format '{self.format}', {size}, fingerprint {self.fingerprint}"

    def where(self, index: int) -> str:
        """Where the list names a video, for messages: "/d/train.csv, line 3"."""
        return at(self.file, self.line_numbers[index], self.unit)

    def label(self, place: int) -> Any:
        """The label of a video as the list has it: a class, a set of classes or a number."""
        columns = (self.label_sets, self.values, self.labels)
        return next(column for column in columns if column is not None)[place]

    def _describe_labels(self) -> str:
        if self.values is None:
            return counted(self.num_classes, "class", "classes")
        return f"numbers from {min(self.values):g} to {max(self.values):g}"

    def with_targets(self, num_classes: int) -> "VideoList":
        """The list with what is learnt of each video in `labels`: 0 or 1 for each class where a video has several, its
        number where the list has numbers, else its class as it was."""
        if self.values is not None:
            return replace(self, labels=self.values)
        return self if self.label_sets is None else replace(self, labels=MultiHot(self.label_sets, num_classes))

    def describe_lines(self, count: int = 3) -> list[str]:
        """How the first lines were read, and the notes."""
        lines = []
        for place in range(min(count, len(self))):
            label = self.label(place)
            name = f" ({self.class_names[label]})" if self.class_names and isinstance(label, int) and label >= 0 else ""
            span = self.span(place)
            part = f", {describe_span(span)}" if span else ""
            meaning = "no label" if label == NO_LABEL and self.values is None else f"label {label}{name}"
            lines.append(f"{self.unit} {self.line_numbers[place]}: {self.paths[place]}, {meaning}{part}")
        return lines + list(self.notes)
