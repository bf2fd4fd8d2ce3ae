"""Shards: what is written is read back, from any process, from anywhere; what is damaged is named."""

import itertools
import multiprocessing
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from datasets.decoding import shards
from datasets.decoding.shard_writing import plan_shards, write_shard, write_shards
from datasets.decoding.shards import has_member, list_members, read_member
from datasets.errors import ShardError

LONG = "a folder/" + "x" * 150 + ".mp4"  # longer than the name field of a tar header
NAMES = ["b.mp4", "a.mp4", "ä dir/ü.webm", LONG, "#1.avi", "empty-but-one.mp4"]


@pytest.fixture(autouse=True)
def no_open_shards():
    shards._open.cache_clear()


@pytest.fixture
def members(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for place, name in enumerate(NAMES):
        file = tmp_path / f"file{place}"
        file.write_bytes(rng.bytes(1 + 700 * place))
        made.append((name, file))
    return made


def contents(members):
    return [file.read_bytes() for _, file in members]


def test_what_is_written_is_read_back(tmp_path, members):
    paths = write_shards(members, tmp_path / "shards", shard_size=4000)
    assert len({path.split("#")[0] for path in paths}) > 1
    assert paths[2].endswith(".tar#ä dir/ü.webm")
    assert [read_member(path) for path in paths] == contents(members)
    assert [read_member(path) for path in reversed(paths)] == contents(members)[::-1]


def test_other_programs_read_a_shard(tmp_path, members):
    write_shard(tmp_path / "x.tar", members)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == NAMES
        assert [tar.extractfile(name).read() for name in NAMES] == contents(members)


def test_a_tar_of_another_program_is_read_and_gets_an_index(tmp_path, members):
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        shard = tmp_path / f"{form}.tar"
        with tarfile.open(shard, "w", format=form) as tar:
            tar.add(tmp_path, "folder", recursive=False)  # not a file: not a member
            for name, file in members:
                tar.add(file, name)
        assert [read_member(f"{shard}#{name}") for name in NAMES] == contents(members)
        assert list_members(str(shard)) == sorted(NAMES, key=str.encode)
        assert (tmp_path / f"{form}.tar.index").is_file()


def test_members_that_are_there_and_that_are_not(tmp_path, members):
    write_shard(tmp_path / "x.tar", members)
    assert has_member(f"{tmp_path}/x.tar#{LONG}")
    assert not has_member(f"{tmp_path}/x.tar#c.mp4")
    assert not has_member(f"{tmp_path}/y.tar#a.mp4")
    with pytest.raises(ShardError, match=r"x\.tar: no member 'c\.mp4'"):
        read_member(f"{tmp_path}/x.tar#c.mp4")
    with pytest.raises(ShardError, match=r"y\.tar: no such shard"):
        read_member(f"{tmp_path}/y.tar#a.mp4")
    with pytest.raises(ShardError, match="not a member"):
        read_member(f"{tmp_path}/x.tar")


def test_the_same_members_give_the_same_bytes(tmp_path, members):
    write_shard(tmp_path / "x.tar", members)
    os.utime(members[0][1], (1, 1))
    members[0][1].chmod(0o600)
    write_shard(tmp_path / "y.tar", members)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "of another shard", "not an index"])
def test_invalid_index_is_rebuilt(tmp_path, members, damage):
    write_shard(tmp_path / "x.tar", members)
    index = tmp_path / "x.tar.index"
    whole = index.read_bytes()
    write_shard(tmp_path / "other.tar", members[:2])
    other = (tmp_path / "other.tar.index").read_bytes()
    index.write_bytes(
        {"empty": b"", "cut off": whole[:-3], "of another shard": other, "not an index": b"?" * 99}.get(damage, b"")
    )
    if damage == "missing":
        index.unlink()
    assert read_member(f"{tmp_path}/x.tar#{LONG}") == members[3][1].read_bytes()
    assert index.read_bytes() == whole


def test_shard_rewritten_with_the_same_size(tmp_path, members):
    shard = tmp_path / "x.tar"
    pair = members[1:3]
    write_shard(shard, pair)
    assert read_member(f"{shard}#a.mp4") == pair[0][1].read_bytes()
    before = (tmp_path / "x.tar.index").read_bytes(), shard.stat().st_size
    write_shard(tmp_path / "y.tar", pair[::-1])
    os.replace(tmp_path / "y.tar", shard)  # while it is open, and its old index stays
    assert shard.stat().st_size == before[1]
    shards._open.cache_clear()
    assert read_member(f"{shard}#a.mp4") == pair[0][1].read_bytes()
    assert (tmp_path / "x.tar.index").read_bytes() != before[0]


@pytest.mark.parametrize("keep", [0, 300, 512 + 100, 512 + 1024, 4000])
@pytest.mark.parametrize("with_index", [True, False])
def test_a_shard_that_is_cut_off(tmp_path, members, keep, with_index):
    shard = tmp_path / "x.tar"
    write_shard(shard, members[1:4])
    shard.write_bytes(shard.read_bytes()[:keep])
    if not with_index:
        (tmp_path / "x.tar.index").unlink()
    with pytest.raises(ShardError, match=r"x\.tar: cut off"):
        read_member(f"{shard}#a.mp4")


