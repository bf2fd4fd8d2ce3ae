"""Readers of the lists that data sets are published with; formats and numbers as their authors describe them."""

import os
import re
from collections.abc import Iterator, Sequence, Set
from itertools import chain
from pathlib import Path
from typing import Any

from ...decoding.media_names import has_extension
from ...errors import AnnotationError
from ...moments import Moment
from ..entries import LABEL_LIMIT, Entry, ListPart, Parsed
from ..text_files import at, csv_rows, numbered_lines, read_json

GYM_LINE = re.compile(r"(\S{11}_E_\d{6}_\d{6}_A_\d{4}_\d{4}(?:\.\w+)?)\s+(\d{1,18})")
_KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
_SSV2_LABELS = ("labels.json", "something-something-v2-labels.json")


# ------------------------------------------------------------------------------------------------- Kinetics


def read_kinetics(file: Path, part: ListPart) -> Parsed:
    """`label,youtube_id,time_start,time_end,split`; classes are numbered in the sorted order of their names.

    Files are called `ID_000010_000020` or `ID` with any extension, in the root, in a folder of the class (spaces or
    underscores), or in these within a folder of the split. Where a video has several parts, as in Kinetics-700, `ID` is
    the uncut video and times are spans of it.
    """
    names, seen, repeated = set[str](), set[str](), set[str]()
    for _, row in _kinetics_rows(file):
        names.update(filter(None, [row.get("label")]))
        video = row["youtube_id"]
        (repeated if video in seen else seen).add(video)
    entries = (_kinetics_entry(file, number, row, repeated) for number, row in _kinetics_rows(file))
    return Parsed("Kinetics csv: label youtube_id time_start time_end", entries, tuple(sorted(names)))


def _kinetics_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    rows = csv_rows(file, ",")
    header = next(rows, (1, list[str]()))[1]
    for number, cells in rows:
        row = dict(zip(header, cells, strict=False))
        if any(row.get(column) is None for column in _KINETICS_COLUMNS):
            raise AnnotationError(
                f"{at(file, number)}: no {' or '.join(_KINETICS_COLUMNS)}, which a csv of Kinetics has. Check the "
                "line, or choose another --list_format."
            )
        yield number, {name: cell.strip() for name, cell in row.items() if name}


def _kinetics_entry(file: Path, number: int, row: dict[str, str], repeated: Set[str]) -> Entry:
    try:
        seconds = [float(row[column]) for column in _KINETICS_COLUMNS[1:]]
        start, end = map(int, seconds)
    except (ValueError, OverflowError) as error:
        raise AnnotationError(
            f"{at(file, number)}: time_start '{row['time_start']}', time_end '{row['time_end']}': not seconds."
        ) from error
    label, video = row.get("label") or None, row["youtube_id"]
    stem = f"{video}_{start:06d}_{end:06d}"
    classes = ["", *([label, label.replace(" ", "_")] if label else [])]
    splits = ["", row.get("split") or ""]
    folders = dict.fromkeys(os.path.join(split, folder) for split in splits for folder in classes)
    return Entry(
        number,
        f"{stem}.mp4",
        label,
        written=f"{video},{start},{end}",
        folders=tuple(folders),
        stems=(stem, video),
        uncut_span=(seconds[0], seconds[1]) if video in repeated else None,
        uncut=video if video in repeated else "",
    )


# ------------------------------------------------------------------------------------------------- SSv2


def read_ssv2(file: Path, part: ListPart) -> Parsed:
    """Something-Something's json: an array of {id, template}; labels.json numbers the templates without brackets."""
    records = read_json(file)
    if not isinstance(records, list) or not all(isinstance(record, dict) and record.get("id") for record in records):
        raise AnnotationError(f"{file}: not an array of objects with an id each, as Something-Something's lists are.")
    labels_file = next((path for name in _SSV2_LABELS if (path := file.with_name(name)).is_file()), None)
    names: tuple[str, ...] = ()
    if any("template" in record for record in records):
        if labels_file is None:
            raise AnnotationError(f"{file}: no labels.json beside it, which numbers the classes. Put it there.")
        names = _ssv2_names(labels_file)
    entries = (
        _ssv2_entry(f"{file}, entry {number}", number, record, names=names, labels_file=labels_file)
        for number, record in enumerate(records, start=1)
    )
    return Parsed("Something-Something json: id template", entries, names, unit="entry")


def _ssv2_names(labels_file: Path) -> tuple[str, ...]:
    """The class names in the order of their numbers, which are texts in the file."""
    numbers = read_json(labels_file)
    if not isinstance(numbers, dict) or not all(re.fullmatch("[0-9]{1,6}", str(value)) for value in numbers.values()):
        raise AnnotationError(f'{labels_file}: not an object {{"class name": "number", ...}}, as that of SSv2 is.')
    names = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
    if [int(numbers[name]) for name in names] != list(range(len(names))):
        raise AnnotationError(f"{labels_file}: the classes are not numbered 0 to {len(names) - 1}.")
    return names


