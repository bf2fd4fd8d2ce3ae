"""Formats of list files: their readers, and which one a file has.

A reader takes (file, ListPart) and returns `Parsed`. `detect` never chooses between two readings of the same columns:
lists of three columns, `folder frames label` or `path start length`, have to be named with --list_format.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from ...decoding.media_names import TWO_FILES, has_extension
from ...errors import AnnotationError
from ..entries import Entry, ListPart, Parsed, entry_with_search, value_of
from ..folders import read_folder, read_videos
from ..text_files import at, numbered_lines, raw_lines, read_json
from . import community, images, official
from .columns import (
    COLUMNS,
    INTEGER,
    SAMPLE,
    csv_layout,
    describe_columns,
    header_columns,
    read_csv,
    write_whole,
)
from .json_objects import read_jsonl

_COMMA = re.compile(r",\s*([+-]?\d+\s*)?$|^[^\s.]+,[^\s.]+$")  # `a.mp4,3`, `a.mp4, 3` and the header `path,label`
_THREE = re.compile(r"\S.*?\s+[+-]?\d+\s+[+-]?\d+")
_BLANK_INSIDE = re.compile(r"\.\w+\s")  # behind what may be a suffix; fast
_QUOTED = re.compile(r'"(?:[^"]|"")*"\s+\S+')

# ------------------------------------------------------------------------------------------------ columns by position


def read_videomae(file: Path, part: ListPart) -> Parsed:
    """`path label` or `path`: any white space between, the label last, so a path may hold spaces."""
    first = list(islice(numbered_lines(file), SAMPLE))
    labels = part.labels
    labelled = bool(first) and _videomae_line(file, *first[0], labels=labels).label is not None
    peculiar = sum(_is_peculiar(line) for _, line in first) * 2 > len(first)

    def entries() -> Iterator[Entry]:
        for number, line in numbered_lines(file):
            entry = _videomae_line(file, number, line, labels=labels)
            if not peculiar and _is_peculiar(line):
                raise AnnotationError(
                    f"{at(file, number)}: '{line:.200}' is not like the other lines: two paths, two numbers or a quote "
                    "where they have `path label`. Correct it; peculiar paths take a csv with quotes, or jsonl."
                )
            yield entry

    return Parsed("path label" if labelled else "path", entries(), pictures=True)


def _is_peculiar(line: str) -> bool:
    """Whether a line has what in most lists is an error: two paths, several numbers behind the path, or a quote."""
    if line.startswith('"'):
        return True
    path = line.rsplit(maxsplit=1)[0]
    return _BLANK_INSIDE.search(path) is not None and TWO_FILES.search(path) is not None


def _videomae_line(file: Path, number: int, line: str, *, labels: str) -> Entry:
    *before, last = line.rsplit(maxsplit=1)
    path = before[0] if before else ""
    if labels == "value" and path and not path.endswith(","):
        return entry_with_search(number, path, value_of(at(file, number), last))
    if path and not path.endswith(",") and INTEGER.fullmatch(last):
        if last.startswith("-"):
            raise AnnotationError(
                f"{at(file, number)}: label {last} is negative, and labels count from 0. A list without labels, "
                "for pre-training, has the path alone on every line."
            )
        return entry_with_search(number, path, int(last))
    if _COMMA.search(line):
        raise AnnotationError(
            f"{at(file, number)}: comma between path and label in '{line}'. Put a blank there as in the other lines, "
            "or write all of the list as csv."
        )
    if not path or (has_extension(last) and not _is_number(last)):
        return entry_with_search(number, line, None)
    remedy = write_whole(last) or (
        "Write `path label` with labels from 0; names of classes take a csv with the header `path,label`."
    )
    raise AnnotationError(f"{at(file, number)}: label '{last}' is not an integer. {remedy[0].upper()}{remedy[1:]}")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def read_mmaction(file: Path, part: ListPart) -> Parsed:
    """`folder frames label`, mmaction2's lists of raw frames: a folder, its number of frames, the label."""

    def entries() -> Iterator[Entry]:
        for number, (path, frames, label) in _three_columns(file, "mmaction", "folder frames label"):
            if frames < 1 or label < 0:
                raise AnnotationError(
                    f"{at(file, number)}: {frames} frames, label {label}: not `folder frames label` of mmaction2. "
                    "`path start length` is --list_format videomaev2."
                )
            yield Entry(number, path, label)

    return Parsed("mmaction2 frames: folder frames label", entries())


def read_videomaev2(file: Path, part: ListPart) -> Parsed:
    """`path start length`, VideoMAE V2's pre-training lists: length -1 for a video file, else a folder's frames."""

    def entries() -> Iterator[Entry]:
        for number, (path, start, length) in _three_columns(file, "videomaev2", "path start length"):
            if start not in (0, 1) or (length < 1 and length != -1):
                raise AnnotationError(
                    f"{at(file, number)}: start {start}, length {length}: not `path start length` of a whole video "
                    "(start 0 or 1, length -1 or the number of frames). `folder frames label` is --list_format "
                    "mmaction."
                )
            yield Entry(number, path)

    return Parsed("VideoMAE V2: path start length", entries())


def _three_columns(file: Path, flag: str, form: str) -> Iterator[tuple[int, tuple[str, int, int]]]:
    for number, line in numbered_lines(file):
        fields = line.rsplit(maxsplit=2)
        if len(fields) != 3 or not all(map(INTEGER.fullmatch, fields[1:])):
            raise AnnotationError(f"{at(file, number)}: '{line}' is not `{form}`, which --list_format {flag} reads.")
        yield number, (fields[0], int(fields[1]), int(fields[2]))


# ------------------------------------------------------------------------------------------------ detection

