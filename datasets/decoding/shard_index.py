"""The index of a shard: where each member lies in the tar file.

Layout: MAGIC; the size of the shard and the number of members, int64; for each member, in the order of their names,
the offset of its data, its size, the CRC-32 of its tar header and the end of its name, int64; the names, UTF-8.
"""

import itertools
import posixpath
import tarfile
import zlib
from typing import IO, Any

import numpy as np

from ..errors import ShardError

INDEX_SUFFIX = ".index"
MAGIC = b"SHARDIX1"
BLOCK = tarfile.BLOCKSIZE


def scan(file: IO[bytes], path: str, size: int) -> dict[bytes, tuple[int, int, int]]:
    """Offset, size and header check of every file in a tar, by name; of two with a name, the last.

    Names are those that `plain_name` gives. A link has the content of the file that it ends at, in the same tar.
    """
    members: dict[str, tuple[int, int, int]] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                name = plain_name(info.name)
                links.pop(name, None)
                if info.isreg() and info.sparse is None:
                    members[name] = (info.offset_data, info.size, 0)
                elif info.islnk() or info.issym():
                    members.pop(name, None)
                    folder = posixpath.dirname(name) if info.issym() else ""
                    links[name] = plain_name(posixpath.join(folder, info.linkname))
            end = tar.offset  # of the block after the last member
    except tarfile.ReadError as error:
        raise ShardError(f"{path}: cut off, or not an uncompressed tar file ({error})") from error
    file.seek(end - BLOCK if end >= size else end)
    if file.read(BLOCK).strip(b"\0") or end > size or not size:
        raise ShardError(f"{path}: cut off: the mark at its end is missing")
    for name, (offset, length, _) in members.items():
        file.seek(offset - BLOCK)
        members[name] = (offset, length, zlib.crc32(file.read(BLOCK)))
    members |= {name: members[target] for name in links if (target := _end_of(name, links)) in members}
    return {name.encode("utf-8", "surrogateescape"): place for name, place in members.items()}


def plain_name(name: str) -> str:
    """A member's name without `./`, `//` and a `/` at its start, which mean nothing in a tar."""
    return posixpath.normpath(name).lstrip("/")


def _end_of(name: str, links: dict[str, str]) -> str:
    """Where a chain of links ends; a name in it where it goes in a circle."""
    for _ in range(len(links)):
        if name not in links:
            break
        name = links[name]
    return name


def pack(members: dict[bytes, tuple[int, int, int]], size: int) -> bytes:
    names = sorted(members)
    columns = [*zip(*(members[name] for name in names), strict=True)] or [(), (), ()]
    ends = tuple(itertools.accumulate(len(name) for name in names))
    table = np.array([*columns, ends], dtype="<i8").tobytes()
    return MAGIC + np.array([size, len(names)], dtype="<i8").tobytes() + table + b"".join(names)


def find_fault(index: Any, size: int) -> str:
    """Why an index is of no use; "" if it is."""
    start = len(MAGIC) + 16
    if len(index) < start or index[: len(MAGIC)] != MAGIC:
        return "is not an index"
    shard_size, count = np.frombuffer(index, "<i8", 2, len(MAGIC)).tolist()
    if shard_size != size:
        return "belongs to a shard of another size"
    names = start + 32 * count
    if len(index) < names:
        return "is cut off"
    end = int(np.frombuffer(index, "<i8", 1, names - 8)[0]) if count else 0
    return "" if len(index) == names + end else "is cut off"
