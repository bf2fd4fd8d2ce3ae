"""Names for what is made of each file: below one folder, no two the same, none that a file system refuses."""

import hashlib
import itertools
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence

from datasets.decoding.shard_index import plain_name
from datasets.decoding.shards import split_member

_LONGEST = 255  # bytes of a name, on every common file system
_DIGITS = 8  # of the hash in a name that was too long
_UP = "__"  # for `..`, which would lead out of the folder


def output_names(paths: Sequence[str]) -> dict[str, str]:
    """A name for what is made of each file: its path below the folder that all share, in which `#` is a `_`.

    A member of a shard has the shard's name for a folder. See `distinct_names` for what else is changed.
    """
    parts = {path: _parts(path) for path in paths}
    folders = [folders for *folders, _ in parts.values()]
    shared = next(
        (place for place, level in enumerate(zip(*folders, strict=False)) if len(set(level)) > 1),
        min(map(len, folders), default=0),
    )
    return distinct_names({path: "/".join(names[shared:]).replace("#", "_") for path, names in parts.items()})


def _parts(path: str) -> list[str]:
    """The folders of a file and its name; none is `..`."""
    shard = split_member(path)
    whole = f"{shard[0].removesuffix('.tar')}/{plain_name(shard[1])}" if shard else path
    return [_UP if part == ".." else part for part in whole.split("/") if part not in ("", ".")]


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """The same names, each of them once: the second `a.mp4` is `a (2).mp4`, and a name that is also a folder as well.

    Parts of more than 255 bytes are cut, and end with a hash of the whole.
    """
    short = {path: "/".join(map(_shorten, name.split("/"))) for path, name in names.items()}
    taken = {folder for name in short.values() for folder in _folders(name)}
    wanted = set(short.values())
    for path, name in short.items():
        if name in taken:
            short[path] = name = next(other for other in _others(name) if other not in taken and other not in wanted)
        taken.add(name)
    return short


def _folders(name: str) -> Iterable[str]:
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _others(name: str) -> Iterable[str]:
    folder, last = posixpath.split(name)
    stem, suffix = os.path.splitext(last)
    for number in itertools.count(2):
        yield posixpath.join(folder, _shorten(f"{stem} ({number}){suffix}"))


def _shorten(name: str) -> str:
    """A name of at most 255 bytes with the same suffix."""
    whole = os.fsencode(name)
    if len(whole) <= _LONGEST:
        return name
    stem, suffix = os.path.splitext(name)
    mark = f"-{hashlib.sha256(whole).hexdigest()[:_DIGITS]}{suffix}"
    kept = os.fsencode(stem)[: _LONGEST - len(os.fsencode(mark))]
    return kept.decode("utf-8", "ignore") + mark