def test_a_shard_that_is_cut_off_while_it_is_open(tmp_path, members):
    shard = tmp_path / "x.tar"
    write_shard(shard, members[3:5])
    assert read_member(f"{shard}##1.avi") == members[4][1].read_bytes()
    with open(shard, "r+b") as file, tarfile.open(shard) as tar:
        file.truncate(tar.getmember("#1.avi").offset_data + 100)
    with pytest.raises(ShardError, match=r"x\.tar: cut off within '#1\.avi'"):
        read_member(f"{shard}##1.avi")


def test_a_shard_cut_off_between_two_members(tmp_path, members):
    """The reader of Python takes such a file for a whole one with fewer members."""
    shard = tmp_path / "x.tar"
    write_shard(shard, members[:3])
    with tarfile.open(shard) as tar:
        end = tar.getmembers()[1].offset
    (tmp_path / "x.tar.index").unlink()
    shard.write_bytes(shard.read_bytes()[:end])
    with tarfile.open(shard) as tar:
        assert len(tar.getmembers()) == 1
    with pytest.raises(ShardError, match="cut off: the mark at its end"):
        read_member(f"{shard}#b.mp4")


def test_compressed_and_other_files_are_refused(tmp_path, members):
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(members[0][1], "a.mp4")
    (tmp_path / "text.tar").write_text("<html>not found</html>" * 100)
    for name in ("z", "text"):
        with pytest.raises(ShardError, match=rf"{name}\.tar: cut off, or not an uncompressed tar"):
            read_member(f"{tmp_path}/{name}.tar#a.mp4")


def test_a_folder_that_cannot_be_written_to(tmp_path, members):
    write_shard(tmp_path / "x.tar", members)
    (tmp_path / "x.tar.index").unlink()
    (tmp_path / "x.tar.index").mkdir()  # as root may write anywhere, a folder is in the way
    assert read_member(f"{tmp_path}/x.tar#a.mp4") == members[1][1].read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def read_in_child(paths, connection):
    connection.send([read_member(path) for path in paths])


def test_a_fork_and_threads_share_open_shards(tmp_path, members):
    paths = write_shards(members, tmp_path / "shards", shard_size=4000) * 20
    expected = [read_member(path) for path in paths]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(2)]  # one each: two that write to one mix what they send
    children = [context.Process(target=read_in_child, args=(paths, theirs)) for _, theirs in pipes]
    for child in children:
        child.start()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_member, paths)) == expected
    assert [ours.recv() for ours, _ in pipes] == [expected, expected]
    for child in children:
        child.join()


def test_the_number_of_open_files_is_limited(tmp_path, members):
    folder = f"/proc/{os.getpid()}/fd"
    if not os.path.isdir(folder):
        pytest.skip("no /proc here")
    paths = [
        write_shards(members[:1], tmp_path / str(number), shard_size=1)[0] for number in range(shards.MAX_OPEN + 40)
    ]
    before = len(os.listdir(folder))
    for path in paths:
        read_member(path)
    assert len(os.listdir(folder)) <= before + 2 * shards.MAX_OPEN


def test_plan():
    def total(sizes, places):
        return sum(512 + -(-sizes[place] // 512) * 512 for place in places)

    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5000, 200).tolist() + [90_000] + rng.integers(1, 5000, 50).tolist()
    plan = list(plan_shards(sizes, 20_000))
    assert [place for places in plan for place in places] == list(range(len(sizes)))
    assert all(total(sizes, places) <= 20_000 or len(places) == 1 for places in plan)
    assert all(total(sizes, [*one, other[0]]) > 20_000 for one, other in itertools.pairwise(plan))
    assert list(plan_shards([], 10)) == []


def test_faults_of_what_is_written(tmp_path, members):
    with pytest.raises(ShardError, match=r"x\.tar: two members of one name"):
        write_shard(tmp_path / "x.tar", [members[0], members[0]])
    with pytest.raises(ShardError, match=r"x\.tar: No such file"):
        write_shard(tmp_path / "x.tar", [members[0], ("gone", tmp_path / "gone")])
    assert not list(tmp_path.glob("x.tar*"))  # no half of a shard, and no index


def test_remote_shards(tmp_path, members):
    fsspec = pytest.importorskip("fsspec")
    write_shard(tmp_path / "x.tar", members)
    memory = fsspec.filesystem("memory")
    for name in ("x.tar", "x.tar.index"):
        memory.pipe(f"/bucket/{name}", (tmp_path / name).read_bytes())
    memory.pipe("/bucket/alone.tar", (tmp_path / "x.tar").read_bytes())
    memory.pipe("/bucket/short.tar", (tmp_path / "x.tar").read_bytes()[:3000])
    for shard in ("memory://bucket/x.tar", "memory://bucket/alone.tar", f"file://{tmp_path}/x.tar"):
        assert [read_member(f"{shard}#{name}") for name in NAMES] == contents(members)
        assert has_member(f"{shard}#a.mp4")
        assert not has_member(f"{shard}#c.mp4")
    assert not has_member("memory://bucket/none.tar#a.mp4")
    with pytest.raises(ShardError, match=r"memory://bucket/short\.tar: cut off"):
        read_member("memory://bucket/short.tar#a.mp4")
    with pytest.raises(ShardError, match=r"memory://bucket/none\.tar: no such shard"):
        read_member("memory://bucket/none.tar#a.mp4")


def test_a_member_of_several_megabytes(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(np.random.default_rng(0).bytes(3_000_001))
    (path,) = write_shards([("large.mp4", file)], tmp_path / "shards", shard_size=10**9)
    assert read_member(path) == file.read_bytes()
