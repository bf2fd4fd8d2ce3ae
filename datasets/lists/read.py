"""Lists of videos: which videos, and their labels, from a list of any format (datasets/lists/formats/table.py).

A list of many videos gets an index beside it, in the folder `<list>.index`, from which later runs read what they need
without reading the list. Whatever cannot be read is an `AnnotationError` that says where.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import AnnotationError
from ..moments import Moments
from .builder import ListBuilder
from .columns import ColumnFile, Columns, NumberColumn, PathColumn, SetColumn, SpanColumn
from .entries import ListPart
from .file_finder import SUSPECT, FileFinder, find_root, is_absolute, refuse_path
from .formats.table import LIST_FORMATS, READERS, detect
from .index import find_index, identity, index_key, save_index
from .text_files import refuse_no_file
from .video_list import VideoList

METADATA = ("metadata.csv", "metadata.jsonl")  # lists in a folder of videos
CHARADES_FPS = 24.0  # of the frames that the data set is published as
INDEX_FROM = 50_000  # videos; lists of fewer are read at every start
_NUMBER_OF_PROBES = 100  # videos without an extension that are looked for to find the root
_READ_FOR_ROOT = 10_000  # videos among which relative paths are tried
_NO_LABELS = {  # what to do about a list without
    "class": "To train or test a classifier every video needs one: `path label`. Without labels a list is for "
    "pre-training.",
    "classes": "--task multilabel learns and measures classes that at least one video has: give a column `labels`.",
    "value": "--task regression needs a number for every video, in a column `target`: rename the column.",
}


def read_list(
    file: str | os.PathLike[str],
    *,
    root: str = "",
    require_labels: bool = False,
    list_format: str = "auto",
    class_names: Sequence[str] = (),
    names_from: str = "labels.txt",
    part: str = "",
    split: int = 1,
    labels: str = "class",
) -> VideoList:
    """Read a list of videos.

    Relative paths are joined with `root` if it is given. Otherwise they are taken relative to the current directory
    if any of the first hundred exists there, else to the folder of the list if one exists there, else to the current
    directory. Videos that the list gives without an extension are looked for.

    Args:
        file: the list, or the folder for formats that are one.
        root: folder of the videos.
        require_labels: refuse a list without.
        list_format: one of LIST_FORMATS; "auto" finds out, but never chooses between the two with three columns.
        class_names: in label order. Labels that are names get these numbers, and other names are refused. Without
            them the names are numbered as the data set says, else in sorted order.
        names_from: the file that `class_names` come from, for messages.
        part, split: "train", "val" or "test" and the number of the split, for formats that hold several.
        labels: what a label is, one of LABELS.

    Raises:
        AnnotationError: the list is missing, empty or not UTF-8 text; a line cannot be read; some lines have a label
            and others do not; `require_labels` and there are none; three columns and no `list_format`.
    """
    if list_format not in LIST_FORMATS:
        raise AnnotationError(f"--list_format {list_format}: choose from {', '.join(LIST_FORMATS)}")
    refuse_no_file(Path(file))
    file, root = _metadata_in(Path(file), root)
    settings = [root, os.getcwd(), list_format, list(class_names), names_from, part, split, labels]
    key = index_key(file, settings)
    source: Columns | ColumnFile | None = find_index(file, key)
    if source is None:
        before = identity(file) if file.is_file() else None
        builder = ListBuilder(file, class_names, names_from, labels=labels)
        source = _parse(file, builder, root=root, list_format=list_format, part=ListPart(part, split, labels))
        if before is not None and source.length >= INDEX_FROM and not source.facts["num_lost"]:
            source = save_index(file, key, columns=source, before=before) or source
    videos = _video_list(file, source, root)
    if require_labels and videos.num_classes == 0 and videos.values is None:
        raise AnnotationError(
            f"{videos.where(0)}: no label ({len(videos)} of {len(videos)} {videos.unit}s have none; read as "
            f"{videos.format}). {_NO_LABELS[labels]}"
        )
    return videos


def _metadata_in(file: Path, root: str) -> tuple[Path, str]:
    """The list that lies in a folder of videos (Hugging Face's VideoFolder), and their root."""
    for name in METADATA:
        if file.is_dir() and (file / name).is_file():
            return file / name, root or str(file)
    return file, root


def _parse(file: Path, builder: ListBuilder, *, root: str, list_format: str, part: ListPart) -> Columns:
    """Read all of a list."""
    parsed = READERS[detect(file) if list_format == "auto" else list_format](file, part)
    builder.unit = parsed.unit
    builder.propose_names(parsed.class_names)
    root = root or parsed.root
    entries = iter(parsed.entries)
    first = list(itertools.islice(entries, _NUMBER_OF_PROBES))
    beside = str((file if file.is_dir() else file.parent).absolute())
    sought = [entry for entry in first if entry.folders and not is_absolute(entry.path)]
    finder = FileFinder(file, [root] if root else [os.getcwd(), beside], sought, pictures=parsed.pictures)
    for entry in itertools.chain(first, entries):
        located, path = finder.locate(entry)
        if SUSPECT.search(path) and not parsed.root:
            refuse_path(builder.at(entry), path)
        builder.add(located, path)
    columns = builder.finish()
    columns.facts["notes"] += [*parsed.notes, *finder.notes()]
    root = root or finder.found_root
    columns.facts.update(
        format=parsed.format, unit=parsed.unit, num_lost=finder.num_missing, root=root, searched=finder.num_searched
    )
    columns.facts["moments_in"] = parsed.moments
    return columns


def _video_list(file: Path, source: Columns | ColumnFile, root: str) -> VideoList:
    """The list whose columns these are: small ones as tuples, those of an index as they are."""
    kept: Any = tuple if isinstance(source, Columns) else (lambda column: column)
    facts = source.facts
    root = root or facts["root"] or find_root(file, PathColumn(source, "")[:_READ_FOR_ROOT])
    return VideoList(
        file=file,
        format=facts["format"],
        paths=kept(PathColumn(source, root)),
        labels=kept(NumberColumn(source, "labels")),
        root=root,
        fingerprint=facts["fingerprint"],
        line_numbers=kept(NumberColumn(source, "lines")),
        num_classes=facts["num_classes"],
        class_names=tuple(facts["class_names"]),
        label_sets=None if source.array("set_ends") is None else kept(SetColumn(source)),
        values=None if source.array("values") is None else kept(NumberColumn(source, "values")),
        spans=None if source.array("spans") is None else kept(SpanColumn(source)),
        moments=Moments(facts["moments_in"], facts["moments"], CHARADES_FPS) if facts["moments"] else None,
        names_from=facts["names_from"],
        lowest_label=facts["lowest_label"],
        notes=tuple(facts["notes"]),
        unit=facts["unit"],
    )
