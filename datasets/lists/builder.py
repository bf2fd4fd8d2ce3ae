"""Builds the checked columns of a list, labels, paths, lines and spans, from its entries."""

import hashlib
import re
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import AnnotationError
from ..moments import Moment
from .columns import Columns
from .entries import LABEL_LIMIT, MAX_CLASSES, NO_LABEL, Entry, Label
from .notes import notes_on, notes_on_names
from .text_files import at

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NOTHING = frozenset(("nan", "none", "null", "nil", "na", "n/a", "<na>", "-", "?"))  # in place of a number
_WHOLE = (float("nan"), float("nan"))  # span of a whole video


class ListBuilder:
    """Collects the entries of a list, checks that they are consistent, and returns its columns.

    Args:
        file: the list, for messages.
        class_names: names in label order that the labels have to agree with; none: names get numbers in sorted order.
        source: what these names come from, for messages.
        labels: what a label is, one of LABELS.
    """

    def __init__(self, file: Path, class_names: Sequence[str] = (), source: str = "", *, labels: str = "class") -> None:
        self.file, self.source, self.unit, self.labels_are = file, source, "line", labels
        self.names: tuple[str, ...] = ()
        self.numbers: dict[str, int] = {}
        self.propose_names(class_names)
        self.given = bool(class_names)
        self.kind: str | None = None  # "number", "name", "set of numbers", "set of names" or "value"
        self.first_line = self.first_unlabelled = self.num_unlabelled = 0
        self.paths, self.path_ends, self.labels, self.lines = bytearray(), array("q"), array("q"), array("q")
        self.set_values, self.set_ends, self.spans = array("q"), array("q"), array("d")
        self.values = array("d")
        self.label_names: dict[int, str] = {}
        self.moments: list[tuple[Moment, ...]] = []
        self.digest = hashlib.sha256()

    def propose_names(self, class_names: Sequence[str]) -> None:
        """Give the names that the data set itself says. Names given before go first, but have to be the same ones.

        Raises:
            AnnotationError: they are not.
        """
        if not self.names:
            self.names = tuple(class_names)
            self.numbers = {name: number for number, name in enumerate(self.names)}
        strange = [name for name in class_names if name not in self.numbers]
        if strange:
            raise AnnotationError(
                f"{self.file}: {len(strange)} of its {len(class_names)} classes are none of the {len(self.names)} of "
                f"{self.source}, for example '{strange[0]}'. Correct {self.source}, or remove it."
            )

    def add(self, entry: Entry, path: str) -> None:
        """Take an entry whose video lies at `path`.

        Raises:
            AnnotationError: its label is of another kind than those before, or does not fit the class names.
        """
        try:
            self.paths += path.encode()
            label = NO_LABEL if entry.label is None else entry.label
            written_label = ",".join(map(str, label)) if isinstance(label, tuple) else label
            span = "" if entry.span is None else f"\t{entry.span[0]}\t{entry.span[1]}"
            moments = "".join(f"\t{first}:{last}:{label}" for first, last, label in entry.moments)
            self.digest.update(f"{entry.written or entry.path}\t{written_label}{span}{moments}\n".encode())
        except UnicodeEncodeError as error:
            raise AnnotationError(f"{self.at(entry)}: the path is not valid Unicode ({path!a})") from error
        self.path_ends.append(len(self.paths))
        self.labels.append(self._label_of(entry))
        self.lines.append(entry.line)
        self.set_ends.append(len(self.set_values))
        self.spans.extend(entry.span or _WHOLE)
        self.moments.append(entry.moments)

    def at(self, entry: Entry) -> str:
        """Where the list names an entry, the beginning of an error message."""
        return at(self.file, entry.line, self.unit)

    def _label_of(self, entry: Entry) -> int:
        label = entry.label
        if label is None:
            self.first_unlabelled = self.first_unlabelled or entry.line
            self.num_unlabelled += 1
            return NO_LABEL
        if self.labels_are == "classes" and not isinstance(label, tuple):
            label = (label,)  # type: ignore[assignment]  # of a list with one class a video
        kind = self._kind_of(label)
        if kind == "set of numbers" and not label and self.kind == "set of names":
            return NO_LABEL  # none of the names
        if kind == "set of names" and self.kind == "set of numbers" and not self.set_values:
            self.kind = kind  # so far no video had any
        if self.kind not in (None, kind):
            raise AnnotationError(
                f"{self.at(entry)}: label {label!r} is a {kind}, that of {self.unit} {self.first_line} a "
                f"{self.kind}. Write labels of one kind."
            )
        if self.kind is None:
            self.kind, self.first_line = kind, entry.line
        if isinstance(label, tuple):
            self.set_values.extend(self._number_of(x, entry) if isinstance(x, str) else x for x in label)
            return NO_LABEL
        if isinstance(label, float) or kind == "value":
            self.values.append(float(label))
            return NO_LABEL
        if isinstance(label, str):
            return self._number_of(label, entry)
        if entry.label_name:
            self._check_name(label, entry)
        return label

    def _kind_of(self, label: Label) -> str:
        if isinstance(label, tuple):
            return "set of names" if label and isinstance(label[0], str) else "set of numbers"
        if isinstance(label, str):
            return "name"
        return "value" if self.labels_are == "value" else "number"

    def _number_of(self, name: str, entry: Entry) -> int:
        if self.names and name not in self.numbers:
            raise AnnotationError(
                f"{self.at(entry)}: label '{name}' is none of the {len(self.names)} classes of {self.source}. "
                "Correct it, or add the class there."
            )
        return self.numbers.setdefault(name, len(self.numbers))

    def _check_name(self, label: int, entry: Entry) -> None:
        if label >= MAX_CLASSES:
            raise AnnotationError(
                f"{self.at(entry)}: label {label} of '{entry.label_name}' would make that many classes. Correct it."
            )
        known = self.names[label] if label < len(self.names) else None if self.names else entry.label_name
        before = self.label_names.setdefault(label, entry.label_name)
        if before != entry.label_name or known != entry.label_name:
            other = f"in {self.source} it is '{known}'" if known != entry.label_name else f"before it was '{before}'"
            raise AnnotationError(
                f"{self.at(entry)}: label {label} is called '{entry.label_name}', {other}. Give every class one number."
            )

    def finish(self) -> Columns:
        """The columns of all entries.

        Raises:
            AnnotationError: there are none, or some have labels and others have not.
        """
        if not self.lines:
            raise AnnotationError(f"{self.file} lists no videos. Write one `path label` a line.")
        if 0 < self.num_unlabelled < len(self.lines):
            self.refuse_unlabelled()
        if self.kind == "name" and not self.names and all(map(_INTEGER.fullmatch, self.numbers)):
            self._take_names_as_numbers()
        elif self.kind == "name" and not self.names:
            self._refuse_nothing()
        labels = np.frombuffer(self.labels, np.int64)
        arrays: dict[str, np.ndarray] = {
            "paths": np.frombuffer(self.paths, np.uint8),
            "path_ends": np.frombuffer(self.path_ends, np.int64),
            "labels": self._sorted(labels) if self.kind == "name" else labels,
            "lines": np.frombuffer(self.lines, np.int64),
        }
        if self.kind in ("set of numbers", "set of names"):
            values = np.array(self.set_values, np.int64)
            arrays["set_values"] = self._sorted(values) if self.kind == "set of names" else values
            arrays["set_ends"] = np.frombuffer(self.set_ends, np.int64)
        if self.kind == "value":
            arrays["values"] = np.frombuffer(self.values, np.float64)
        spans = np.frombuffer(self.spans, np.float64).reshape(-1, 2)
        if not np.isnan(spans).all():
            arrays["spans"] = spans
        labels = arrays.get("set_values", labels)
        highest = int(labels.max()) if len(labels) else NO_LABEL
        names = self._class_names(highest)
        facts = {
            "class_names": names,
            "names_from": self.source if self.given else str(self.file),
            "num_classes": max(highest + 1, len(names)) if self.kind else 0,
            "lowest_label": int(arrays["labels"].min()),
            "fingerprint": self.digest.hexdigest()[:12],
            "moments": self.moments if any(self.moments) else [],
            "notes": notes_on(arrays, names, highest, unit=self.unit)
            + (notes_on_names(names) if self.kind == "name" else []),
        }
        return Columns(arrays, facts)

    def refuse_unlabelled(self) -> None:
        """Raise the error about the lines without a label."""
        place = at(self.file, self.first_unlabelled, self.unit)
        raise AnnotationError(
            f"{place}: no label ({self.num_unlabelled} of {len(self.lines)} lines have none). Write `path label` on "
            "every line, or for pre-training the path alone on every line."
        )

    def _refuse_nothing(self) -> None:
        """Raise an AnnotationError where all labels are numbers but for words that stand for no label."""
        words = [name for name in self.numbers if not _INTEGER.fullmatch(name)]
        if len(words) < len(self.numbers) and all(word.lower() in _NOTHING for word in words):
            where = at(self.file, self.lines[self.labels.index(self.numbers[words[0]])], self.unit)
            raise AnnotationError(f"{where}: label '{words[0]}' among numbers. Leave the line out if it has no label.")

    def _take_names_as_numbers(self) -> None:
        """Labels that are texts, as of json, but all of them whole numbers."""
        values = {number: int(name) if len(name) < 20 else LABEL_LIMIT for name, number in self.numbers.items()}
        for number, value in values.items():
            if not 0 <= value < LABEL_LIMIT:
                place = self.labels.index(number)
                name = list(self.numbers)[number]
                where = at(self.file, self.lines[place], self.unit)
                raise AnnotationError(
                    f"{where}: label '{name:.60}' is negative or too large. Leave it out if there is none."
                )
        self.labels = array("q", (values[number] for number in self.labels))
        self.kind = "number"

    def _sorted(self, labels: np.ndarray) -> np.ndarray:
        """Numbers of names in order of appearance -> those in sorted order, unless the names were given."""
        if self.names:
            return labels
        rank = {name: number for number, name in enumerate(sorted(self.numbers))}
        return np.array([rank[name] for name in self.numbers], np.int64)[labels]

    def _class_names(self, highest: int) -> list[str]:
        if self.names:
            return list(self.names)
        if self.kind in ("name", "set of names"):
            return sorted(self.numbers)
        if not self.label_names:
            return []
        return [self.label_names.get(label, str(label)) for label in range(highest + 1)]
