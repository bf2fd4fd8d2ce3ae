"""Lists in and out of the tools: read in any format, written as `path label` or as jsonl."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from datasets.decoding.shards import split_member
from datasets.errors import AnnotationError
from datasets.lists.checks import read_class_names
from datasets.lists.entries import NO_LABEL
from datasets.lists.formats.table import LIST_FORMATS
from datasets.lists.read import read_list
from datasets.lists.video_list import VideoList, sample_name
from engine.errors import ConfigError
from engine.files import replace_text


def add_list_flags(parser: argparse.ArgumentParser) -> None:
    """The lists to work on, and how to read them."""
    parser.add_argument(
        "lists", nargs="+", metavar="LIST", help="list of videos; several share what they have in common"
    )
    parser.add_argument("--data_root", default="", metavar="FOLDER", help="what the lists' relative paths start from")
    parser.add_argument("--list_format", default="auto", choices=LIST_FORMATS, help="of the lists (default: auto)")


def read_lists(files: Sequence[str], *, root: str, list_format: str) -> list[VideoList]:
    """The lists of a command line, the values of `add_list_flags`.

    Raises:
        AnnotationError: one cannot be read.
        ConfigError: two would be written under one name.
    """
    lists = [read_list(file, root=root, list_format=list_format) for file in files]
    names = [list_name(videos) for videos in lists]
    if len(set(names)) < len(names):
        raise ConfigError(f"two lists of the same name ({', '.join(names)}): rename one, or give them one at a time")
    return lists


def list_name(videos: VideoList) -> str:
    """Name of the list that is written for another: `.csv` holds `path label`, `.jsonl` several labels or spans."""
    return Path(videos.file).stem + (".csv" if is_plain(videos) else ".jsonl")


def is_plain(videos: VideoList) -> bool:
    """Whether lines `path label`, or `path`, hold all of a list."""
    return videos.label_sets is None and videos.spans is None


def unique_paths(lists: Iterable[VideoList]) -> list[str]:
    """All videos of some lists, each once, as absolute paths."""
    return list(dict.fromkeys(absolute(path) for videos in lists for path in videos.paths))


def absolute(path: str) -> str:
    """An absolute path; a URL as it is, and the name of a shard's member as the tar has it."""
    if "://" in path:
        return path
    shard = split_member(path)
    return f"{os.path.abspath(shard[0])}#{shard[1]}" if shard else os.path.abspath(path)


def class_names_of(videos: VideoList) -> Sequence[str]:
    """The names of the classes in label order: those of the list, else of `labels.txt` beside it; () without either.

    Raises:
        AnnotationError: that file cannot be read.
    """
    file = videos.file.with_name("labels.txt")
    return videos.class_names or (read_class_names(file) if file.is_file() else ())


def records(videos: VideoList) -> Iterator[dict[str, Any]]:
    """The videos of a list as objects of our jsonl lists."""
    for place, path in enumerate(videos.paths):
        record: dict[str, Any] = {"path": absolute(path)}
        if videos.label_sets is not None:
            record["label"] = list(videos.label_sets[place])
        elif videos.labels[place] != NO_LABEL:
            label = int(videos.labels[place])
            record["label"] = label
            if videos.class_names:
                record["label_name"] = videos.class_names[label]
        span = videos.span(place)
        if span is not None:
            record |= {"start": float(span[0])} | ({"end": float(span[1])} if span[1] != float("inf") else {})
        if videos.moments is not None:
            record |= {"moments_in": videos.moments.unit, "moments": videos.moments.by_video[place]}
        yield record


def write_lists(
    folder: Path, lists: Sequence[VideoList], paths: Mapping[str, str], *, without: Set[str] = frozenset()
) -> dict[str, int]:
    """Write every list again, without the videos that are not in `paths`, and `labels.txt` if classes have names.

    Args:
        folder: exists.
        lists: as they were read.
        paths: absolute path -> the path to write.
        without: names of samples, of absolute paths, that are left out as well.

    Returns:
        How many videos each new list has, by its name.

    Raises:
        AnnotationError: what was written reads as something else, because of a peculiar path.
    """
    counts = {}
    for videos in lists:
        rows = [
            record | {"path": paths[record["path"]]}
            for record, (path, span) in zip(records(videos), videos.samples(), strict=True)
            if record["path"] in paths and sample_name(absolute(path), span) not in without
        ]
        write_list(folder / list_name(videos), rows, plain=is_plain(videos))
        counts[list_name(videos)] = len(rows)
    names = max((class_names_of(videos) for videos in lists), key=len)
    if names:
        replace_text(folder / "labels.txt", "".join(f"{name}\n" for name in names))
    return counts


def write_list(file: Path, rows: Sequence[Mapping[str, Any]], *, plain: bool) -> None:
    """Write a list and read it back; no videos, an empty file.

    Raises:
        AnnotationError: it reads as something else.
    """
    if plain:
        lines = (f"{row['path']} {row['label']}" if "label" in row else row["path"] for row in rows)
    else:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    replace_text(file, "".join(f"{line}\n" for line in lines))
    if not rows:
        return
    again = read_list(file, list_format="videomae" if plain else "jsonl")
    for row, path in zip(rows, again.paths, strict=True):
        if row["path"] != path:
            raise AnnotationError(f"{file}: '{row['path']}' reads as '{path}' from a list: rename this video")
