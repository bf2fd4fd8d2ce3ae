"""Where the videos of a list lie: the folder that its relative paths start from, and files named without extension."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .entries import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, Entry, has_extension

_NUMBER_OF_PROBES = 100  # relative paths tried to find the folder they belong to


def is_absolute(path: str) -> bool:
    """Whether a path needs no root: one from `/`, or a URL, as of an object store."""
    return os.path.isabs(path) or "://" in path


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

    Args:
        roots: folders that may be the root; the first one in which one of `probes` lies is.
        probes: some of the list's entries.

    Attributes:
        found_root: that folder; "" if none of the probes was found.
        num_searched, num_missing: entries that were looked for, and of these not found.
    """

    def __init__(self, roots: Sequence[str], probes: Sequence[Entry]) -> None:
        self._names: dict[str, dict[str, str]] = {}
        self.num_searched, self.num_missing, self.found_root = 0, 0, ""
        for root in roots:
            self.root = root
            if any(self.find(entry) is not None for entry in probes):
                self.found_root = root
                return
        self.root = roots[0]

    def path_of(self, entry: Entry) -> str:
        """The path of an entry relative to the root; what the list says where nothing is found, which is counted."""
        if not entry.folders:
            return entry.path
        found = self.find(entry)
        self.num_searched += 1
        self.num_missing += found is None
        return entry.path if found is None else found

    def find(self, entry: Entry) -> str | None:
        """Where an entry lies relative to the root, if it does."""
        for folder in entry.folders:
            names = self._listing(os.path.join(self.root, folder))
            for stem in entry.stems:
                if stem in names:
                    return os.path.join(folder, names[stem])
        return None

    def _listing(self, folder: str) -> dict[str, str]:
        """File names by name with and without extension; the extension that comes first in VIDEO_EXTENSIONS wins."""
        if folder not in self._names:
            try:
                present = os.listdir(folder or ".")
            except (OSError, ValueError):  # a name with a null byte is a ValueError
                present = []
            names: dict[str, str] = {}
            for name in sorted(present, key=_preference, reverse=True):
                if has_extension(name):
                    names[os.path.splitext(name)[0]] = name
            self._names[folder] = names | {name: name for name in present}
        return self._names[folder]


def _preference(name: str) -> tuple[int, str]:
    extension = os.path.splitext(name)[1].lower()
    order = VIDEO_EXTENSIONS + IMAGE_EXTENSIONS
    return (order.index(extension) if extension in order else len(order)), name
