"""What is odd about a list and no error, in words."""

import itertools
import os
import re
from collections.abc import Sequence

import numpy as np

_SPELLED = re.compile(rb"//|\./")  # paths that may be another's: a//b, a/./b, ./b


def notes_on_names(names: Sequence[str]) -> list[str]:
    """Of names that look like several: with --task multilabel they would be."""
    joined = [name for name in names if re.search(r"[;|]", name)]
    return [f"'{joined[0]}' is one class here; several classes a video take --task multilabel"] if joined else []


def notes_on(arrays: dict[str, np.ndarray], names: Sequence[str], highest: int, *, unit: str) -> list[str]:
    """Anomalies that are not errors: duplicates, and classes without videos.

    Args:
        arrays: the columns of the list, see `Columns`.
        names: of its classes.
        highest: the highest label.
        unit: what a list calls its entries.
    """
    notes = []
    ends = arrays["path_ends"].tolist()
    blob = memoryview(arrays["paths"])  # type: ignore[arg-type]
    spans = map(bytes, arrays["spans"]) if "spans" in arrays else itertools.repeat(b"")
    places = zip([0, *ends], ends, spans, strict=False)
    same = os.path.normpath if _SPELLED.search(blob) else bytes
    marks = np.fromiter((hash(same(bytes(blob[start:end])) + span) for start, end, span in places), np.int64, len(ends))
    found, group = np.unique(marks, return_inverse=True)
    if len(found) < len(marks):
        what = "spans" if "spans" in arrays else "paths"
        notes.append(f"{len(marks) - len(found)} {what} are listed more than once")
        labelled = np.unique(np.stack([group, _label_codes(arrays)]), axis=1)[0]
        if contrary := np.flatnonzero(np.bincount(labelled) > 1).tolist():
            lines = arrays["lines"][group == contrary[0]].tolist()
            notes[-1] += f", {len(contrary)} of them with different labels ({unit} {lines[0]} and {unit} {lines[-1]})"
            if not {"values", "set_ends"} & arrays.keys():
                notes[-1] += "; for several classes a video write `0;3`"
    labels = arrays.get("set_values", arrays["labels"])
    used = np.unique(labels[labels >= 0])
    count = max(highest + 1, len(names))
    if 0 < len(used) < count <= 100 * len(ends):
        gaps = np.setdiff1d(np.arange(count), used)
        shown = ", ".join(map(str, gaps[:5].tolist())) + (", ..." if len(gaps) > 5 else "")
        notes.append(f"{len(gaps)} of {count} classes have no video ({shown})")
    return notes


def _label_codes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Of every video a number that is equal where all of its labels are."""
    if "values" in arrays:
        return np.unique(arrays["values"], return_inverse=True)[1]
    if "set_ends" not in arrays:
        return arrays["labels"]
    ends = arrays["set_ends"].tolist()
    texts = [arrays["set_values"][start:end].tobytes() for start, end in zip([0, *ends], ends, strict=False)]
    return np.unique(np.array(texts, object), return_inverse=True)[1]
