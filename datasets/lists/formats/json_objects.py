"""Reader of lists of json objects, one a line or an array, whose fields have the names of a csv's columns."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import AnnotationError
from ..entries import Entry, ListPart, Parsed
from ..text_files import TOO_MUCH_JSON, at, numbered_lines, raw_lines, read_json
from .columns import COLUMNS, entry_of, known_names


def read_jsonl(file: Path, part: ListPart) -> Parsed:
    """One JSON object a line, or an array of objects: path, label (a number, a name, or numbers), label_name, span."""
    if any(line.startswith("[") for _, line in islice(numbered_lines(file), 1)):
        records = read_json(file)
        entries = (
            _json_entry(at(file, number, "entry"), number, record, labels=part.labels)
            for number, record in enumerate(records, 1)
        )
        return Parsed("json array", entries, pictures=True, unit="entry")
    lines = ((number, line) for number, line in raw_lines(file) if line.strip())
    objects = (
        _json_entry(at(file, number), number, _json_of(file, number, line), labels=part.labels)
        for number, line in lines
    )
    return Parsed("jsonl", objects, pictures=True)


def _json_of(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{at(file, number)}: not JSON ({error.msg}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{at(file, number)}: {TOO_MUCH_JSON}") from error


def _json_entry(place: str, number: int, record: Any, *, labels: str) -> Entry:
    """The entry of an object, from the fields that have a name of COLUMNS and are not null."""
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
    return entry_of(place, number, known, labels=labels)
