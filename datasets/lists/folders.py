"""Folders of videos: what lies in them in a fixed order, and what was passed over, with names and counts."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..decoding.media_names import is_image, is_left_out, is_video, suffix_of
from ..errors import AnnotationError
from .entries import Entry, ListPart, Parsed

FRAME_FOLDERS = "a folder of videos, each a folder of frames"
_SHOWN = 3  # names of what was passed over
_HIDDEN = "hidden or system names or unfinished downloads"
_NAME = "names with line ends or bytes that are not UTF-8, which no list holds (rename them)"
_LINK = "links that lead nowhere or back, and what is no file"
_BESIDE = "pictures beside videos"
_OUTSIDE = "videos and pictures outside of the folders of classes"


class Item(NamedTuple):
    """A video or picture that was found.

    Attributes:
        path: relative to the folder that was searched.
        kind: "video"; "frames", a folder of pictures; "picture".
    """

    path: str
    kind: str


@dataclass
class FolderScan:
    """What a folder holds.

    Attributes:
        root: the folder.
        items: by name, folder by folder.
        passed_over: why -> relative paths.
        others: suffix -> files that are neither videos nor pictures.
    """

    root: str
    items: list[Item] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    others: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def notes(self) -> list[str]:
        """What was passed over, in words."""
        reasons = sorted(self.passed_over.items())
        lines = [f"passed over {len(names)} {reason}: {_examples(names)}" for reason, names in reasons]
        others = sorted(self.others.items())
        if others:
            parts = (f"{len(names)} {suffix or 'without suffix'} ({_examples(names)})" for suffix, names in others)
            lines.append(f"passed over, neither video nor picture: {', '.join(parts)}")
        return lines


def _examples(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(name if name.isprintable() else ascii(name)[1:-1] for name in names[:_SHOWN]) + more


def scan_folder(root: str, *, frames_from: int) -> FolderScan:
    """All videos below a folder, in the order of their names.

    Hidden and system names are left out; so are loose pictures where there are videos: a data set of videos takes
    videos. A folder that holds pictures and no video is one video, its frames.

    Args:
        root: the folder.
        frames_from: how many levels down a folder may be a video of frames: 1 for folders in `root`, 2 for those in
            the folders of classes.

    Raises:
        AnnotationError: a folder cannot be read.
    """
    scan = FolderScan(root)
    items = list(_walk(scan, "", frames_from, ()))
    has_videos = any(kind != "picture" for _, kind in items)
    for item in items:
        if has_videos and item.kind == "picture":
            scan.passed_over[_BESIDE].append(item.path)
        else:
            scan.items.append(item)
    return scan


def _walk(scan: FolderScan, folder: str, frames_from: int, above: tuple[tuple[int, int], ...]) -> Iterator[Item]:
    """The items of a folder; loose pictures among them.

    Args:
        folder: relative to the root of the scan.
        above: device and inode of the folders above it, in which a link may end.
    """
    full = os.path.join(scan.root, folder)
    try:
        status = os.stat(full)
        entries = sorted(os.scandir(full), key=lambda entry: entry.name)
    except OSError as error:
        raise AnnotationError(f"{full} cannot be read: {error.strerror}") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        scan.passed_over[_LINK].append(folder)
        return
    items: list[Item] = []
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if _may_be_taken(scan, entry, path):
            if entry.is_dir():
                items += _walk(scan, path, frames_from, (*above, here))
            elif is_video(entry.name) or is_image(entry.name):
                items.append(Item(path, "video" if is_video(entry.name) else "picture"))
            else:
                scan.others[suffix_of(entry.name)].append(path)
    depth = len(above)
    if depth >= frames_from and items and all(kind == "picture" for _, kind in items):
        yield Item(folder, "frames")
    else:
        yield from items


def _may_be_taken(scan: FolderScan, entry: os.DirEntry[str], path: str) -> bool:
    """Whether an entry of a folder is to be looked at; if not, it is noted."""
    if is_left_out(entry.name):
        scan.passed_over[_HIDDEN].append(path)
    elif not _is_text(entry.name):
        scan.passed_over[_NAME].append(path)
    elif not _is_there(entry):
        scan.passed_over[_LINK].append(path)
    else:
        return True
    return False


def _is_text(name: str) -> bool:
    """Whether a list can hold a name."""
    try:
        return not set(name) & {"\n", "\r"} and bool(name.encode())
    except UnicodeEncodeError:
        return False


def _is_there(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() or entry.is_file()
    except OSError:  # links in a circle
        return False


# ------------------------------------------------------------------------------------------------- formats


def read_folder(file: Path, part: ListPart) -> Parsed:
    """Hugging Face's VideoFolder: a folder per class, or `metadata.csv` / `metadata.jsonl` with file names.

    The folder of a class holds videos, folders of frames, or, if there are neither, pictures. Classes are numbered in
    the order of their names; a folder without any of these is no class.
    """
    _refuse_no_folder(file)
    scan = scan_folder(str(file), frames_from=2)
    for item in scan.items:
        if os.sep not in item.path:
            scan.passed_over[_OUTSIDE].append(item.path)
    return _classes(file, scan, [item for item in scan.items if os.sep in item.path])


def _refuse_no_folder(file: Path) -> None:
    if not file.is_dir():
        raise AnnotationError(f"{file}: not a folder. Choose another --list_format.")
    if (file / "metadata.parquet").is_file():
        raise AnnotationError(f"{file / 'metadata.parquet'} cannot be read: write it as metadata.csv or .jsonl.")


def _classes(file: Path, scan: FolderScan, items: Sequence[Item]) -> Parsed:
    folders = [entry.name for entry in os.scandir(file) if not is_left_out(entry.name) and _is_folder(entry)]
    if not items:
        what = (
            "no videos in its folders" if folders else "neither folders of classes nor a metadata.csv or metadata.jsonl"
        )
        raise AnnotationError("; ".join([f"{file}: {what} in it", *scan.notes()]) + ".")
    names = sorted({item.path.partition(os.sep)[0] for item in items})
    entries = (Entry(place, item.path, item.path.partition(os.sep)[0]) for place, item in enumerate(items, start=1))
    empty = sorted(set(folders) - set(names))
    notes = [f"{len(empty)} folders without a video are no classes: {_examples(empty)}"] if empty else []
    notes += _alike(names) + _mixture(items) + scan.notes()
    return Parsed("a folder for each class", entries, tuple(names), str(file), notes=notes, unit="video")


def _alike(names: Sequence[str]) -> list[str]:
    """Names of classes that differ in upper and lower case, blanks or the form of their accents only."""
    forms = defaultdict[str, list[str]](list)
    for name in names:
        forms[" ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())].append(name)
    alike = [", ".join(map(ascii, group)) for group in forms.values() if len(group) > 1]
    return [f"{len(alike)} classes are there under several names: {'; '.join(alike[:_SHOWN])}"] if alike else []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _mixture(items: Sequence[Item]) -> list[str]:
    """What is odd about a set of videos: folders of frames among files, and files of one name."""
    counts = Counter(kind for _, kind in items)
    notes = [f"{counts['frames']} folders of frames beside {counts['video']} video files"] if len(counts) > 1 else []
    stems = Counter(os.path.splitext(path)[0] for path, kind in items if kind == "video")
    alike = [path for path, kind in items if kind == "video" and stems[os.path.splitext(path)[0]] > 1]
    if alike:
        notes.append(f"{len(alike)} videos have the name of another but for the suffix: {_examples(alike)}")
    return notes


def read_videos(file: Path, part: ListPart) -> Parsed:
    """All videos of a folder, however deep, in the order of their names; if all lie in folders, these are labels.

    Raises:
        AnnotationError: there are none.
    """
    _refuse_no_folder(file)
    scan = scan_folder(str(file), frames_from=1)
    if not scan.items:
        raise AnnotationError("; ".join([f"{file}: no videos in it", *scan.notes()]) + ".")
    if all(os.sep in item.path for item in scan.items):
        return _classes(file, scan, scan.items)
    entries = (Entry(place, item.path) for place, item in enumerate(scan.items, start=1))
    kind = FRAME_FOLDERS if {kind for _, kind in scan.items} == {"frames"} else "a folder of videos"
    return Parsed(kind, entries, (), str(file), notes=[*_mixture(scan.items), *scan.notes()], unit="video")