READERS: dict[str, Callable[[Path, ListPart], Parsed]] = {
    "videomae": read_videomae,
    "csv": read_csv,
    "kinetics": official.read_kinetics,
    "ssv2": official.read_ssv2,
    "ucf101": official.read_ucf101,
    "hmdb51": official.read_hmdb51,
    "gym": official.read_gym,
    "charades": official.read_charades,
    "charades-actions": official.read_charades_actions,
    "diving48": community.read_diving48,
    "hacs": community.read_hacs,
    "activitynet": community.read_activitynet,
    "epic-verb": partial(community.read_epic, kind="verb"),
    "epic-noun": partial(community.read_epic, kind="noun"),
    "epic-action": partial(community.read_epic, kind="action"),
    "moments": community.read_moments,
    "imagenet": images.read_imagenet,
    "cifar100": images.read_cifar100,
    "folder": read_folder,
    "videos": read_videos,
    "mmaction": read_mmaction,
    "videomaev2": read_videomaev2,
    "jsonl": read_jsonl,
}
LIST_FORMATS = ("auto", *READERS)


def folder_format(folder: Path) -> str:
    """The format of a folder that holds all parts of a data set; "" for any other."""
    if any(folder.glob("*_test_split[0-9].txt")):
        return "hmdb51"
    if images.find_imagenet(folder):
        return "imagenet"
    return "cifar100" if images.find_cifar100(folder) else ""


def detect(file: Path) -> str:
    """The format of a list, a key of READERS, from its name, its neighbours and its first lines.

    Raises:
        AnnotationError: three columns, which have two readings; a single file of HMDB51's; the list cannot be read.
    """
    if file.is_dir():
        return folder_format(file) or "folder"
    lines = [line for _, line in islice(numbered_lines(file), SAMPLE)]
    if not lines:
        return "videomae"
    if re.fullmatch(r".+_test_split\d\.txt", file.name):
        raise AnnotationError(
            f"{file} is the list of one class of HMDB51: give the folder that holds those of all classes."
        )
    if re.fullmatch(r"(train|test)list\d+\.txt", file.name):
        return "ucf101"
    if lines[0].startswith("["):
        return _of_json_array(file)
    if lines[0].startswith("{"):
        return _of_json_object(file, lines[0])
    return _of_columns(file, lines)


def _of_json_array(file: Path) -> str:
    """A file that starts with `[`: an array of objects, told by the fields of the first; or names that start so."""
    beginning = "".join(line for _, line in islice(raw_lines(file), 3))
    if not re.match(r"\s*\[\s*([{\[]|\]|$)", beginning):
        return _of_columns(file, [line for _, line in islice(numbered_lines(file), SAMPLE)])
    records = read_json(file)
    fields = set(records[0]) if isinstance(records, list) and records and isinstance(records[0], dict) else set()
    if "vid_name" in fields:
        return "diving48"
    return "jsonl" if fields & set(COLUMNS["path"]) or not fields else "ssv2"


def _of_json_object(file: Path, first: str) -> str:
    """A file that starts with `{`: an object a line, or a single one, as ActivityNet's."""
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        try:
            record = read_json(file)  # of several lines
        except AnnotationError:
            return "jsonl"  # whose reader says what is wrong with a line
    return "activitynet" if isinstance(record, dict) and "database" in record else "jsonl"


def _of_columns(file: Path, lines: Sequence[str]) -> str:
    """The format of a list with columns, from its first lines."""
    by_header = _of_header(file, lines[0])
    if by_header:
        return by_header
    if all(map(community.MOMENTS_LINE.fullmatch, lines)):
        return "moments"
    if all(map(_QUOTED.fullmatch, lines)):
        return "csv"
    if all(map(_THREE.fullmatch, lines)):
        raise AnnotationError(
            f"{at(file, 1)}: three columns, '{lines[0]}', which can be read in two ways. Choose --list_format mmaction "
            "(folder frames label) or --list_format videomaev2 (path start length); --list_format videomae if the "
            "paths end in a blank and a number."
        )
    if all(map(official.GYM_LINE.fullmatch, lines)):
        return "gym"
    return _csv_or_videomae(file, lines)


def _of_header(file: Path, line: str) -> str:
    """The format that the first line of a list is a header of; "" if it is none."""
    cells = {cell.strip().lower().strip('"') for cell in re.split(r"[,;\t]", line)}
    if {"youtube_id", "time_start", "time_end"} <= cells:
        return "kinetics"
    if {"classname", "youtube_id", "subset"} <= cells:
        return "hacs"
    if {"id", "subject", "scene", "actions", "length"} <= cells:
        return "charades-actions"
    if {"narration_id", "video_id", "start_timestamp"} <= cells:
        raise AnnotationError(
            f"{at(file, 1)}: EPIC-KITCHENS has three labels a line. Choose --list_format epic-verb (verb_class), "
            "epic-noun (noun_class) or epic-action (the pair of both)."
        )
    if line.startswith(("original_vido_id", "original_video_id")):
        return "charades"
    line = line.replace('"', "")
    separators = (",", "\t", ";", r"\s+")
    if any("path" in header_columns(re.split(one, line), spaces=one == r"\s+") for one in separators):
        return "csv"
    return ""


def _csv_or_videomae(file: Path, lines: Sequence[str]) -> str:
    try:
        delimiter = csv_layout(file).delimiter
    except AnnotationError:
        if describe_columns(file):
            raise
        return "videomae"  # whose reader says what is wrong with a line
    # without quotes a tab is white space like any other; the first quoted path may come late in the list
    if delimiter == "\t" and any(line.startswith('"') for _, line in numbered_lines(file)):
        return "csv"
    has_spaces = any(re.search(r"[^,;]\s+[+-]?\d+$", line) for line in lines)
    return "videomae" if has_spaces and delimiter in "\t " else "csv"