def _ssv2_entry(
    place: str, number: int, record: dict[str, Any], *, names: Sequence[str], labels_file: Path | None
) -> Entry:
    if not isinstance(record["id"], str | int) or not isinstance(record.get("template", ""), str):
        raise AnnotationError(f"{place}: its id or its template is not a string.")
    label = re.sub(r"[\[\]]", "", record["template"]) if "template" in record else None
    if label is not None and labels_file is not None and label not in names:
        raise AnnotationError(f"{place}: template '{label}' is not in {labels_file.name}.")
    video = str(record["id"])
    return Entry(number, f"{video}.webm", label, written=video, folders=("",), stems=(video,))


# ------------------------------------------------------------------------------------------------- UCF101, HMDB51


def read_ucf101(file: Path, part: ListPart) -> Parsed:
    """`Class/v_Class_g01_c01.avi 1`, or without the number; classInd.txt beside it numbers the classes from 1."""
    names = _class_indices(file.parent / "classInd.txt")
    by_spelling = {name.lower(): name for name in names}

    def entries() -> Iterator[Entry]:
        for number, line in numbered_lines(file):
            path, _, label = line.partition(" ")
            name = by_spelling.get(os.path.dirname(path).lower())
            if name is None:
                raise AnnotationError(f"{at(file, number)}: the folder of '{path}' is no class of classInd.txt.")
            if label.strip() and label.strip() != str(names.index(name) + 1):
                raise AnnotationError(
                    f"{at(file, number)}: label {label.strip()}, but {name} is number {names.index(name) + 1} in "
                    "classInd.txt. The numbers of UCF101 count from 1; other lists take --list_format videomae."
                )
            folder, stem = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
            # the folder HandstandPushups holds files v_HandStandPushups_*, and some copies spell the folder so too
            folders = dict.fromkeys((folder, stem.split("_")[1] if stem.count("_") > 1 else folder, ""))
            stems = (os.path.basename(path), stem)
            yield Entry(number, path, name, written=path, folders=tuple(folders), stems=stems)

    return Parsed("UCF101 split, classInd.txt", entries(), names)


