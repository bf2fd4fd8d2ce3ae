"""What one line of a list says, and where on disk the video of that line lies; shared by the readers of all formats."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import AnnotationError

NO_LABEL = -1
MOST = 10**18  # above all labels, which have to fit 64 bits
MAX_CLASSES = 100_000  # more than any list of videos has: a slip of the pen, not a number of classes
VIDEO_EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts", ".3gp")
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_EXTENSIONS = frozenset(VIDEO_EXTENSIONS + IMAGE_EXTENSIONS)
_NUMBER_OF_PROBES = 100  # relative paths tried to find the folder they belong to


class Entry(NamedTuple):
    """One video of a list.

    Attributes:
        line: where the list names it, from 1; its place in the list for formats without lines.
        path: its path, absolute or relative to the root.
        label: a number, the name of a class, a tuple of numbers where a video has several, None where it has none.
        label_name: the name of the class whose number is `label`, if the list says both.
        span: (start, end) in seconds of the part that counts; None for the whole video.
        written: what the list says in place of `path`; "" if that itself.
        folders, stems: where to look for the video: the first of the folders (relative to the root) that holds one of
            the names with any extension. No folders: `path` is where it lies.
    """

    line: int
    path: str
    label: int | str | tuple[int, ...] | None = None
    label_name: str = ""
    span: tuple[float, float] | None = None
    written: str = ""
    folders: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()


class Parsed(NamedTuple):
    """What a reader makes of a list.

    Attributes:
        format: how it was read, for the banner of a run.
        entries: in the list's order.
        class_names: in label order, where files beside the list say it; () where only the labels do.
        root: the folder that the paths start from, where the list is a folder itself.
    """

    format: str
    entries: Iterable[Entry]
    class_names: tuple[str, ...] = ()
    root: str = ""


def at(file: Path, line: int) -> str:
    """The place of an error."""
    return f"{file}, line {line}"


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, stripped, with their numbers from 1. A line that starts with `# ` is a comment.

    Raises:
        AnnotationError: the file cannot be read, or is not UTF-8 text.
    """
    for number, line in raw_lines(file):
        text = line.strip()
        if text and not text.startswith("# "):  # names of HMDB51 start with a `#` that no blank follows
            yield number, text


def raw_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines with their ends (CRLF becomes LF) and their numbers from 1; a byte-order mark is left out.

    Raises:
        AnnotationError: the file cannot be read, or is not UTF-8 text.
    """
    number = 0
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{file} is not UTF-8 text (after line {number}). Save it as UTF-8.") from error
    except OSError as error:
        raise AnnotationError(f"{file} cannot be read: {error.strerror}. Check the path of the list.") from error


def ended_lines(file: Path) -> Iterator[str]:
    """Lines with their ends, the last one as well, so that a quote that is open there goes on as in any other."""
    for _, line in raw_lines(file):
        yield line if line.endswith("\n") else line + "\n"


def has_extension(path: str) -> bool:
    """Whether a path ends as videos and images do."""
    dot = path.rfind(".")
    return dot >= 0 and path[dot:].lower() in _EXTENSIONS


def is_absolute(path: str) -> bool:
    """Whether a path needs no root: from `/`, or an address as of an object store."""
    return os.path.isabs(path) or "://" in path


def find_root(file: Path, written: Iterable[str]) -> str:
    """The folder that relative paths start from: the current one or that of the list, "" if all are absolute."""
    probes = list(itertools.islice((path for path in written if not is_absolute(path)), _NUMBER_OF_PROBES))
    if not probes:
        return ""
    here, beside_list = os.getcwd(), str(file.absolute().parent)
    for folder in (here, beside_list):
        if any(os.path.exists(os.path.join(folder, path.partition(".tar#")[0])) for path in probes):
            return folder
    return here


class FileFinder:
    """Looks up videos of which a list gives neither folder nor extension; a folder is read once, not asked per file.

    Args:
        roots: folders that may be the root; the first one in which one of `probes` lies is.
        probes: some of the list's entries.

    Attributes:
        found_root: that folder; "" if none of the probes was found.
        num_searched, num_lost: entries that were looked for, and of these not found.
    """

    def __init__(self, roots: Sequence[str], probes: Sequence[Entry]) -> None:
        self._names: dict[str, dict[str, str]] = {}
        self.num_searched, self.num_lost, self.found_root = 0, 0, ""
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
        self.num_lost += found is None
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
        """File name by name with and without extension; what stands earlier in VIDEO_EXTENSIONS wins."""
        if folder not in self._names:
            try:
                present = os.listdir(folder or ".")
            except (OSError, ValueError):  # a name with a zero byte is a ValueError
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
