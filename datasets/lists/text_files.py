"""Lists as text: lines, csv rows and json, with the line number in every error."""

import codecs
import csv
import json
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import AnnotationError

_BINARY = (  # what the file is, its first bytes, and where they are
    ("packed with gzip (.gz)", b"\x1f\x8b", 0),
    ("UTF-16 text, not UTF-8", codecs.BOM_UTF16_LE, 0),
    ("UTF-16 text, not UTF-8", codecs.BOM_UTF16_BE, 0),
    ("a zip archive or a spreadsheet (.zip, .xlsx)", b"PK\x03\x04", 0),
    ("a video (.mp4)", b"ftyp", 4),
    ("a video (.mkv, .webm)", b"\x1a\x45\xdf\xa3", 0),
    ("a video (.avi)", b"RIFF", 0),
    ("a picture", b"\xff\xd8\xff", 0),
    ("a picture", b"\x89PNG", 0),
    ("a NumPy array", b"\x93NUMPY", 0),
)
_NO_LISTS = (  # what text is that is found in place of a list, and how it begins
    ("what Git LFS keeps in place of a file: `git lfs pull` gets the file", "version https://git-lfs"),
    ("a web page: download the list itself", "<!doctype html"),
    ("a web page: download the list itself", "<html"),
)
TOO_MUCH_JSON = "not JSON that can be read (numbers of thousands of digits, or too many brackets in one another)."


def at(file: Path, line: int, unit: str = "line") -> str:
    """File and line, the beginning of an error message."""
    return f"{file}, {unit} {line}"


def refuse_no_file(file: Path) -> None:
    """Refuse a pipe or a device, from which nothing may ever come, before it is opened; a folder or nothing may be.

    Raises:
        AnnotationError: so it is.
    """
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError):
        return  # opening it says why
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise AnnotationError(f"{file} is a pipe, a device or a socket. Write the list to a file.")


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, stripped, with their numbers from 1. A line that starts with `# ` is a comment.

    Raises:
        AnnotationError: the file cannot be read, or is not UTF-8 text.
    """
    for number, line in raw_lines(file):
        text = line.strip()
        if text and not text.startswith("# "):  # names in HMDB51 start with a `#` and no space
            yield number, text


def raw_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines with their newlines (CRLF becomes LF) and their numbers from 1; a byte-order mark is removed.

    Raises:
        AnnotationError: the file cannot be read, or is not UTF-8 text.
    """
    refuse_no_file(file)
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    _refuse_no_list(file, line)
                yield number, line
    except UnicodeDecodeError as error:
        raise AnnotationError(_why_no_text(file)) from error
    except IsADirectoryError as error:
        raise AnnotationError(f"{file} is a folder. Give a list, or another --list_format.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AnnotationError(f"{file} cannot be read: {reason}. Check the path of the list.") from error


def _refuse_no_list(file: Path, line: str) -> None:
    """Raise an AnnotationError for a file whose first line shows that another was meant."""
    for kind, start in _NO_LISTS:
        if line.lower().startswith(start):
            raise AnnotationError(f"{file} is {kind}.")


def _why_no_text(file: Path) -> str:
    """What is wrong with a file that is not UTF-8 text: what it is instead, or its first such line and byte."""
    with file.open("rb") as content:
        start = content.read(16)
        content.seek(0)
        for kind, mark, place in _BINARY:
            if start[place : place + len(mark)] == mark:
                return f"{file} is {kind}. Save or give a list of `path label` a line as UTF-8 text."
        for number, line in enumerate(content, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f"byte {line[error.start]:#04x} at place {error.start + 1}, after {line[: error.start][-30:]!a}"
                return f"{at(file, number)}: not UTF-8 text ({found}). Save the list as UTF-8."
    return f"{file}: not UTF-8 text. Save the list as UTF-8."


def _ended_lines(file: Path) -> Iterator[str]:
    """Lines with a newline, the last one too, so that a quote left open there reads as one left open anywhere else."""
    for _, line in raw_lines(file):
        yield line if line.endswith("\n") else line + "\n"


def csv_rows(file: Path, delimiter: str, *, skip_spaces: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Rows of a csv file that are not blank, with their line numbers from 1.

    Args:
        skip_spaces: drop spaces after a delimiter.

    Raises:
        AnnotationError: it cannot be read, is not csv, or a row spans several lines.
    """
    reader = csv.reader(_ended_lines(file), delimiter=delimiter, skipinitialspace=skip_spaces)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise AnnotationError(f"{at(file, number)}: not csv ({error}). Check the quotes.") from error
        if row is None:
            return
        if any(cell.strip() for cell in row):
            _refuse_line_ends(file, number, row)
            yield number, row


def _refuse_line_ends(file: Path, number: int, row: Sequence[str]) -> None:
    """Raise an AnnotationError for a row that spans several lines, as it does where a quote is not closed."""
    if any("\n" in cell for cell in row):
        raise AnnotationError(
            f"{at(file, number)}: a quote is opened that is not closed in this line. Close it; neither paths nor "
            "labels can hold the end of a line."
        )


def read_json(file: Path) -> Any:
    """What a json file holds.

    Raises:
        AnnotationError: it cannot be read, or is not json.
    """
    try:
        return json.loads("".join(line for _, line in raw_lines(file)))
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{at(file, error.lineno)}: not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{file}: {TOO_MUCH_JSON}") from error
