"""Readers of the lists of Diving48, HACS, ActivityNet, EPIC-KITCHENS-100 and Moments in Time, as they are published."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ...errors import AnnotationError
from ..entries import Entry, ListPart, Parsed
from ..text_files import at, csv_rows, read_json
from .columns import INTEGER, seconds_of

MOMENTS_LINE = re.compile(r"([^,/]+)/[^,]+\.\w+,\1,\d+,\d+")
EPIC_LISTS = ("EPIC_100_train.csv", "EPIC_100_validation.csv")
EPIC_NAMES = {
    "verb": ("EPIC_100_verb_classes.csv",),
    "noun": ("EPIC_100_noun_classes_v2.csv", "EPIC_100_noun_classes.csv"),
}
_SUBSETS = {"train": "training", "val": "validation", "test": "testing"}
_VOCABULARY = "Diving48_vocab.json"
_CATEGORIES = "moments_categories.txt"
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


def _table(file: Path, columns: Iterable[str], name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a csv with a header, by the names of its columns.

    Raises:
        AnnotationError: it lacks one of `columns`, or a row does.
    """
    rows = csv_rows(file, ",")
    header = [cell.strip() for cell in next(rows, (1, list[str]()))[1]]
    missing = [column for column in columns if column not in header]
    if missing:
        raise AnnotationError(
            f"{at(file, 1)}: no column {', '.join(missing)}, which a list of {name} has; the columns are "
            f"{', '.join(header)}."
        )
    for number, cells in rows:
        if len(cells) != len(header):
            raise AnnotationError(f"{at(file, number)}: {len(cells)} columns where the header has {len(header)}.")
        yield number, {column: cell.strip() for column, cell in zip(header, cells, strict=True)}


# ------------------------------------------------------------------------------------------------- Diving48


def read_diving48(file: Path, part: ListPart) -> Parsed:
    """Diving48's json: an array of {vid_name, label, start_frame, end_frame}; the files are the dives, cut already.

    `Diving48_vocab.json` beside the list, if it is there, names the classes by the four parts of a dive.
    """
    records = read_json(file)
    if not isinstance(records, list):
        raise AnnotationError(f"{file}: not an array of objects with vid_name and label, as Diving48's lists are.")
    vocabulary = file.with_name(_VOCABULARY)
    names = _diving48_names(vocabulary) if vocabulary.is_file() else ()
    entries = (
        _diving48_entry(at(file, number, "entry"), number, record, names) for number, record in enumerate(records, 1)
    )
    return Parsed("Diving48 json: vid_name label", entries, names, unit="entry")


def _diving48_names(file: Path) -> tuple[str, ...]:
    parts = read_json(file)
    if not isinstance(parts, list) or not all(isinstance(words, list) for words in parts):
        raise AnnotationError(f"{file}: not an array with the parts of each dive, as that of Diving48 is.")
    return tuple(" ".join(map(str, words)) for words in parts)


def _diving48_entry(place: str, number: int, record: Any, names: Sequence[str]) -> Entry:
    video = record.get("vid_name") if isinstance(record, dict) else None
    if not isinstance(video, str) or not video:
        raise AnnotationError(f"{place}: no vid_name, which a list of Diving48 has.")
    label = record.get("label")
    if type(label) is not int or label < 0:
        raise AnnotationError(f"{place}: label {label!r:.60} is not a number from 0.")
    name = names[label] if label < len(names) else ""
    return Entry(number, f"{video}.mp4", label, name, written=video, folders=("",), stems=(video,))


# ------------------------------------------------------------------------------------------------- HACS, ActivityNet


def _youtube_entry(number: int, video: str, label: str, subset: str, span: tuple[float, float] | None) -> Entry:
    """A part of `v_ID` or `ID`, in the root or a folder of the class, each within a folder of the subset or not."""
    classes = dict.fromkeys(("", label, label.replace(" ", "_")))
    folders = tuple(dict.fromkeys(os.path.join(outer, inner) for outer in ("", subset) for inner in classes))
    return Entry(
        number, f"v_{video}.mp4", label or None, span=span, written=video, folders=folders, stems=(f"v_{video}", video)
    )


def _is_asked_for(subset: str, part: ListPart) -> bool:
    return not part.part or subset in (part.part, _SUBSETS[part.part])


