"""Lists as text: lines, csv rows and json, with the line number in every error."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import AnnotationError

TOO_MUCH_JSON = "not JSON that can be read (numbers of thousands of digits, or too many brackets in one another)."


def at(file: Path, line: int) -> str:
    """File and line, the beginning of an error message."""
    return f"{file}, line {line}"


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
    number = 0
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{file} is not UTF-8 text (after line {number}). Save it as UTF-8.") from error
    except OSError as error:
        raise AnnotationError(f"{file} cannot be read: {error.strerror}. Check the path of the list.") from error


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
