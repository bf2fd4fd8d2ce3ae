"""Readers of lists with columns or fields that have names: csv and jsonl."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import AnnotationError
from .entries import MOST, Entry, Parsed, at, has_extension, raw_lines
from .formats_official import TOO_MUCH_JSON, Where, csv_rows, searched

INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # stricter than `int`, which also takes `1_0`
FRACTION = re.compile(r"[+-]?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?")
SAMPLE = 50  # lines that decide on the format

COLUMNS = {  # what the columns of a csv file, or the fields of a jsonl file, may be called
    "path": ("path", "file_name", "filename", "file", "filepath", "video_path", "video"),
    "label": ("label", "class", "class_id", "label_id", "target", "labels"),
    "label_name": ("label_name", "class_name", "action"),
    "start": ("start", "start_time", "time_start"),
    "end": ("end", "end_time", "time_end"),
}


_NAMES = frozenset(name for names in COLUMNS.values() for name in names)


def read_csv(file: Path, where: Where) -> Parsed:
    """Commas, tabs, semicolons or blanks between the columns, with quotes where needed; with or without a header.

    Without a header: `path,label` or `path`. Labels that are not numbers are names of classes.
    """
    delimiter, columns, has_header, width = csv_layout(file)

    def entries() -> Iterator[Entry]:
        numeric = None
        for number, row in islice(
            csv_rows(file, delimiter, skip_blanks=delimiter != "\t"), 1 if has_header else 0, None
        ):
            if len(row) <= max(columns.values()):
                raise AnnotationError(
                    f"{at(file, number)}: {len(row)} columns where {max(columns.values()) + 1} are needed "
                    f"({', '.join(columns)}). Quote paths that hold a '{_shown(delimiter)}'."
                )
            while len(row) > width and has_header and not row[-1].strip():
                row.pop()
            if len(row) > width or (delimiter == " " and len(row) < width):
                others = "the header has" if has_header else "the others have"
                raise AnnotationError(
                    f"{at(file, number)}: {len(row)} columns where {others} {width}. Quote paths that hold a "
                    f"'{_shown(delimiter)}'."
                )
            record: dict[str, Any] = {name: row[place].strip() for name, place in columns.items()}
            label = record.pop("label", "")
            if label:
                if not numeric and FRACTION.fullmatch(label):
                    raise AnnotationError(f"{at(file, number)}: label '{label}': {write_whole(label)}")
                numeric = bool(INTEGER.fullmatch(label)) if numeric is None else numeric
                record["label"] = _whole_number(file, number, label) if numeric else label
            yield _from_record(file, number, record)

    kind = f"csv, '{_shown(delimiter)}' between columns, " + ("with" if has_header else "no") + " header: "
    return Parsed(kind + " ".join(columns), entries())


def _shown(delimiter: str) -> str:
    return {"\t": "tab", " ": "blank"}.get(delimiter, delimiter)


def write_whole(label: str) -> str:
    """The remedy for a label that is written as a fraction; "" for other labels."""
    if not FRACTION.fullmatch(label):
        return ""
    value = float(label)
    return f"write {value:.0f}, not {label}." if value.is_integer() else "labels are whole numbers from 0."


def _whole_number(file: Path, number: int, label: str) -> int:
    if not INTEGER.fullmatch(label):
        if FRACTION.fullmatch(label):
            raise AnnotationError(f"{at(file, number)}: label '{label}': {write_whole(label)}")
        raise AnnotationError(
            f"{at(file, number)}: label '{label}' is not an integer, as those before it are. Correct it; classes with "
            "such names take a jsonl list, with all labels in quotes."
        )
    return int(label)


def csv_layout(file: Path) -> tuple[str, dict[str, int], bool, int]:
    """Delimiter, place of every known column, whether the first row is a header, and the number of columns."""
    samples = {delimiter: _sample(file, delimiter) for delimiter in (",", "\t", ";", " ")}
    for delimiter, rows in samples.items():
        columns = header_columns(rows[0], blanks=delimiter == " ") if rows else {}
        if "path" in columns:
            return delimiter, columns, True, len(rows[0])
    for delimiter, rows in samples.items():
        if rows and all(len(row) == 2 for row in rows) and _is_path_and_label(rows):
            return delimiter, {"path": 0, "label": 1}, False, 2
    next(csv_rows(file, ",", skip_blanks=True), None)  # says what is wrong if not even the first line is csv
    raise AnnotationError(
        f"{at(file, 1)}: the columns cannot be told from one another. Give the list a header, `path,label` or `path`."
    )


def _sample(file: Path, delimiter: str) -> list[list[str]]:
    """The first rows; those before the first that is not csv with this delimiter."""
    rows: list[list[str]] = []
    try:
        rows.extend(row for _, row in islice(csv_rows(file, delimiter, skip_blanks=delimiter != "\t"), SAMPLE))
    except AnnotationError:
        if not file.is_file():
            raise
    return rows


def header_columns(row: Sequence[str], *, blanks: bool = False) -> dict[str, int]:
    """Place of the columns that have a name of COLUMNS; nothing if it cannot be a header.

    Between `blanks` stand the words of a path as well: one of them that is no column's name makes it no header, unless
    both a path and a label have a column.
    """
    cells = [cell.strip().lower() for cell in row]
    found: dict[str, int] = {}
    if any(INTEGER.fullmatch(cell) or has_extension(cell) for cell in cells):
        return found
    for meaning, names in COLUMNS.items():
        for name in names:
            if name in cells and meaning not in found:
                found[meaning] = cells.index(name)
    if blanks and "label" not in found and any(cell not in _NAMES for cell in cells):
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


def read_jsonl(file: Path, where: Where) -> Parsed:
    """One JSON object a line: path, label (a number, a name, or a list of numbers), label_name, start, end."""

    def entries() -> Iterator[Entry]:
        for number, line in raw_lines(file):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise AnnotationError(f"{at(file, number)}: not JSON ({error.msg}, column {error.colno}).") from error
            except (ValueError, RecursionError) as error:
                raise AnnotationError(f"{at(file, number)}: {TOO_MUCH_JSON}") from error
            if not isinstance(record, dict):
                raise AnnotationError(f'{at(file, number)}: not an object. Write {{"path": ..., "label": ...}}.')
            known = {}
            for meaning, names in COLUMNS.items():
                present = [name for name in names if record.get(name) is not None]
                if present:
                    known[meaning] = record[present[0]]
            yield _from_record(file, number, known)

    return Parsed("jsonl", entries())


def _from_record(file: Path, number: int, record: dict[str, Any]) -> Entry:
    """The entry of a row or an object with fields of the meanings of COLUMNS."""
    path, label = record.get("path"), record.get("label")
    if not isinstance(path, str) or not path:
        raise AnnotationError(f"{at(file, number)}: no path. Every video needs one ({', '.join(COLUMNS['path'][:3])}).")
    if isinstance(label, list):
        label = tuple(label)
    numbers = label if isinstance(label, tuple) else () if label is None or isinstance(label, str) else (label,)
    said = record.get("label_name") or ""
    if not isinstance(said, str):
        raise AnnotationError(f"{at(file, number)}: label_name {said!r:.60} is no text. Numbers go into label.")
    if label is None and said:
        label = said  # names alone are enough
    if not all(type(value) is int for value in numbers):
        raise AnnotationError(f"{at(file, number)}: label {label!r:.60} is neither a whole number nor a class name.")
    if not all(0 <= value < MOST for value in numbers):
        raise AnnotationError(
            f"{at(file, number)}: label {label!r:.60} is negative or too large. Leave it out if there is none."
        )
    name = "" if isinstance(label, tuple | str) or label is None else said
    span = _span(file, number, record.get("start"), record.get("end"))
    return searched(number, path, label, name=name, span=span)


def _span(file: Path, number: int, start: Any, end: Any) -> tuple[float, float] | None:
    if start in (None, "") and end in (None, ""):
        return None
    try:
        first, last = float(start or 0), float("inf" if end in (None, "") else end)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{at(file, number)}: start {start!r:.60}, end {end!r:.60}: not seconds.") from error
    if not 0 <= first < last:
        raise AnnotationError(f"{at(file, number)}: start {start}, end {end}: a part of no length. Give seconds.")
    return first, last