def read_hacs(file: Path, part: ListPart) -> Parsed:
    """HACS clips: `classname,youtube_id,subset,start,end,label`, label 1 where the class is seen, -1 where it is not.

    Clips in which it is not seen are left out. The list holds all subsets.
    """
    columns = ("classname", "youtube_id", "subset", "start", "end", "label")
    notes: list[str] = []
    names = sorted({row["classname"] for _, row in _table(file, columns, "HACS clips") if row["label"] != "-1"})

    def entries() -> Iterator[Entry]:
        negative = 0
        for number, row in _table(file, columns, "HACS clips"):
            if row["label"] not in ("1", "-1"):
                raise AnnotationError(f"{at(file, number)}: label '{row['label']}' is neither 1 nor -1.")
            negative += row["label"] == "-1" and _is_asked_for(row["subset"], part)
            if row["label"] == "1" and _is_asked_for(row["subset"], part):
                span = seconds_of(at(file, number), start=row["start"], end=row["end"])
                yield _youtube_entry(number, row["youtube_id"], row["classname"], row["subset"], span)
        notes.extend([f"{negative} clips in which the class is not seen are left out"] if negative else [])

    return Parsed("HACS clips: classname youtube_id subset start end", entries(), tuple(names), notes=notes)


def read_activitynet(file: Path, part: ListPart) -> Parsed:
    """ActivityNet's json, which HACS segments have too: `database`: ID: {subset, annotations: [{label, segment}]}.

    Every annotated segment is a sample; videos without any are left out, but for those of a test set without labels.
    """
    content = read_json(file)
    videos = content.get("database") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise AnnotationError(f"{file}: no `database`, an object of videos, which a json of ActivityNet has.")
    names, parts, empty = set[str](), list[tuple[str, str, str, tuple[float, float] | None]](), 0
    for video, record in videos.items():
        subset, annotations = _activitynet_record(f"{file}, video '{video}'", record)
        names.update(label for label, _ in annotations)
        if _is_asked_for(subset, part):
            empty += not annotations
            parts += [(video, label, subset, span) for label, span in annotations]
    notes = [f"{empty} videos without an annotation are left out"] if empty else []
    if part.part == "test" and not parts:
        parts = [
            (video, "", _SUBSETS["test"], None) for video, record in videos.items() if record["subset"] == "testing"
        ]
        notes = []
    entries = (_youtube_entry(number, *of_video) for number, of_video in enumerate(parts, start=1))
    return Parsed("ActivityNet json: label segment", entries, tuple(sorted(names)), notes=notes, unit="segment")


def _activitynet_record(place: str, record: Any) -> tuple[str, list[tuple[str, tuple[float, float] | None]]]:
    """Subset of a video, and its labels and spans."""
    subset = record.get("subset") if isinstance(record, dict) else None
    annotations = record.get("annotations") if isinstance(record, dict) else None
    if not isinstance(subset, str) or not isinstance(annotations, list):
        raise AnnotationError(f"{place}: no subset or no annotations, which a json of ActivityNet has.")
    found = []
    for annotation in annotations:
        segment = annotation.get("segment") if isinstance(annotation, Mapping) else None
        label = annotation.get("label") if isinstance(annotation, Mapping) else None
        if not isinstance(label, str) or not isinstance(segment, list) or len(segment) != 2:
            raise AnnotationError(f"{place}: an annotation without label or segment [start, end].")
        found.append((label, seconds_of(place, start=segment[0], end=segment[1])))
    return subset, found


# ------------------------------------------------------------------------------------------------- EPIC-KITCHENS-100


def read_epic(file: Path, part: ListPart, *, kind: Literal["verb", "noun", "action"]) -> Parsed:
    """EPIC-KITCHENS-100: every narration is a part of a video, from `start_timestamp` to `stop_timestamp`.

    The label is `verb_class`, `noun_class`, or the pair of both. Pairs are numbered in their order over the lists for
    training and validation that lie beside this one. Files of classes beside it give names. A video is
    `P01/videos/P01_01`, `P01/P01_01` or `P01_01`; files cut to narrations are called by them, `P01_01_0`.
    """
    wanted = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
    beside = [path for name in EPIC_LISTS if (path := file.with_name(name)).is_file()]
    names: tuple[str, ...] = ()
    if kind == "action":
        lists = dict.fromkeys([file, *beside])
        pairs = sorted({pair for path in lists for _, row in _table(path, wanted, _EPIC) if (pair := _pair(row))})
        names = tuple(f"{verb} {noun}" for verb, noun in pairs)
    else:
        names = _epic_names(file, kind)

    def entries() -> Iterator[Entry]:
        for number, row in _table(file, wanted, _EPIC):
            yield _epic_entry(at(file, number), number, row, kind=kind, names=names)

    return Parsed(f"EPIC-KITCHENS-100, {kind}s: video_id start_timestamp stop_timestamp", entries(), names)


