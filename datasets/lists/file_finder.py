"""Where the videos of a list lie: the folder that its relative paths start from, and files named without extension."""

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..decoding.media_names import SUFFIXES, is_image, is_left_out, is_video, suffix_of
from ..errors import AnnotationError
from .entries import Entry
from .text_files import at

_NUMBER_OF_PROBES = 100  # relative paths tried to find the folder they belong to
SUSPECT = re.compile(r"\0|:/|^[~$]")  # in a path that `refuse_path` has to look at
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://?(.*)")
_NOT_EXPANDED = re.compile(r"(~|\$\w+|\$\{\w+\})/")


def is_absolute(path: str) -> bool:
    """Whether a path needs no root: one from `/`, or a URL, as of an object store."""
    return os.path.isabs(path) or "://" in path


def refuse_path(place: str, path: str) -> None:
    """Refuse a path that cannot be meant as it is written.

    Args:
        place: file and line, for the message.
        path: as the list has it.

    Raises:
        AnnotationError: a null byte in it; a URL of anything but a shard; `~` or a variable, which nothing expands.
    """
    if "\0" in path:
        raise AnnotationError(f"{place}: a null byte in the path {path!a:.80}. Save the list as UTF-8 text.")
    scheme = _SCHEME.match(path) if ":/" in path else None
    if scheme is not None and ".tar#" not in path:
        local = scheme[1].lower() == "file"
        remedy = f"Write /{scheme[2].lstrip('/')}" if local else "Download the videos and write their paths"
        raise AnnotationError(
            f"{place}: '{path:.200}' is a URL; only shards may be remote (s3://bucket/00017.tar#x.mp4). {remedy}."
        )
    if _NOT_EXPANDED.match(path):
        raise AnnotationError(f"{place}: '{path:.200}': a list does not expand ~ or variables. Write the whole path.")


def find_root(file: Path, written: Iterable[str]) -> str:
    """The folder that relative paths start from: the current one or the list's, "" if all are absolute.

    Args:
        file: the list.
        written: paths as the list writes them, of which the first hundred relative ones are tried.
    """
    probes = list(itertools.islice((path for path in written if not is_absolute(path)), _NUMBER_OF_PROBES))
    if not probes:
        return ""
    here, beside_list = os.getcwd(), str(file.absolute().parent)
    for folder in (here, beside_list):
        if any(os.path.exists(os.path.join(folder, path.partition(".tar#")[0])) for path in probes):
            return folder
    return here


class FileFinder:
    """Finds videos whose folder or extension a list leaves out; every folder is listed once, not stat'ed per file.

    A picture of a video's name is its thumbnail, not the video. Only where none of `probes` is a video, and the list
    may be one of pictures, are these taken.

    Args:
        file: the list, for messages.
        roots: folders that may be the root; the first one in which one of `probes` lies is.
        probes: some of the list's entries.
        pictures: whether the list may be one of pictures.

    Attributes:
        found_root: that folder; "" if none of the probes was found.
        num_searched, num_missing: entries that were looked for, and of these not found.
    """

    def __init__(self, file: Path, roots: Sequence[str], probes: Sequence[Entry], *, pictures: bool = False) -> None:
        self.file, self._names = file, dict[str, dict[str, str]]()
        self._double: dict[str, list[str]] = {}  # full path without suffix -> names of all files of that stem
        self._taken: dict[str, list[str]] = {}
        self._uncut: dict[str, tuple[int, bool]] = {}
        self.num_searched, self.num_missing, self.found_root = 0, 0, ""
        for self._pictures in (False, True) if pictures else (False,):
            self._names.clear()
            for root in roots:
                self.root = root
                if any(self._find(entry) is not None for entry in probes):
                    self.found_root = root
                    return
        self._pictures = False
        self._names.clear()
        self.root = roots[0]

    def locate(self, entry: Entry) -> tuple[Entry, str]:
        """An entry with the part of the file that is meant, and its path relative to the root.

        What the list says stays where nothing is found, which is counted.

        Raises:
            AnnotationError: parts of one video are found in a file each and in one file: is that one cut or not?
        """
        if not entry.folders:
            return entry, entry.path
        found = self._find(entry)
        self.num_searched += 1
        self.num_missing += found is None
        if found is None:
            return entry, entry.path
        path, stem = found
        named_alike = os.path.join(self.root, os.path.dirname(path), stem)
        if named_alike in self._double:
            self._taken[path] = self._double[named_alike]
        if entry.uncut_span is None:
            return entry, path
        is_uncut = stem == entry.stems[-1]
        if entry.uncut:
            self._check_uncut(entry, is_uncut)
        return entry._replace(span=entry.uncut_span if is_uncut else None), path

    def _check_uncut(self, entry: Entry, is_uncut: bool) -> None:
        line, before = self._uncut.setdefault(entry.uncut, (entry.line, is_uncut))
        if before != is_uncut:
            whole, cut = (line, entry.line) if before else (entry.line, line)
            raise AnnotationError(
                f"{at(self.file, entry.line)}: of two parts of '{entry.uncut}' that of line {whole} is found in a file "
                f"of the whole video, that of line {cut} in a file of its own. Keep files of one kind."
            )

    def notes(self) -> list[str]:
        """Where several files had the name of a video."""
        if not self._taken:
            return []
        path, names = next(iter(self._taken.items()))
        return [
            f"{len(self._taken)} videos are there with several suffixes; the first of {', '.join(SUFFIXES[:3])}, ... "
            f"is taken: {os.path.basename(path)} of {', '.join(names)}"
        ]

    def _find(self, entry: Entry) -> tuple[str, str] | None:
        """Where an entry lies relative to the root, and under which of its stems, if it does."""
        for folder in entry.folders:
            names = self._listing(folder)
            for stem in entry.stems:
                if stem in names:
                    return os.path.join(folder, names[stem]), stem
        return None

    def _listing(self, folder: str) -> dict[str, str]:
        """File names by name with and without suffix; the suffix that comes first in SUFFIXES wins."""
        full = os.path.join(self.root, folder)
        if full not in self._names:
            try:
                present = os.listdir(full or ".")
            except (OSError, ValueError):  # a name with a null byte is a ValueError
                present = []
            names: dict[str, str] = {}
            for name in sorted(filter(self._may_be_taken, present), key=_preference, reverse=True):
                stem = os.path.splitext(name)[0]
                if stem in names:
                    self._double.setdefault(os.path.join(full, stem), [names[stem]]).append(name)
                names[stem] = name
            self._names[full] = names | {name: name for name in present}
        return self._names[full]

    def _may_be_taken(self, name: str) -> bool:
        return (is_video(name) or (self._pictures and is_image(name))) and not is_left_out(name)


_RANK = {suffix: place for place, suffix in enumerate(SUFFIXES)}


def _preference(name: str) -> tuple[int, str]:
    return _RANK[suffix_of(name)], name