def _class_indices(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise AnnotationError(f"{file} does not exist: UCF101's lists need it for their classes. Put it beside them.")
    names: list[str] = []
    for number, line in numbered_lines(file):
        index, _, name = line.partition(" ")
        if index != str(len(names) + 1) or not name.strip():
            raise AnnotationError(f"{at(file, number)}: '{line}' is not '{len(names) + 1} NAME'.")
        if name.strip() in names:
            raise AnnotationError(
                f"{at(file, number)}: '{name.strip()}' is there twice. Give every class its own name."
            )
        names.append(name.strip())
    return tuple(names)


def read_hmdb51(file: Path, part: ListPart) -> Parsed:
    """The folder of `CLASS_test_split1.txt`, lines `video.avi 0|1|2`: 1 for training, 2 for testing, 0 unused."""
    ending = f"_test_split{part.split}.txt"
    lists = sorted(file.glob(f"*{ending}")) if file.is_dir() else []
    if not lists:
        raise AnnotationError(f"{file}: not a folder with lists *{ending} of HMDB51.")
    if not part.part:
        raise AnnotationError(f"{file}: the lists of HMDB51 hold both parts. Say which one: part 'train' or 'test'.")
    names = tuple(path.name.removesuffix(ending) for path in lists)
    wanted = "1" if part.part == "train" else "2"
    videos = (
        (name, video)
        for path, name in zip(lists, names, strict=True)
        for video, mark in _hmdb51_lines(path)
        if mark == wanted
    )

    def entries() -> Iterator[Entry]:
        for number, (name, video) in enumerate(videos, start=1):
            path, stem = os.path.join(name, video), os.path.splitext(video)[0]
            yield Entry(number, path, name, written=path, folders=(name, ""), stems=(video, stem))

    return Parsed(f"HMDB51 split {part.split}, {'train' if wanted == '1' else 'test'}", entries(), names)


def _hmdb51_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Video and mark of every line."""
    for number, line in numbered_lines(file):
        video, _, mark = line.rpartition(" ")
        if mark not in ("0", "1", "2") or not video:
            raise AnnotationError(f"{at(file, number)}: '{line}' is not 'VIDEO 0', 1 or 2.")
        yield video.strip(), mark


# ------------------------------------------------------------------------------------------------- FineGym, Charades


def read_gym(file: Path, part: ListPart) -> Parsed:
    """FineGym's `ID label`, labels from 0, the ID with or without an extension; the file may have another one."""

    def entries() -> Iterator[Entry]:
        for number, line in numbered_lines(file):
            match = GYM_LINE.fullmatch(line)
            if not match:
                raise AnnotationError(f"{at(file, number)}: '{line}' is not 'ID label' of FineGym.")
            video, label = match[1], int(match[2])
            stem = os.path.splitext(video)[0]
            path = video if has_extension(video) else f"{video}.mp4"
            yield Entry(number, path, label, written=stem, folders=("",), stems=(video, stem))

    return Parsed("FineGym: id label", entries())


def read_charades(file: Path, part: ListPart) -> Parsed:
    """SlowFast's frame lists: `video number frame path "labels"`, one a frame; a video has all labels of its frames."""

    def entries() -> Iterator[Entry]:
        rows = csv_rows(file, " ")
        next(rows, None)  # the header
        current, first, folder, frames = "", 0, "", list[set[int]]()
        for number, row in chain(rows, [(0, ["", "", "", "", ""])]):
            if len(row) != 5:
                raise AnnotationError(
                    f"{at(file, number)}: {len(row)} columns in place of video, number, frame, path, labels."
                )
            if row[0] != current:
                if current:
                    yield Entry(first, folder, tuple(sorted(set().union(*frames))), moments=_runs(frames))
                current, first, folder, frames = row[0], number, os.path.dirname(row[3]), []
            frames.append(_charades_labels(file, number, row[4]))

    return Parsed("Charades frames: video number frame path labels", entries(), moments="frames")


def _runs(frames: Sequence[Set[int]]) -> tuple[Moment, ...]:
    """First and last frame of every run of frames with one class, and the class."""
    begun: dict[int, int] = {}
    found: list[Moment] = []
    for number, labels in enumerate([*frames, set()]):
        found += [(begun.pop(label), number - 1, label) for label in sorted(begun.keys() - labels)]
        begun |= dict.fromkeys(labels - begun.keys(), number)
    return tuple(found)


def _charades_labels(file: Path, number: int, text: str) -> set[int]:
    """Labels of a frame, written with commas between; there may be none."""
    try:
        labels = {int(label) for label in text.split(",") if label.strip()}
    except ValueError as error:
        raise AnnotationError(f"{at(file, number)}: labels '{text:.60}' are not numbers.") from error
    if not all(0 <= label < LABEL_LIMIT for label in labels):
        raise AnnotationError(f"{at(file, number)}: labels '{text:.60}': one is negative or too large.")
    return labels


def read_charades_actions(file: Path, part: ListPart) -> Parsed:
    """Charades_v1_train.csv and Charades_v1_test.csv: `id`, `actions` such as `c092 11.90 21.20;c147 0.00 12.60`.

    Charades_v1_classes.txt beside it (`c000 Holding some clothes`) names the classes. Videos are `ID.mp4`, or folders
    `ID` with their frames at 24 a second.
    """
    names = file.with_name("Charades_v1_classes.txt")

    def entries() -> Iterator[Entry]:
        rows = csv_rows(file, ",")
        header = next(rows, (1, list[str]()))[1]
        for number, cells in rows:
            row = dict(zip(header, cells, strict=False))
            if not row.get("id") or row.get("actions") is None:
                raise AnnotationError(f"{at(file, number)}: no id or no actions, which a csv of Charades has.")
            moments = tuple(_action(file, number, text) for text in row["actions"].split(";") if text.strip())
            labels = tuple(sorted({label for _, _, label in moments}))
            video = row["id"]
            yield Entry(number, f"{video}.mp4", labels, written=video, folders=("",), stems=(video,), moments=moments)

    classes = _charades_names(names) if names.is_file() else ()
    return Parsed("Charades csv: id actions", entries(), classes, moments="seconds")


def _action(file: Path, number: int, text: str) -> Moment:
    """`c092 11.90 21.20`."""
    found = re.fullmatch(r"\s*c(\d{1,6}) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)\s*", text)
    if not found:
        raise AnnotationError(f"{at(file, number)}: action '{text:.60}' is not 'cCLASS START END', times in seconds.")
    start, end = float(found[2]), float(found[3])
    if end < start:
        raise AnnotationError(f"{at(file, number)}: action '{text:.60}' ends before it starts.")
    return start, end, int(found[1])


def _charades_names(file: Path) -> tuple[str, ...]:
    names: list[str] = []
    for number, line in numbered_lines(file):
        label, _, name = line.partition(" ")
        if label != f"c{len(names):03d}" or not name.strip():
            raise AnnotationError(f"{at(file, number)}: '{line:.60}' is not 'c{len(names):03d} NAME'.")
        names.append(name.strip())
    return tuple(names)
