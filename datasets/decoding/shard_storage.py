"""Where shards lie: files of this machine, or anything that fsspec opens."""

import contextlib
import functools
import mmap
import os
from collections.abc import Callable
from typing import IO

from ..errors import ShardError


class LocalStorage:
    """Files of this machine."""

    def exists(self, path: str) -> bool:
        return os.path.isfile(path)

    def open(self, path: str) -> tuple[Callable[[int, int], bytes], int, Callable[[], None]]:
        file = open(path, "rb", buffering=0)  # noqa: SIM115  (closed by the shard)
        return functools.partial(_read_at, file.fileno()), os.fstat(file.fileno()).st_size, file.close

    def stream(self, path: str) -> IO[bytes]:
        return open(path, "rb")

    def content(self, path: str) -> mmap.mmap | None:
        try:
            with open(path, "rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # not there; empty, which cannot be mapped
            return None

    def save(self, path: str, content: bytes) -> bool:
        """Whether the file could be written; it appears whole."""
        partial = f"{path}.{os.getpid()}.partial"
        try:
            with open(partial, "wb") as file:
                file.write(content)
            os.replace(partial, path)
        except OSError:
            self.remove(partial)
            return False
        return True

    def remove(self, path: str) -> None:
        with contextlib.suppress(OSError):
            os.remove(path)


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(descriptor, size, offset)  # at most 2 GiB at once
        if not part:
            break
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class RemoteStorage:
    """Anything that fsspec opens. Indices are read where there are some, and never written."""

    def __init__(self) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ShardError(
                "paths with :// need fsspec: `pip install fsspec`, and its driver for this storage"
            ) from error
        self._resolve = url_to_fs

    def exists(self, path: str) -> bool:
        system, name = self._resolve(path)
        return system.isfile(name)

    def open(self, path: str) -> tuple[Callable[[int, int], bytes], int, Callable[[], None]]:
        system, name = self._resolve(path)
        size = system.size(name)
        return lambda offset, size: system.cat_file(name, start=offset, end=offset + size), size, lambda: None

    def stream(self, path: str) -> IO[bytes]:
        system, name = self._resolve(path)
        return system.open(name, "rb")

    def content(self, path: str) -> bytes | None:
        system, name = self._resolve(path)
        return system.cat_file(name) if system.exists(name) else None

    def save(self, path: str, content: bytes) -> bool:
        return False

    def remove(self, path: str) -> None:
        """Nothing: see `save`."""


def storage_of(path: str) -> LocalStorage | RemoteStorage:
    return _remote() if "://" in path else LocalStorage()


_remote = functools.cache(RemoteStorage)
