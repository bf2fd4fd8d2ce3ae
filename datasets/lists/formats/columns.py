"""Readers of lists with columns or fields that have names: csv and jsonl."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ...decoding.media_names import has_extension
from ...errors import AnnotationError
from ..entries import LABEL_LIMIT, Entry, ListPart, Parsed, classes_of, entry_with_search, value_of
from ..text_files import at, csv_rows

INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # stricter than `int`, which also takes `1_0`
_BOX = re.compile(r"[01]?\.[0-9]+|[01]")  # a coordinate, relative to the size
FRACTION = re.compile(r"[+-]?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?")
SAMPLE = 50  # lines that decide on the format

COLUMNS = {  # what the columns of a csv file, or the fields of a jsonl file, may be called; the first one found counts
    "path": (
        *("path", "file_name", "filename", "file", "filepath", "file_path", "video_path", "video", "video_file"),
        *(
            "video_name",
            "video_id",
            "vid_name",
            "vid",
            "clip_path",
            "clip_name",
            "clip",
            "clip_id",
            "image",
            "img_path",
        ),
    ),
    "label": (
        *("label", "class", "class_id", "label_id", "target", "labels", "label_idx", "label_index", "class_idx"),
        *("class_index", "target_id", "tag", "cls", "category", "category_id", "activity", "action_id"),
    ),
    "label_name": ("label_name", "class_name", "classname", "category_name", "action"),
    "start": ("start", "start_time", "time_start", "start_sec", "start_seconds"),
    "end": ("end", "end_time", "time_end", "end_sec", "end_seconds"),
}
_NAMES = frozenset(name for names in COLUMNS.values() for name in names)


def known_names(meaning: str, labels: str) -> tuple[str, ...]:
    """What a column of a meaning may be called, the first choice first: beside a class a target is the number.

    Args:
        labels: what a label is, one of LABELS.
    """
    return ("target", *COLUMNS[meaning]) if (meaning, labels) == ("label", "value") else COLUMNS[meaning]


class CsvLayout(NamedTuple):
    """How a csv file is to be read.

    Attributes:
        delimiter: between the columns.
        columns: meaning, a key of COLUMNS -> index of the column.
        has_header: whether the first row is a header.
        width: number of columns.
        others: names of columns that have none of these meanings.
    """

    delimiter: str
    columns: dict[str, int]
    has_header: bool
    width: int
    others: tuple[str, ...] = ()

    @property
    def shown_delimiter(self) -> str:
        """The delimiter in words."""
        return {"\t": "tab", " ": "blank"}.get(self.delimiter, self.delimiter)


def read_csv(file: Path, part: ListPart) -> Parsed:
    """Commas, tabs, semicolons or spaces between the columns, with quotes where needed; with or without a header.

    Without a header: `path,label` or `path`. Labels that are not numbers are class names.
    """
    layout = csv_layout(file, part.labels)

    def entries() -> Iterator[Entry]:
        has_numbers = None  # whether labels are numbers: the first one decides
        for number, row in islice(_rows(file, layout.delimiter), 1 if layout.has_header else 0, None):
            _check_width(file, number, row, layout=layout)
            record: dict[str, Any] = {name: row[place].strip() for name, place in layout.columns.items()}
            label = record.pop("label", "")
            if part.labels == "classes" and "label" in layout.columns:
                classes = classes_of(label)  # of an empty cell none
                for name in classes:
                    _refuse_number(file, number, str(name))
                record["label"] = list(classes)
            elif label and part.labels == "value":
                record["label"] = value_of(at(file, number), label)
            elif label:
                if FRACTION.fullmatch(label):
                    _refuse_number(file, number, label)
                has_numbers = bool(INTEGER.fullmatch(label)) if has_numbers is None else has_numbers
                record["label"] = _integer(file, number, label) if has_numbers else label
            yield entry_of(at(file, number), number, record, labels=part.labels)

    header = "with" if layout.has_header else "no"
    kind = f"csv, '{layout.shown_delimiter}' between columns, {header} header: {' '.join(layout.columns)}"
    if layout.others:
        kind += f" (not read: {' '.join(layout.others)})"
    return Parsed(kind, entries(), pictures=True)


def _rows(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    return csv_rows(file, delimiter, skip_spaces=delimiter != "\t")


def _check_width(file: Path, number: int, row: list[str], *, layout: CsvLayout) -> None:
    """Raise an AnnotationError for a row with too few or too many columns; empty ones at its end are removed."""
    needed = max(layout.columns.values()) + 1
    if len(row) < needed:
        raise AnnotationError(
            f"{at(file, number)}: {len(row)} columns where {needed} are needed ({', '.join(layout.columns)}). Quote "
            f"paths that hold a '{layout.shown_delimiter}'."
        )
    while len(row) > layout.width and layout.has_header and not row[-1].strip():
        row.pop()
    if len(row) > layout.width or (layout.delimiter == " " and len(row) < layout.width):
        others = "the header has" if layout.has_header else "the others have"
        raise AnnotationError(
            f"{at(file, number)}: {len(row)} columns where {others} {layout.width}. Quote paths that hold a "
            f"'{layout.shown_delimiter}'."
        )


def write_whole(label: str) -> str:
    """The remedy for a label that is written as a fraction; "" for other labels."""
    if not FRACTION.fullmatch(label):
        return ""
    value = float(label)
    return f"write {value:.0f}, not {label}." if value.is_integer() else "labels are whole numbers from 0."


def _refuse_number(file: Path, number: int, label: str) -> None:
    """Raise an AnnotationError for a number that is no class; names and numbers of classes are."""
    if FRACTION.fullmatch(label) or (INTEGER.fullmatch(label) and not label.isdecimal()):
        remedy = write_whole(label) or "labels are whole numbers from 0."
        raise AnnotationError(
            f"{at(file, number)}: label '{label}': {remedy} Numbers to predict take --task regression."
        )


def _integer(file: Path, number: int, label: str) -> int:
    if not INTEGER.fullmatch(label):
        raise AnnotationError(
            f"{at(file, number)}: label '{label}' is not an integer, as those before it are. Correct it; classes with "
            "such names take a jsonl list, with all labels in quotes."
        )
    return int(label)


def csv_layout(file: Path, labels: str = "class") -> CsvLayout:
    """How a csv file is to be read, from its first rows.

    Args:
        labels: what a label is, one of LABELS.

    Raises:
        AnnotationError: it cannot be read, is not csv, or has no header and not two columns, path and label.
    """
    samples = {delimiter: _sample(file, delimiter) for delimiter in (",", "\t", ";", " ")}
    for delimiter, rows in samples.items():
        columns = header_columns(rows[0], labels, spaces=delimiter == " ") if rows else {}
        if "path" in columns:
            _refuse_one_name_twice(file, rows[0], columns)
            others = [name.strip() for place, name in enumerate(rows[0]) if place not in columns.values()]
            return CsvLayout(
                delimiter, columns, has_header=True, width=len(rows[0]), others=tuple(filter(None, others))
            )
    for delimiter, rows in samples.items():
        pairs = [row for row in rows if len(row) == 2]
        is_csv = len(pairs) == len(rows) if delimiter == " " else len(pairs) * 2 > len(rows)
        if pairs and is_csv and _is_path_and_label(pairs):
            return CsvLayout(delimiter, {"path": 0, "label": 1}, has_header=False, width=2)
    next(csv_rows(file, ",", skip_spaces=True), None)  # raises a better error if not even the first line is csv
    if described := describe_columns(file):
        raise AnnotationError(f"{at(file, 1)}: {described}")
    raise AnnotationError(
        f"{at(file, 1)}: the columns cannot be told from one another. Give the list a header, `path,label` or `path`."
    )


def _refuse_one_name_twice(file: Path, header: list[str], columns: dict[str, int]) -> None:
    """Raise an AnnotationError if a column that is read has the name of another."""
    names = [name.strip().lower() for name in header]
    for place in columns.values():
        if names.count(names[place]) > 1:
            raise AnnotationError(f"{at(file, 1)}: two columns are called '{header[place].strip()}'. Rename one.")


def describe_columns(file: Path) -> str:
    """What is to be told of a table that has no column for the path; "" if the file is no table."""
    for delimiter in (",", "\t", ";"):
        rows = _sample(file, delimiter)
        widths = {len(row) for row in rows}
        if len(rows) < 2 or len(widths) != 1 or widths == {1}:
            continue
        if len(rows[0]) in (7, 8) and all(map(_BOX.fullmatch, (cell.strip() for row in rows for cell in row[2:6]))):
            return "boxes of people, as AVA has them: a list for detection, not for classification; it is not read."
        is_header = not any(_is_value(cell.strip()) for cell in rows[0]) and len(set(rows[0])) == len(rows[0])
        if is_header or len(rows[0]) > 2:
            found = (
                "columns " + ", ".join(cell.strip()[:40] for cell in rows[0]) if is_header else "columns without names"
            )
            wanted = "; ".join(f"{meaning}: {', '.join(known[:6])}" for meaning, known in COLUMNS.items())
            return f"{found}; none is known to be the path. Give the list a header; known are {wanted}."
    return ""


def _is_value(cell: str) -> bool:
    """Whether a cell is not the name of a column."""
    return (
        not cell or FRACTION.fullmatch(cell) is not None or INTEGER.fullmatch(cell) is not None or has_extension(cell)
    )


def _sample(file: Path, delimiter: str) -> list[list[str]]:
    """The first rows, up to the first that is not csv with this delimiter."""
    rows: list[list[str]] = []
    try:
        rows.extend(row for _, row in islice(_rows(file, delimiter), SAMPLE))
    except AnnotationError:
        if not file.is_file():
            raise
    return rows


def header_columns(row: Sequence[str], labels: str = "class", *, spaces: bool = False) -> dict[str, int]:
    """Index of the columns that have a name of COLUMNS, by meaning; {} if the row cannot be a header.

    With `spaces` between the cells, a row may be a path with spaces in it: then a cell that is no name of COLUMNS makes
    it no header, unless it names a column for the label.
    """
    cells = [cell.strip().lower() for cell in row]
    if any(INTEGER.fullmatch(cell) or has_extension(cell) for cell in cells):
        return {}
    first = {
        meaning: next((cells.index(name) for name in known_names(meaning, labels) if name in cells), None)
        for meaning in COLUMNS
    }
    found = {meaning: place for meaning, place in first.items() if place is not None}
    if spaces and "label" not in found and not _NAMES.issuperset(cells):
        return {}
    return found


def _is_path_and_label(rows: Sequence[Sequence[str]]) -> bool:
    labels = [row[1].strip() for row in rows]
    if all(map(INTEGER.fullmatch, labels)):
        return True
    return all(
        has_extension(row[0].strip()) and label and not has_extension(label)
        for row, label in zip(rows, labels, strict=True)
    )


def entry_of(place: str, number: int, record: dict[str, Any], *, labels: str) -> Entry:
    """The entry of a csv row or a JSON object, given by the meanings of COLUMNS.

    Args:
        place: file and line, for messages.
        number: the line.
        labels: see `ListPart`.
    """
    path = record.get("path")
    if not isinstance(path, str) or not path:
        raise AnnotationError(f"{place}: no path. Every video needs one ({', '.join(COLUMNS['path'][:3])}).")
    name = record.get("label_name") or ""
    if not isinstance(name, str):
        raise AnnotationError(f"{place}: label_name {name!r:.60} is not a string. Numbers go into label.")
    label = record.get("label")
    if label is None and name:
        label = name  # names alone are enough
    label = tuple(label) if isinstance(label, list) else label
    if labels == "value" and label is not None:
        label = value_of(place, label)
    else:
        _check_label(place, label)
    is_number = not isinstance(label, tuple | str | None)
    span = seconds_of(place, start=record.get("start"), end=record.get("end"))
    return entry_with_search(number, path, label, label_name=name if is_number else "", span=span)


def _check_label(place: str, label: Any) -> None:
    """Raise an AnnotationError for a label that is no class number, class name, tuple of numbers or None."""
    if label is None or isinstance(label, str):
        return
    values = label if isinstance(label, tuple) else (label,)
    if values and isinstance(label, tuple) and all(isinstance(value, str) and value for value in values):
        return
    if not all(type(value) is int for value in values):
        raise AnnotationError(f"{place}: label {label!r:.60} is neither a whole number nor a class name.")
    if not all(0 <= value < LABEL_LIMIT for value in values):
        raise AnnotationError(f"{place}: label {label!r:.60} is negative or too large. Leave it out if there is none.")


def seconds_of(place: str, *, start: Any, end: Any) -> tuple[float, float] | None:
    """A span in seconds from its written start and end; None where both are left out. Raises AnnotationError."""
    if start in (None, "") and end in (None, ""):
        return None
    try:
        first, last = float(start or 0), float("inf" if end in (None, "") else end)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{place}: start {start!r:.60}, end {end!r:.60}: not seconds.") from error
    if not 0 <= first < last:
        raise AnnotationError(f"{place}: start {start}, end {end}: a part of no length. Give seconds.")
    return first, last
