"""The list files of a data set, found by the names they were published with, and read."""

import re
from collections.abc import Mapping
from pathlib import Path

from datasets.lists.read import read_list
from datasets.lists.video_list import VideoList
from engine.errors import ConfigError

PARTS = ("train", "val", "test")
_NAMES = {"train": r"train", "val": r"val", "test": r"test"}  # in the names of lists; `val` is in `validation` too
_ENDINGS = {
    "kinetics": (".csv",),
    "ssv2": (".json",),
    "gym": (".txt",),
    "charades": (".csv",),
    "charades-actions": (".csv",),
    "csv": (".csv", ".tsv", ".txt"),
    "jsonl": (".jsonl",),
    "diving48": (".json",),
    "moments": (".csv",),
    "hacs": (".csv",),
    "activitynet": (".json",),
    **dict.fromkeys(("epic-verb", "epic-noun", "epic-action"), (".csv",)),
}
_ALL_IN_ONE = ("hacs", "activitynet")  # one list for all parts
_ANY_ENDING = (".csv", ".txt", ".lst", ".list")


def find_lists(form: str, source: Path | None, split: int) -> dict[str, Path]:
    """The list of each part of a data set.

    Raises:
        ConfigError: there is none, or there are two for a part.
    """
    if source is None:
        return {}
    if not source.exists():
        raise ConfigError(f"{source} does not exist: give the folder of the annotation files, or a list")
    if form == "hmdb51":
        return {"train": source, "test": source}
    if form in _ALL_IN_ONE:
        return dict.fromkeys(("train", "val"), _only_list(form, source))
    if source.is_file():
        return {_part_of(source.name) or "train": source}
    if form == "ucf101":
        lists = {"train": source / f"trainlist{split:02}.txt", "test": source / f"testlist{split:02}.txt"}
        return {part: file for part, file in lists.items() if file.is_file()}
    if form == "folder":
        found = {part: folder for part in PARTS if (folder := _subfolder(source, part)) is not None}
        return found or {"train": source}
    return _by_name(form, source)


def _part_of(name: str) -> str | None:
    return next((part for part, pattern in _NAMES.items() if re.search(pattern, name.lower())), None)


def _subfolder(source: Path, part: str) -> Path | None:
    names = (part, "validation") if part == "val" else (part,)
    return next((source / name for name in names if (source / name).is_dir()), None)


def _only_list(form: str, source: Path) -> Path:
    """The one list of a data set that has all parts in it."""
    files = [source] if source.is_file() else sorted(file for file in source.iterdir() if file.suffix in _ENDINGS[form])
    if len(files) != 1:
        raise ConfigError(f"{source}: {len(files)} files {' or '.join(_ENDINGS[form])}; give the list of {form} itself")
    return files[0]


def _by_name(form: str, source: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    endings = _ENDINGS.get(form, _ANY_ENDING)
    for file in sorted(source.iterdir()):
        part = _part_of(file.name)
        if part is None or file.suffix.lower() not in endings or not file.is_file():
            continue
        if part in found:
            raise ConfigError(f"{found[part]} and {file}: two lists; name the right ones with --train, --val, --test")
        found[part] = file
    if not found:
        raise ConfigError(
            f"{source}: no {' or '.join(endings)} with train, val or test in its name; name the lists with --train, "
            "--val, --test"
        )
    return found


def read_parts(files: Mapping[str, Path], *, root: str, form: str, split: int) -> dict[str, VideoList]:
    """Read the lists; classes that have names have the same numbers in all.

    Args:
        files: part -> its list.
        root: folder that relative paths start from.
        form: the format of the lists.
        split: number of the split, for formats that hold several.

    Raises:
        AnnotationError: one cannot be read.
    """
    lists: dict[str, VideoList] = {}
    names: tuple[str, ...] = ()
    for part, file in files.items():
        videos = read_list(
            file,
            root=root,
            list_format=form,
            class_names=names,
            names_from=str(next(iter(files.values()))),
            part=part,
            split=split,
        )
        names = names or videos.class_names
        lists[part] = videos
    return lists
