"""A file that is being downloaded: what an earlier try left of it, and whether that may be gone on with.

Beside NAME lie NAME.part and NAME.part.version, what the server calls this version of the file. A server that gives
none gets no second try: the part is of a version that nobody can tell.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


class Partial:
    """The part of a file, open for writing at its end.

    Attributes:
        path: of the part.
        done: bytes that are in it.
        digest: of them.
        kept: whether the part stays for the next try when this one ends.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self._version = path.with_name(f"{path.name}.version")
        self.kept = False
        self.done, self.digest = 0, hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            self.write(chunk, is_new=False)
        if not self.version:
            self.restart()

    @property
    def version(self) -> str:
        """As the server named it; "" if it did not."""
        return self._version.read_text(encoding="latin-1") if self._version.is_file() else ""

    def request(self) -> dict[str, str]:
        """Headers that ask for the rest, if the file on the server is still that of the part."""
        return {"Range": f"bytes={self.done}-", "If-Range": self.version} if self.done else {}

    def restart(self) -> None:
        """Forget what is there."""
        self.stream.seek(0)
        self.stream.truncate()
        self.done, self.digest = 0, hashlib.sha256()

    def note(self, headers: Mapping[str, str]) -> None:
        """Keep what the server calls this version: its strong entity tag, else its date (RFC 9110, 13.1.5)."""
        tag = headers.get("ETag") or ""
        self._version.write_text(tag if tag.startswith('"') else headers.get("Last-Modified") or "", encoding="latin-1")

    def write(self, chunk: bytes, *, is_new: bool = True) -> None:
        """Append."""
        if is_new:
            self.stream.write(chunk)
        self.digest.update(chunk)
        self.done += len(chunk)

    def keep(self) -> bool:
        """Leave the part for the next try; False if that could not go on with it."""
        self.kept = self.done > 0 and bool(self.version)
        return self.kept

    def remove(self) -> None:
        """Delete what lies there."""
        self.path.unlink(missing_ok=True)
        self._version.unlink(missing_ok=True)


def _is_at(stream: BinaryIO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())


@contextmanager
def open_partial(file: Path, own: str) -> Iterator[Partial]:
    """The part of a file; it is deleted at the end unless it was kept or moved.

    Args:
        own: goes into the name of a part of this process alone, where another one is writing the common one.
    """
    for name in (f"{file.name}.part", f"{file.name}.{own}.part"):
        with file.with_name(name).open("a+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not _is_at(stream, file.with_name(name)):  # moved away, as it was whole, before it was locked here
                continue
            stream.seek(0)
            part = Partial(file.with_name(name), stream)
            try:
                yield part
            finally:
                if not part.kept:
                    part.remove()
            return
