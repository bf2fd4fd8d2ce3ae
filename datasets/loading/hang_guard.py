"""A guard against decoders that never return from native code, where neither Python nor Ctrl-C reaches them.

A worker says before each video which one it opens; if it does not come back in time, a thread of the interpreter that
needs no lock ends the process. The parent, which sees a dead worker, finds the path in the worker's file.
"""

import contextlib
import faulthandler
import os
from collections.abc import Iterator
from typing import IO, NamedTuple

_MARK = b"\0"  # ends the path in the file; no path contains it
_file: IO[bytes] | None = None


class LastDecode(NamedTuple):
    """What a worker was decoding when it ended.

    Attributes:
        path: the video.
        hung: whether it was ended because it took too long.
        traceback: where it hung, as faulthandler writes it; "" otherwise.
    """

    path: str
    hung: bool
    traceback: str


def set_watch_file(file: str | os.PathLike[str] | None) -> None:
    """Where this process writes what it decodes: a file of its own, overwritten; None switches the guard off."""
    global _file
    if _file is not None:
        _file.close()
    _file = None if file is None else open(file, "wb", buffering=0)  # noqa: SIM115  (open as long as the process)


@contextlib.contextmanager
def watched(path: str | os.PathLike[str], seconds: float) -> Iterator[None]:
    """Ends the process with code 1 if the block takes longer; its file then names `path`. Not to be nested.

    Does nothing without `set_watch_file`: to end a process that cannot say why would help nobody.
    """
    if _file is None:
        yield
        return
    _write(_file, os.fsencode(path) + _MARK)
    faulthandler.dump_traceback_later(seconds, exit=True, file=_file)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        _write(_file, b"")


def _write(file: IO[bytes], text: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)


def last_watched(file: str | os.PathLike[str]) -> LastDecode | None:
    """What the process with this watch file was decoding when it ended; None if nothing, or without such a file."""
    try:
        with open(file, "rb") as stream:
            path, mark, rest = stream.read().partition(_MARK)
    except FileNotFoundError:
        return None
    if not mark:
        return None
    return LastDecode(os.fsdecode(path), rest.startswith(b"Timeout"), rest.decode(errors="replace"))
