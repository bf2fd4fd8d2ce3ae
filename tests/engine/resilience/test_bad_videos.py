"""Undecodable videos are listed once and counted over all ranks."""

import pytest
import torch
from processes import gloo_world

from engine.distributed.collectives import all_reduce_sum
from engine.distributed.world import World
from engine.errors import BadVideosError
from engine.resilience.bad_videos import MIN_LIMIT, BadVideoLog

ALONE = World(0, 1, 0, torch.device("cpu"))


def bad_video_log(folder, num_videos=1000, world=ALONE):
    return BadVideoLog(str(folder), num_videos=num_videos, max_bad_fraction=0.005, world=world)


def check(log):
    log.check(int(all_reduce_sum(log.num_unsynced())))


def test_each_video_is_listed_once_with_reason_worker_and_epoch(tmp_path, caplog):
    q = bad_video_log(tmp_path)
    for epoch in range(4):
        q.record([("a b.mp4", "empty", 2), ("b.mp4", "cut off", -1)], epoch=epoch)
        if epoch % 2:
            check(q)
    lines = (tmp_path / "bad_videos.txt").read_text().splitlines()
    assert lines == ["a b.mp4\tempty\trank 0 worker 2\tepoch 0", "b.mp4\tcut off\trank 0\tepoch 0"]
    assert len(caplog.records) == 2


def test_odd_names_keep_the_columns(tmp_path):
    bad_video_log(tmp_path).record([("a\tb\n.mp4", "two\nlines", 0), ("\udcff.mp4", "not text", 0)], epoch=1)
    lines = (tmp_path / "bad_videos.txt").read_bytes().splitlines()
    assert lines == [b"a b .mp4\ttwo lines\trank 0 worker 0\tepoch 1", b"\xff.mp4\tnot text\trank 0 worker 0\tepoch 1"]


@pytest.mark.parametrize(("num_videos", "limit"), [(10, MIN_LIMIT), (1000, 5), (10_000, 50)])
def test_stops_above_its_limit(num_videos, limit, tmp_path):
    q = bad_video_log(tmp_path, num_videos)
    for number in range(limit):
        q.record([(f"{number}.mp4", "empty", 0)], epoch=0)
        check(q)
    q.record([("last.mp4", "empty", 0), ("0.mp4", "empty", 0)], epoch=0)
    with pytest.raises(BadVideosError, match=rf"{limit + 1} of {num_videos} .*0\.mp4: empty; 1\.mp4.*bad_videos\.txt"):
        check(q)
    assert len((tmp_path / "bad_videos.txt").read_text().splitlines()) == limit + 1


def test_without_a_folder():
    q = BadVideoLog("", num_videos=1, max_bad_fraction=0, world=ALONE)
    q.record([(f"{number}.mp4", "empty", 0) for number in range(4)], epoch=0)
    with pytest.raises(BadVideosError):
        check(q)


def _several_ranks(world, folder):
    """Both ranks meet one common video and three of their own, then the other's; what each says in the end."""
    q = bad_video_log(folder, world=world)
    own = [(f"{world.rank} {number}.mp4", "empty", 0) for number in range(2)]
    q.record([("common.mp4", "cut off", 0), *own], epoch=0)
    check(q)  # 5 different videos: the limit
    others = [(f"{1 - world.rank} {number}.mp4", "empty", 0) for number in range(2)]
    q.record(others, epoch=1)
    check(q)
    known = len(q.reasons)
    if world.rank == 1:
        q.record([("one more.mp4", "empty", 0)], epoch=2)
    try:
        check(q)
    except BadVideosError as error:
        return known, str(error)
    return known, ""


def test_ranks_count_together_and_stop_together(tmp_path):
    (known, message), other = gloo_world(_several_ranks, tmp_path)
    assert known == 5 and other == (known, message)
    assert message.startswith("6 of 1000 videos")
    rows = [line.split("\t") for line in (tmp_path / "bad_videos.txt").read_text().splitlines()]
    assert sorted(row[0] for row in rows if row[0] != "common.mp4") == sorted(
        ["0 0.mp4", "0 1.mp4", "1 0.mp4", "1 1.mp4", "one more.mp4"]
    )
    assert {row[2] for row in rows} == {"rank 0 worker 0", "rank 1 worker 0"} and all(len(row) == 4 for row in rows)
