"""Shards: videos as members of plain, uncompressed tar files, read in any order.

A path `/data/k400-00017.tar#abseiling/x.mp4` names a member of a shard, in lists as everywhere else. An index beside
the shard (`k400-00017.tar.index`) says where each member lies, so that one read fetches it. It is made from the tar
headers where it is missing, damaged or of another shard. Shards are local files, or lie wherever fsspec can read
(`s3://bucket/k400-00017.tar#x.mp4`), if that is installed.

Index: `_MAGIC`; the size of the shard and the number of members, int64; for each member, in the order of their names,
the offset of its data, its size, the CRC-32 of its tar header and the end of its name, int64; the names, UTF-8.
"""

import contextlib
import functools
import itertools
import logging
import mmap
import os
import tarfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np

from ..errors import ShardError

logger = logging.getLogger(__name__)

INDEX_SUFFIX = ".index"
MAX_OPEN = 128  # shards that a process holds open: two file descriptors each, of the 1,024 that are usual
_MARK = ".tar#"
_MAGIC = b"SHARDIX1"
_BLOCK = tarfile.BLOCKSIZE


# ------------------------------------------------------------------------------------------------- reading


def split_member(path: str) -> tuple[str, str] | None:
    """Shard and member of `x.tar#member`; None for any other path."""
    before, mark, member = path.partition(_MARK)
    return (before + _MARK[:-1], member) if mark and member else None


def read_member(path: str) -> bytes:
    """The content of a member, `/folder/x.tar#member`.

    Raises:
        ShardError: the shard is missing, cut off or not a plain tar file; it has no such member.
    """
    shard, member = _split(path)
    for attempt in (0, 1):
        content = _open(shard).read(member)
        if content is not None:
            return content
        if attempt == 0:
            _open.cache_clear()  # the shard was written anew since it was opened, perhaps
    raise ShardError(f"{shard}: no member '{member}' where its index has it: delete {shard}{INDEX_SUFFIX}")


def has_member(path: str) -> bool:
    """Whether the shard exists and has the member.

    Raises:
        ShardError: the shard exists and cannot be read.
    """
    shard, member = _split(path)
    return _storage(shard).exists(shard) and _open(shard).find(member) is not None


def list_members(shard: str) -> list[str]:
    """Names of the members of a shard, sorted.

    Raises:
        ShardError: as `read_member`.
    """
    return _open(shard).names()


def _split(path: str) -> tuple[str, str]:
    parts = split_member(path)
    if parts is None:
        raise ShardError(f"{path}: not a member of a shard, which is written x.tar#member")
    return parts


class _Shard:
    """An open shard and its index. Reads have no position: threads may share it, and a fork may inherit it."""

    def __init__(self, path: str) -> None:
        self.path, self.storage = path, _storage(path)
        try:
            self.read_at, self.size, self._close = self.storage.open(path)
            index = self._load_index() or self._make_index()
        except FileNotFoundError as error:
            raise ShardError(f"{path}: no such shard") from error
        except ShardError:
            raise
        except OSError as error:
            raise ShardError(f"{path}: {error.strerror or error}") from error
        self._use_index(index)

    def __del__(self) -> None:
        if hasattr(self, "_close"):
            self._close()

    def _load_index(self) -> Any:
        """The content of the index file; None where there is none that fits the shard."""
        index = self.storage.content(self.path + INDEX_SUFFIX)
        if index is None:
            return None
        reason = _fault(index, self.size)
        if reason:
            logger.warning("%s%s %s: made anew from the shard", self.path, INDEX_SUFFIX, reason)
        return None if reason else index

    def _make_index(self) -> bytes:
        with self.storage.stream(self.path) as file:
            index = _pack(_scan(file, self.path, self.size), self.size)
        if not self.storage.save(self.path + INDEX_SUFFIX, index):
            logger.info("%s%s cannot be written: the index is kept in memory", self.path, INDEX_SUFFIX)
        return index

    def _use_index(self, index: Any) -> None:
        start = len(_MAGIC) + 16
        count = int(np.frombuffer(index, "<i8", 1, start - 8)[0])
        columns = np.frombuffer(index, "<i8", 4 * count, start).reshape(4, count)
        self.offsets, self.sizes, self.checks, self.ends = columns
        self._names = memoryview(index)[start + 32 * count :]

    def name(self, place: int) -> bytes:
        return bytes(self._names[self.ends[place - 1] if place else 0 : self.ends[place]])

    def names(self) -> list[str]:
        return [self.name(place).decode() for place in range(len(self.ends))]

    def find(self, member: str) -> int | None:
        """Its place in the index."""
        wanted = member.encode()
        place = bisect_left(range(len(self.ends)), wanted, key=self.name)
        return place if place < len(self.ends) and self.name(place) == wanted else None

    def read(self, member: str) -> bytes | None:
        """The content; None if it is not where the index says, so that shard and index are of different times."""
        place = self.find(member)
        if place is None:
            raise ShardError(f"{self.path}: no member '{member}'")
        offset, size = int(self.offsets[place]), int(self.sizes[place])
        try:
            content = self.read_at(offset - _BLOCK, _BLOCK + size)
        except OSError as error:
            raise ShardError(f"{self.path}: {error.strerror or error}") from error
        if len(content) < _BLOCK + size:
            raise ShardError(f"{self.path}: cut off within '{member}'")
        if zlib.crc32(content[:_BLOCK]) != self.checks[place]:
            self.storage.remove(self.path + INDEX_SUFFIX)
            return None
        return content[_BLOCK:]