_EPIC = "EPIC-KITCHENS-100"


def _pair(row: Mapping[str, str]) -> tuple[int, int] | None:
    classes = row.get("verb_class", ""), row.get("noun_class", "")
    return (int(classes[0]), int(classes[1])) if all(map(INTEGER.fullmatch, classes)) else None


def _epic_names(file: Path, kind: str) -> tuple[str, ...]:
    """Names of verbs or nouns from the file of classes, `id,key,...`, beside a list; () if there is none."""
    classes = next((path for name in EPIC_NAMES[kind] if (path := file.with_name(name)).is_file()), None)
    if classes is None:
        return ()
    rows = [(number, row) for number, row in _table(classes, ("id", "key"), f"the classes of {_EPIC}")]
    for place, (number, row) in enumerate(rows):
        if row["id"] != str(place):
            raise AnnotationError(f"{at(classes, number)}: id {row['id']} where {place} comes.")
    return tuple(row["key"] for _, row in rows)


def _epic_entry(place: str, number: int, row: Mapping[str, str], *, kind: str, names: tuple[str, ...]) -> Entry:
    label: int | str | None = None
    if "verb_class" in row:
        pair = _pair(row)
        if pair is None or min(pair) < 0:
            raise AnnotationError(f"{place}: verb_class '{row['verb_class']}', noun_class '{row.get('noun_class')}'.")
        label = f"{pair[0]} {pair[1]}" if kind == "action" else pair[kind == "noun"]
    span = seconds_of(place, start=_seconds(place, row["start_timestamp"]), end=_seconds(place, row["stop_timestamp"]))
    video, person = row["video_id"], row["participant_id"]
    return Entry(
        number,
        f"{person}/{video}.MP4",
        label,
        label_name=names[label] if isinstance(label, int) and label < len(names) else "",
        span=span,
        written=row["narration_id"],
        folders=(os.path.join(person, "videos"), person, ""),
        stems=(row["narration_id"], video),
        uncut_span=span,
    )


def _seconds(place: str, text: str) -> float:
    """`HH:MM:SS.ss` in seconds."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise AnnotationError(f"{place}: '{text:.40}' is not a time HH:MM:SS.ss.")
    return round(int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3]), 6)


# ------------------------------------------------------------------------------------------------- Moments in Time


def read_moments(file: Path, part: ListPart) -> Parsed:
    """Moments in Time: `CLASS/FILE,CLASS,votes,votes against`; `moments_categories.txt` beside it numbers the classes.

    Without that file they are numbered in sorted order. The videos lie in the root, or in `training`, `validation`.
    """
    categories = file.with_name(_CATEGORIES)
    names = _categories(categories) if categories.is_file() else ()

    def entries() -> Iterator[Entry]:
        for number, row in csv_rows(file, ","):
            if len(row) != 4 or "/" not in row[0]:
                raise AnnotationError(f"{at(file, number)}: not `CLASS/FILE,CLASS,votes,votes` of Moments in Time.")
            path, label = row[0].strip(), row[1].strip()
            folder, name = os.path.split(path)
            folders = tuple(os.path.join(outer, folder) for outer in ("", *_SUBSETS.values()))
            stems = (name, os.path.splitext(name)[0])
            yield Entry(number, path, label, written=path, folders=folders, stems=stems)

    return Parsed("Moments in Time: path label votes", entries(), names)


def _categories(file: Path) -> tuple[str, ...]:
    """Names in the order of their numbers, from `name,number` a line."""
    numbers: dict[str, int] = {}
    for number, row in csv_rows(file, ","):
        if len(row) != 2 or not INTEGER.fullmatch(row[1].strip()):
            raise AnnotationError(f"{at(file, number)}: not `name,number`, as {_CATEGORIES} of Moments in Time has.")
        numbers[row[0].strip()] = int(row[1])
    names = tuple(sorted(numbers, key=numbers.__getitem__))
    if [numbers[name] for name in names] != list(range(len(names))):
        raise AnnotationError(f"{file}: the classes are not numbered 0 to {len(names) - 1}.")
    return names
