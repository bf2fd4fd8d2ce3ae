"""Shards: videos as members of plain, uncompressed tar files, read in any order.

A path `/data/k400-00017.tar#abseiling/x.mp4` names a member of a shard, in lists as everywhere else. An index beside
the shard (`k400-00017.tar.index`) says where each member lies, so that one read fetches it. It is made from the tar
headers where it is missing, damaged or of another shard. Shards are local files, or lie wherever fsspec can read
(`s3://bucket/k400-00017.tar#x.mp4`), if that is installed.
"""

import difflib
import functools
import logging
import os
import zlib
from bisect import bisect_left
from typing import Any

import numpy as np

from ..errors import ShardError
from .shard_index import BLOCK, INDEX_SUFFIX, MAGIC, find_fault, pack, plain_name, scan
from .shard_storage import storage_of

logger = logging.getLogger(__name__)

MAX_OPEN = 128  # shards that a process holds open: two file descriptors each, of the usual limit of 1,024
_MARK = ".tar#"


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
            _open.cache_clear()  # the shard may have been rewritten since it was opened
    raise ShardError(f"{shard}: no member '{member}' where its index has it: delete {shard}{INDEX_SUFFIX}")


def has_member(path: str) -> bool:
    """Whether the shard exists and has the member.

    Raises:
        ShardError: the shard exists and cannot be read.
    """
    shard, member = _split(path)
    return storage_of(shard).exists(shard) and _open(shard).find(member) is not None


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
        self.path, self.storage = path, storage_of(path)
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
        reason = find_fault(index, self.size)
        if reason:
            logger.warning("%s%s %s: rebuilt from the shard", self.path, INDEX_SUFFIX, reason)
        return None if reason else index

    def _make_index(self) -> bytes:
        with self.storage.stream(self.path) as file:
            index = pack(scan(file, self.path, self.size), self.size)
        if not self.storage.save(self.path + INDEX_SUFFIX, index):
            logger.info("%s%s cannot be written: the index is kept in memory", self.path, INDEX_SUFFIX)
        return index

    def _use_index(self, index: Any) -> None:
        start = len(MAGIC) + 16
        count = int(np.frombuffer(index, "<i8", 1, start - 8)[0])
        columns = np.frombuffer(index, "<i8", 4 * count, start).reshape(4, count)
        self.offsets, self.sizes, self.checks, self.ends = columns
        self._names = memoryview(index)[start + 32 * count :]

    def name(self, place: int) -> bytes:
        return bytes(self._names[self.ends[place - 1] if place else 0 : self.ends[place]])

    def names(self) -> list[str]:
        return [self.name(place).decode("utf-8", "surrogateescape") for place in range(len(self.ends))]

    def find(self, member: str) -> int | None:
        """Its place in the index, however `./` is written in the tar or in `member`."""
        plain = plain_name(member)  # an index that an earlier version wrote has names as they are in the tar
        for name in dict.fromkeys((member, plain, f"./{plain}")):
            wanted = name.encode("utf-8", "surrogateescape")
            place = bisect_left(range(len(self.ends)), wanted, key=self.name)
            if place < len(self.ends) and self.name(place) == wanted:
                return place
        return None

    def _nearest(self, member: str) -> str:
        """The member whose name is most like one that is not there, in words; "" if none is."""
        near = difflib.get_close_matches(member, self.names(), n=1)
        return f"; the nearest is '{near[0]}'" if near else ""

    def read(self, member: str) -> bytes | None:
        """The content; None if it is not where the index says, so that shard and index are of different times."""
        place = self.find(member)
        if place is None:
            raise ShardError(f"{self.path}: no member '{member}'{self._nearest(member)}")
        offset, size = int(self.offsets[place]), int(self.sizes[place])
        try:
            content = self.read_at(offset - BLOCK, BLOCK + size)
        except OSError as error:
            raise ShardError(f"{self.path}: {error.strerror or error}") from error
        if len(content) < BLOCK + size:
            raise ShardError(f"{self.path}: cut off within '{member}'")
        if zlib.crc32(content[:BLOCK]) != self.checks[place]:
            self.storage.remove(self.path + INDEX_SUFFIX)
            return None
        return content[BLOCK:]


_open = functools.lru_cache(maxsize=MAX_OPEN)(_Shard)
# A forked process opens shards again: clients of remote storage do not survive a fork.
os.register_at_fork(after_in_child=_open.cache_clear)
