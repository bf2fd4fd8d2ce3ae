"""Names in shards: however a tar writes them, through links, and the nearest name where there is none."""

import io
import tarfile

import pytest

from datasets.decoding import shards
from datasets.decoding.shards import has_member, list_members, read_member
from datasets.errors import ShardError

LINKS = {  # name: kind, what it says
    "a/hard.mp4": (tarfile.LNKTYPE, "./a/k.mp4"),
    "b/sym.mp4": (tarfile.SYMTYPE, "../a/k.mp4"),
    "b/chain.mp4": (tarfile.SYMTYPE, "sym.mp4"),
    "b/circle.mp4": (tarfile.SYMTYPE, "circle.mp4"),
    "b/outside.mp4": (tarfile.SYMTYPE, "/etc/passwd"),
}


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(["./a/k.mp4", "../up.mp4", "c//d/./e.mp4", "f.mp4"]):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(bytes([number])))
        for name, (info.type, info.linkname) in LINKS.items():
            info.name, info.size = name, 0
            tar.addfile(info)
    return path


CONTENT = {
    "a/k.mp4": 0, "./a/k.mp4": 0, "a//k.mp4": 0, "/a/k.mp4": 0, "../up.mp4": 1, "c/d/e.mp4": 2, "c//d/./e.mp4": 2,
    "f.mp4": 3, "./f.mp4": 3, "a/hard.mp4": 0, "b/sym.mp4": 0, "b/chain.mp4": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENT)
def test_members_are_found(name, shard):
    assert has_member(f"{shard}#{name}") and read_member(f"{shard}#{name}") == bytes([CONTENT[name]])


@pytest.mark.parametrize(("name", "near"), [("a/K.mp4", "a/k.mp4"), ("k.mp4", "a/k.mp4"), ("zzz", None)])
def test_the_nearest_name_is_offered(name, near, shard):
    assert not has_member(f"{shard}#{name}")
    with pytest.raises(ShardError, match=f"; the nearest is '{near}'$" if near else f"no member '{name}'$"):
        read_member(f"{shard}#{name}")


@pytest.mark.parametrize("name", ["b/circle.mp4", "b/outside.mp4"])
def test_links_that_end_nowhere_in_the_tar_are_no_members(name, shard):
    assert name not in list_members(str(shard)) and not has_member(f"{shard}#{name}")


def test_an_index_with_names_as_in_the_tar_is_read(shard):
    """As an earlier version wrote it."""
    with tarfile.open(shard) as tar:
        info = tar.getmembers()[0]
    check = shards.scan(shard.open("rb"), str(shard), shard.stat().st_size)[b"a/k.mp4"][2]
    index = shards.pack({b"./a/k.mp4": (info.offset_data, 1, check)}, shard.stat().st_size)
    (shard.parent / "s.tar.index").write_bytes(index)
    shards._open.cache_clear()
    assert read_member(f"{shard}#a/k.mp4") == b"\0"
