"""Reader of lists of json objects, one a line or an array, whose fields have the names of a csv's columns."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import AnnotationError
from ...moments import UNITS, Moment
from ..entries import Entry, ListPart, Parsed
from ..text_files import TOO_MUCH_JSON, at, numbered_lines, raw_lines, read_json
from .columns import COLUMNS, entry_of, known_names


def read_jsonl(file: Path, part: ListPart) -> Parsed:
    """One JSON object a line, or an array of objects: path, label (a number, a name, or numbers), label_name, span.

    With `moments_in` ("frames" or "seconds", the same for all) `moments` has [first, last, class] for every time that
    a class of `label` is seen.
    """
    head = list(islice(numbered_lines(file), 1))
    if any(line.startswith("[") for _, line in head):
        records = read_json(file)
        unit = _moments_in(records[0]) if records else ""
        entries = (
            _json_entry(at(file, number, "entry"), number, record, labels=part.labels, unit=unit)
            for number, record in enumerate(records, 1)
        )
        return Parsed("json array", entries, pictures=True, unit="entry", moments=unit)
    unit = next((_moments_in(_json_of(file, number, line)) for number, line in head), "")
    lines = ((number, line) for number, line in raw_lines(file) if line.strip())
    objects = (
        _json_entry(at(file, number), number, _json_of(file, number, line), labels=part.labels, unit=unit)
        for number, line in lines
    )
    return Parsed("jsonl", objects, pictures=True, moments=unit)


def _moments_in(record: Any) -> str:
    """What the first object says that all moments are counted in; "" if there are none."""
    unit = record.get("moments_in") if isinstance(record, dict) else None
    return str(unit) if unit in UNITS else ""


def _json_of(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{at(file, number)}: not JSON ({error.msg}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{at(file, number)}: {TOO_MUCH_JSON}") from error


def _json_entry(place: str, number: int, record: Any, *, labels: str, unit: str) -> Entry:
    """The entry of an object, from the fields that have a name of COLUMNS and are not null.

    Args:
        unit: that of the first object's moments.
    """
    if not isinstance(record, dict):
        raise AnnotationError(f'{place}: not an object. Write {{"path": ..., "label": ...}}.')
    known = {}
    for meaning in COLUMNS:
        present = [name for name in known_names(meaning, labels) if record.get(name) is not None]
        if present:
            known[meaning] = record[present[0]]
    if "path" not in known:
        fields, wanted = ", ".join(map(str, list(record)[:8])), ", ".join(COLUMNS["path"][:3])
        raise AnnotationError(f"{place}: no path. Every video needs one ({wanted}, ...); the fields are: {fields}.")
    entry = entry_of(place, number, known, labels=labels)
    if (record.get("moments_in") or "") != unit:
        raise AnnotationError(
            f"{place}: moments_in {record.get('moments_in')!r:.40}, {unit or 'none'!r} before: write "
            f"{' or '.join(UNITS)}, the same for every video."
        )
    if not unit:
        return entry
    return entry._replace(moments=_moments(place, record.get("moments"), entry.label))


def _moments(place: str, given: Any, label: Any) -> tuple[Moment, ...]:
    """[[first, last, class], ...] of classes in `label`."""
    classes = label if isinstance(label, tuple) else (label,)
    found: list[Moment] = []
    for moment in given if isinstance(given, list) else [None]:
        values: list[Any] = moment if isinstance(moment, list) and len(moment) == 3 else [None] * 3
        times = [value for value in values[:2] if type(value) in (int, float)]  # JSON's true is a number to Python
        is_one = type(values[2]) is int and values[2] in classes
        if len(times) < 2 or not 0 <= times[0] <= times[1] < float("inf") or not is_one:
            raise AnnotationError(
                f"{place}: moments {moment!r:.60}: not [first, last, class], with a number of {list(classes)!r:.60}."
            )
        found.append((times[0], times[1], values[2]))
    return tuple(found)
