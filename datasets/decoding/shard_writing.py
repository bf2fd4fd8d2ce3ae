"""Writing shards: plain tar files with an index beside each."""

import contextlib
import os
import tarfile
from collections.abc import Iterator, Sequence

from ..errors import ShardError
from .shard_index import BLOCK, INDEX_SUFFIX, pack, scan
from .shard_storage import LocalStorage


def plan_shards(sizes: Sequence[int], shard_size: int) -> Iterator[range]:
    """Which files go into which shard: in their order, as many as fit into `shard_size` bytes, at least one."""
    start, used = 0, 0
    for place, size in enumerate(sizes):
        blocks = BLOCK + -(-size // BLOCK) * BLOCK
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
            index = pack(scan(written, path, size), size)
        if not LocalStorage().save(path + INDEX_SUFFIX, index):
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
