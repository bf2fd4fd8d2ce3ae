"""The columns of a large list in a file that is memory-mapped.

That file (`<list>.index/KEY.columns`) makes start-up time and memory independent of the list's length: a path is
decoded when it is asked for, and worker processes are sent the file's name. It is written under another name and then
renamed, so several ranks may write it at once. Layout: magic line, length of the header (8 bytes), its CRC-32 (4
bytes), that of the arrays (4 bytes, see `_checksum`), header (JSON), and the arrays, each on a multiple of 64 bytes.
"""

import functools
import itertools
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import numpy as np

from ..errors import AnnotationError
from .video_list import Span

_MAGIC = b"SIGMA list 3\n"
_BEFORE_HEADER = len(_MAGIC) + 8 + 4 + 4
_ALIGNMENT = 64
_PIECE = 1 << 15  # bytes read at a time for the checksum
_ALL_UP_TO = 256 << 20  # bytes, of some 4 million videos, that are read in a quarter of a second
_PIECES = 1024  # of larger arrays
_CHUNK = 4096  # rows decoded at a time when a column is read from end to end

T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """A list as arrays.

    Attributes:
        arrays: "paths" uint8, all paths one after another, and "path_ends" int64 (N,); "labels" int64 (N,); "lines"
            int64 (N,); for several labels a video "set_values" int64 and "set_ends" int64 (N,); "values" float64 (N,),
            of lists of numbers; "spans" float64 (N, 2).
        facts: "class_names", "names_from", "fingerprint", "num_classes", "lowest_label",
            "notes", "moments" of each video (none: of no video), and what the caller adds.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    @property
    def length(self) -> int:
        """N, the number of videos."""
        return len(self.arrays["path_ends"])

    def array(self, name: str) -> np.ndarray | None:
        """A column; None if the list has none of that name."""
        return self.arrays.get(name)


def write_columns(file: Path, columns: Columns) -> None:
    """Write an index; it appears whole or not at all.

    Raises:
        OSError: the folder cannot be written to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    places, offset = {}, 0
    for name, values in columns.arrays.items():
        places[name] = {"dtype": values.dtype.str, "shape": list(values.shape), "offset": offset}
        offset += -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"facts": columns.facts, "arrays": places, "size": offset}).encode()
    start = _aligned(_BEFORE_HEADER + len(header))
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".part")
    try:
        with os.fdopen(handle, "w+b") as out:
            for name, values in columns.arrays.items():
                out.seek(start + places[name]["offset"])
                values.tofile(out)
            out.truncate(start + offset)
            sums = (len(header), 8), (zlib.crc32(header), 4), (_checksum(out, start, offset), 4)
            out.seek(0)
            out.write(_MAGIC + b"".join(number.to_bytes(width, "little") for number, width in sums) + header)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner only; a list's readers share its index
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _checksum(content: IO[bytes], start: int, size: int) -> int:
    """CRC-32 of the arrays; of very large ones only of pieces, evenly spread from their start to their end.

    So a start stays fast for a list of any length, and finds what happens to files as a whole: blocks that were never
    written, another file's content, a copy that went wrong. The bytes are read, not mapped, and take no memory.
    """
    pieces = -(-size // _PIECE) if size <= _ALL_UP_TO else _PIECES
    checksum = 0
    for piece in range(pieces):
        offset = piece * _PIECE if size <= _ALL_UP_TO else piece * (size - _PIECE) // (pieces - 1)
        content.seek(start + offset)
        checksum = zlib.crc32(content.read(min(_PIECE, size - offset)), checksum)
    return checksum


class ColumnFile:
    """An index on disk. Pickled it is a file name: unpickling maps the file again.

    Args:
        file: what `write_columns` wrote.
        check: compare the arrays with their checksum.

    Raises:
        ValueError: it is not that, not whole, or damaged.
        OSError: it cannot be read.
    """

    def __init__(self, file: Path, *, check: bool = False) -> None:
        self.file = file
        with file.open("rb") as content:
            if content.read(len(_MAGIC)) != _MAGIC:
                raise ValueError(f"{file} is not an index of a list")
            size = os.fstat(content.fileno()).st_size
            length, text_sum, arrays_sum = (int.from_bytes(content.read(count), "little") for count in (8, 4, 4))
            text = content.read(length) if length < size else b""
            if zlib.crc32(text) != text_sum:
                raise ValueError(f"{file} is damaged")
            header = json.loads(text)
            start = _aligned(_BEFORE_HEADER + length)
            if size != start + header["size"]:
                raise ValueError(f"{file} is not whole")
            if check and _checksum(content, start, header["size"]) != arrays_sum:
                raise ValueError(f"{file} is damaged")
            # now, all at once: later another file may have taken this one's name
            mapped = np.memmap(content, np.uint8, "r", offset=start, shape=(header["size"],))
        self.facts: dict[str, Any] = header["facts"]
        self._arrays = {name: _view(mapped, place) for name, place in header["arrays"].items()}
        self.length = len(self._arrays["path_ends"])
        if self._arrays["path_ends"][-1] != len(self._arrays["paths"]):
            raise ValueError(f"{file} is damaged")

    def array(self, name: str) -> np.ndarray | None:
        """A column, mapped; None if the list has none of that name."""
        return self._arrays.get(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.file, self.facts["fingerprint"])


def _view(mapped: np.ndarray, place: dict[str, Any]) -> np.ndarray:
    size = math.prod(place["shape"]) * np.dtype(place["dtype"]).itemsize
    values = mapped[place["offset"] : place["offset"] + size]
    return np.asarray(values).view(place["dtype"]).reshape(place["shape"])


@functools.lru_cache(maxsize=16)
def _reopen(file: Path, fingerprint: str) -> ColumnFile:
    columns = ColumnFile(file)
    if columns.facts["fingerprint"] != fingerprint:
        raise AnnotationError(f"{file}: the list was changed while this run was starting. Start it again.")
    return columns


class Column(Sequence[T]):
    """A column as a sequence; of a mapped index only what is asked for is read."""

    def __init__(self, source: Columns | ColumnFile) -> None:
        self.source = source

    def rows(self, start: int, stop: int) -> list[T]:
        """The values from `start` to before `stop`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.source.length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return tuple(self.rows(start, max(start, stop)))
            return tuple(self[place] for place in range(start, stop, step))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"{index} of {len(self)}")
        return self.rows(int(place), int(place) + 1)[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), _CHUNK):
            yield from self.rows(start, min(start + _CHUNK, len(self)))

    def _array(self, name: str) -> np.ndarray:
        values = self.source.array(name)
        assert values is not None, name
        return values

    def _bounds(self, name: str, start: int, stop: int) -> list[int]:
        """Where the values of rows start..stop begin, and where the last one ends."""
        first = [0] if start == 0 else [int(self._array(name)[start - 1])]
        return first + self._array(name)[start:stop].tolist()


class PathColumn(Column[str]):
    """Paths, joined with the root."""

    def __init__(self, source: Columns | ColumnFile, root: str) -> None:
        super().__init__(source)
        self.root = root

    def rows(self, start: int, stop: int) -> list[str]:
        bounds = self._bounds("path_ends", start, stop)
        text = self._array("paths")[bounds[0] : bounds[-1]].tobytes()
        ends = [bound - bounds[0] for bound in bounds]
        paths = [text[a:b].decode() for a, b in itertools.pairwise(ends)]
        return [path if "://" in path else os.path.join(self.root, path) for path in paths]


class NumberColumn(Column[Any]):
    """Numbers of the column `name`, whole ones or floats as they are stored."""

    def __init__(self, source: Columns | ColumnFile, name: str) -> None:
        super().__init__(source)
        self.name = name

    def rows(self, start: int, stop: int) -> list[int]:
        return self._array(self.name)[start:stop].tolist()


class SetColumn(Column[tuple[int, ...]]):
    """Several labels a video."""

    def rows(self, start: int, stop: int) -> list[tuple[int, ...]]:
        bounds = self._bounds("set_ends", start, stop)
        values = self._array("set_values")
        return [tuple(values[a:b].tolist()) for a, b in itertools.pairwise(bounds)]


class SpanColumn(Column[Span | None]):
    """(start, end) in seconds; None for a whole video."""

    def rows(self, start: int, stop: int) -> list[Span | None]:
        return [spans_of(first, last) for first, last in self._array("spans")[start:stop].tolist()]


def spans_of(first: float, last: float) -> Span | None:
    """A row of the column of spans as VideoList has it."""
    return None if math.isnan(first) else (first, last)
