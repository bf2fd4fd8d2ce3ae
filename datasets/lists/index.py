"""The index of a large list: a file beside the list, or in the user's cache, that later runs read in its place.

An index is used only while the list, the files beside it that number its classes, and the settings that it was read
with are the same; otherwise the list is read and the index written again. Its format: `columns.py`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .columns import ColumnFile, Columns, PathColumn, write_columns
from .formats.community import EPIC_LISTS, EPIC_NAMES

logger = logging.getLogger(__name__)

_VERSION = 6  # of the columns and facts in an index
_SIDE_FILES = (
    *("labels.json", "something-something-v2-labels.json", "classInd.txt", "labels.txt", "Diving48_vocab.json"),
    "Charades_v1_classes.txt",
    *("moments_categories.txt", *EPIC_LISTS, *EPIC_NAMES["verb"], *EPIC_NAMES["noun"]),
)
_NUMBER_OF_PROBES = 100  # videos without an extension that are looked for again


def index_key(file: Path, settings: Sequence[Any]) -> str:
    """The name of the index of a list that is read with certain settings, all of which json can write."""
    return hashlib.sha256(json.dumps([_VERSION, str(file.absolute()), *settings]).encode()).hexdigest()[:16]


def find_index(file: Path, key: str) -> ColumnFile | None:
    """The index of a list as it is now, None if there is none; the list is hashed only if its times have changed.

    Args:
        file: the list.
        key: of the settings, see `index_key`.
    """
    for folder in _index_folders(file):
        path = folder / f"{key}.columns"
        if not path.is_file() or not file.is_file():
            continue
        try:
            index = ColumnFile(path, check=True)  # workers, which open it again, trust it
            if _is_of(index, file):
                return index
        except (KeyError, TypeError, ValueError, MemoryError, OSError) as error:
            logger.warning("%s: rebuilt (%s)", path, error)
    return None


def save_index(file: Path, key: str, *, columns: Columns, before: dict[str, Any]) -> ColumnFile | None:
    """Write the index of a list and open it; None where no folder can be written to, or the list changes meanwhile.

    Args:
        file: the list.
        key: of the settings, see `index_key`.
        columns: what was read of it.
        before: `identity` of the list before it was read.
    """
    columns.facts["list"] = {**before, "sha256": sha256_of(file)}
    columns.facts.update(beside=_side_files(file), present=_count_present(columns))
    if identity(file) != before:
        return None
    for folder in _index_folders(file):
        path = folder / f"{key}.columns"
        try:
            write_columns(path, columns)
            return ColumnFile(path)
        except OSError as error:
            logger.warning("%s: no index of the list is kept there (%s)", folder, error.strerror)
    return None


def identity(file: Path) -> dict[str, Any]:
    """Size, times and inode of a list: while all stay the same, so does the list."""
    status = file.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def sha256_of(file: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_of(index: ColumnFile, file: Path) -> bool:
    """Whether an index still describes the list, the files beside it and the videos as they are now."""
    now, then = identity(file), index.facts["list"]
    if now["size"] != then["size"] or _side_files(file) != index.facts["beside"]:
        return False
    if {**then, **now} != then and sha256_of(file) != then["sha256"]:
        return False
    return _count_present(index) == index.facts["present"]


def _side_files(file: Path) -> dict[str, str]:
    """Hashes of the files beside a list that number its classes."""
    beside = {name: file.with_name(name) for name in _SIDE_FILES}
    return {name: sha256_of(path) for name, path in beside.items() if path.is_file()}


def _count_present(source: Columns | ColumnFile) -> int:
    """How many of the first videos are there, of a list whose videos had to be looked for: their names may change."""
    if not source.facts["searched"]:
        return 0
    paths = PathColumn(source, source.facts["root"])[:_NUMBER_OF_PROBES]
    return sum(os.path.exists(path.partition(".tar#")[0]) for path in paths)


def _index_folders(file: Path) -> list[Path]:
    """Where the index of a list may lie: beside it, or where that cannot be written, in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return [file.with_name(f"{file.name}.index"), Path(cache, "sigma", "lists", name)]
