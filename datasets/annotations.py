"""List files: which videos, and their labels.

One video a line, `path label`, as in VideoMAE's lists: any number of blanks or tabs between, the label is the last
field, so a path may hold blanks. A list without any labels, `path` only, serves for pre-training. A byte-order mark,
Windows line ends and blank lines are accepted. Whatever cannot be read is an `AnnotationError` with its line number.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

NO_LABEL = -1
_COMMA = re.compile(r",\s*([+-]?\d+\s*)?$|^[^\s.]+,[^\s.]+$")  # `a.mp4,3`, `a.mp4, 3` and the header `path,label`
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # stricter than `int`, which also takes `1_0`
_NUMBER_OF_PROBES = 100  # relative paths tried to find the folder they belong to
_STAT_THREADS = 16  # a network file system answers one `stat` in about a millisecond: ask many at a time
_STAT_CHUNK = 1024


MAX_CLASSES = 100_000  # more than any list of videos has: a slip of the pen, not a number of classes


class AnnotationError(ValueError):
    """A list, a path or a label that the user has to put right; the text says where and how."""


@dataclass(frozen=True)
class VideoList:
    """Videos of one list file, in its order.

    Attributes:
        file: the list file.
        format: how its lines were read: "path label" or "path".
        paths: absolute, or joined with `root`.
        labels: one for each path; all -1 when the list has none.
        root: the folder that relative paths were joined with; "" when all are absolute.
        fingerprint: start of the SHA-256 of the lines `path<TAB>label`, with the paths as written in the list.
        line_numbers: the line of each path in the file, from 1.
    """

    file: Path
    format: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    root: str
    fingerprint: str
    line_numbers: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """Highest label + 1; 0 for a list without labels."""
        return max(self.labels) + 1

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> str:
        """One line for the start of a run."""
        return (
            f"{self.file}: format '{self.format}', {len(self)} videos, {self.num_classes} classes, "
            f"fingerprint {self.fingerprint}"
        )


def read_list(file: str | os.PathLike[str], *, root: str = "", require_labels: bool = False) -> VideoList:
    """Read a list of videos.

    Relative paths are joined with `root` if it is given. Otherwise they are taken relative to the current directory
    if any of the first hundred exists there, else to the folder of the list if one exists there, else to the current
    directory.

    Raises:
        AnnotationError: the list is missing, empty or not UTF-8 text; a line cannot be read; some lines have a label
            and others do not; `require_labels` and there are none.
    """
    file = Path(file)
    entries = [(number, *_read_line(file, number, line)) for number, line in _numbered_lines(file)]
    if not entries:
        raise AnnotationError(f"{file} lists no videos. Write one `path label` a line.")
    numbers, written, labels = zip(*entries, strict=True)
    _check_uniform(file, numbers, labels, require_labels)
    root = root or _find_root(file, written)
    lines = "".join(f"{path}\t{label}\n" for path, label in zip(written, labels, strict=True))
    return VideoList(
        file=file,
        format="path" if labels[0] == NO_LABEL else "path label",
        paths=tuple(os.path.join(root, path) for path in written),
        labels=labels,
        root=root,
        fingerprint=hashlib.sha256(lines.encode()).hexdigest()[:12],
        line_numbers=numbers,
    )


def read_class_names(file: Path) -> list[str]:
    """The names in a file of one a line, in label order.

    Raises:
        AnnotationError: it is not text.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{file}: not UTF-8 text ({error.reason}): save it as UTF-8, one class name a line"
        ) from error


def count_classes(videos: VideoList) -> int:
    """The number of classes that a list speaks of: its largest label + 1.

    Raises:
        AnnotationError: a label too large to be meant.
    """
    if videos.num_classes > MAX_CLASSES:
        place = videos.labels.index(videos.num_classes - 1)
        raise AnnotationError(
            f"{videos.file}, line {videos.line_numbers[place]}: label {videos.num_classes - 1} would make that many "
            "classes; correct it, or give --nb_classes"
        )
    return videos.num_classes


def check_labels(videos: VideoList, num_classes: int) -> None:
    """Refuse a list that does not fit a classifier of `num_classes` classes.

    Raises:
        AnnotationError: the list has no labels, or a label is outside 0..num_classes - 1.
    """
    if videos.labels[0] == NO_LABEL:
        raise AnnotationError(f"{videos.file} has no labels. Write one `path label` a line.")
    for number, label in zip(videos.line_numbers, videos.labels, strict=True):
        if not 0 <= label < num_classes:
            raise AnnotationError(
                f"{videos.file}, line {number}: label {label} does not fit {num_classes} classes "
                f"(0..{num_classes - 1}). Labels count from 0; check the list and `--nb_classes`."
            )


def check_files(videos: VideoList, *, handful: int = 5) -> list[str]:
    """The paths that are not files; a few of them are the caller's to report.

    Raises:
        AnnotationError: more than `handful` are missing, which is a wrong root rather than lost videos.
    """
    chunks = [videos.paths[start : start + _STAT_CHUNK] for start in range(0, len(videos), _STAT_CHUNK)]
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        missing = list(itertools.chain.from_iterable(pool.map(_missing_files, chunks)))
    if len(missing) > handful:
        tried = f"Relative paths were joined with {videos.root}." if videos.root else "The list has absolute paths."
        raise AnnotationError(
            f"{videos.file}: {len(missing)} of {len(videos)} videos do not exist, for example "
            f"{', '.join(missing[:3])}. {tried} Check the list and `--data_root`."
        )
    return missing


def _numbered_lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # and universal newlines: CRLF becomes LF
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{file} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise AnnotationError(f"{file} cannot be read: {error.strerror}. Check the path of the list.") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _read_line(file: Path, number: int, line: str) -> tuple[str, int]:
    """Path and label of one line; -1 where it has a path only."""
    *before, last = line.rsplit(maxsplit=1)
    path = before[0] if before else ""
    if path and not path.endswith(",") and _INTEGER.fullmatch(last):
        if last.startswith("-"):
            raise AnnotationError(
                f"{file}, line {number}: label {last} is negative. Write `path label`, or on every line the path only."
            )
        return path, int(last)
    if _COMMA.search(line):
        raise AnnotationError(f"{file}, line {number}: comma between path and label in '{line}'. Put a blank there.")
    if not path or (_has_extension(last) and not _is_number(last)):
        return line, NO_LABEL
    raise AnnotationError(
        f"{file}, line {number}: label '{last}' is not an integer. "
        "Write `path label`, with labels from 0, and no header."
    )


def _has_extension(field: str) -> bool:
    return os.path.splitext(field)[1] != ""


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _check_uniform(file: Path, numbers: Sequence[int], labels: Sequence[int], require_labels: bool) -> None:
    unlabelled = [number for number, label in zip(numbers, labels, strict=True) if label == NO_LABEL]
    if unlabelled and (require_labels or len(unlabelled) < len(labels)):
        raise AnnotationError(
            f"{file}, line {unlabelled[0]}: no label ({len(unlabelled)} of {len(labels)} lines have none). "
            "Write `path label` on every line."
        )


def _find_root(file: Path, written: Sequence[str]) -> str:
    probes = list(itertools.islice((path for path in written if not os.path.isabs(path)), _NUMBER_OF_PROBES))
    if not probes:
        return ""
    here, beside_list = os.getcwd(), str(file.absolute().parent)
    for folder in (here, beside_list):
        if any(os.path.exists(os.path.join(folder, path)) for path in probes):
            return folder
    return here


def _missing_files(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not os.path.isfile(path)]