_open = functools.lru_cache(maxsize=MAX_OPEN)(_Shard)
# What belongs to another process is opened anew: clients of remote storage do not survive a fork.
os.register_at_fork(after_in_child=_open.cache_clear)


# ------------------------------------------------------------------------------------------------- index


def _scan(file: IO[bytes], path: str, size: int) -> dict[bytes, tuple[int, int, int]]:
    """Offset, size and header check of every file in a tar, by name; of two with a name, the last."""
    members: dict[bytes, tuple[int, int, int]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.isreg() and info.sparse is None:
                    members[info.name.encode()] = (info.offset_data, info.size, 0)
            end = tar.offset  # of the block after the last member
    except tarfile.ReadError as error:
        raise ShardError(f"{path}: cut off, or not an uncompressed tar file ({error})") from error
    file.seek(end - _BLOCK if end >= size else end)
    if file.read(_BLOCK).strip(b"\0") or end > size or not size:
        raise ShardError(f"{path}: cut off: the mark at its end is missing")
    for name, (offset, length, _) in members.items():
        file.seek(offset - _BLOCK)
        members[name] = (offset, length, zlib.crc32(file.read(_BLOCK)))
    return members


def _pack(members: dict[bytes, tuple[int, int, int]], size: int) -> bytes:
    names = sorted(members)
    columns = [*zip(*(members[name] for name in names), strict=True)] or [(), (), ()]
    ends = tuple(itertools.accumulate(len(name) for name in names))
    table = np.array([*columns, ends], dtype="<i8").tobytes()
    return _MAGIC + np.array([size, len(names)], dtype="<i8").tobytes() + table + b"".join(names)


def _fault(index: Any, size: int) -> str:
    """Why an index is of no use; "" if it is."""
    start = len(_MAGIC) + 16
    if len(index) < start or index[: len(_MAGIC)] != _MAGIC:
        return "is not an index"
    shard_size, count = np.frombuffer(index, "<i8", 2, len(_MAGIC)).tolist()
    if shard_size != size:
        return "belongs to a shard of another size"
    names = start + 32 * count
    if len(index) < names:
        return "is cut off"
    end = int(np.frombuffer(index, "<i8", 1, names - 8)[0]) if count else 0
    return "" if len(index) == names + end else "is cut off"


# ------------------------------------------------------------------------------------------------- storage


class _Local:
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


class _Remote:
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


def _storage(path: str) -> _Local | _Remote:
    return _remote() if "://" in path else _Local()


_remote = functools.cache(_Remote)


# ------------------------------------------------------------------------------------------------- writing


def plan_shards(sizes: Sequence[int], shard_size: int) -> Iterator[range]:
    """Which files go into which shard: in their order, as many as fit into `shard_size` bytes, at least one."""
    start, used = 0, 0
    for place, size in enumerate(sizes):
        blocks = _BLOCK + -(-size // _BLOCK) * _BLOCK
        if place > start and used + blocks > shard_size:
            yield range(start, place)
            start, used = place, 0
        used += blocks
    if start < len(sizes):
        yield range(start, len(sizes))


def write_shard(path: str | os.PathLike[str], members: Sequence[tuple[str, str | os.PathLike[str]]]) -> int:
    """Write a local shard and its index; both appear whole, and the same members always give the same bytes.

    Args:
        path: the shard, which ends in .tar.
        members: name in the shard and file; the names differ.

    Returns:
        The size of the shard.

    Raises:
        ShardError: a name is given twice; a file cannot be read, or the shard not be written.
    """
    path = os.fspath(path)
    if len({name for name, _ in members}) < len(members):
        raise ShardError(f"{path}: two members of one name")
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, file in members:
                    _add(tar, name, file)
            out.flush()
            os.fsync(out.fileno())
        size = os.path.getsize(partial)
        with open(partial, "rb") as written:
            index = _pack(_scan(written, path, size), size)
        if not _Local().save(path + INDEX_SUFFIX, index):
            raise ShardError(f"{path}{INDEX_SUFFIX}: cannot be written")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(partial)
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{path}: {error.strerror or error} ({error.filename or 'while writing'})") from error
    return size


def _add(tar: tarfile.TarFile, name: str, path: str | os.PathLike[str]) -> None:
    """A file without its owner, mode and time, which would make every copy of a shard another."""
    with open(path, "rb") as file:
        info = tarfile.TarInfo(name)
        info.size = os.fstat(file.fileno()).st_size
        tar.addfile(info, file)


def write_shards(
    members: Sequence[tuple[str, str | os.PathLike[str]]], folder: str | os.PathLike[str], *, shard_size: int
) -> list[str]:
    """Write members to `folder/00000.tar` and on: their paths, `x.tar#member`, in the order given.

    Raises:
        ShardError: see `write_shard`.
    """
    os.makedirs(folder, exist_ok=True)
    paths = []
    for number, places in enumerate(plan_shards([os.path.getsize(file) for _, file in members], shard_size)):
        shard = os.path.join(folder, shard_name(number))
        write_shard(shard, [members[place] for place in places])
        paths += [f"{shard}#{members[place][0]}" for place in places]
    return paths


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:05}.tar"
