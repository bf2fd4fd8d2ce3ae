"""Undecodable videos are listed once and counted over all ranks."""

import logging

import numpy as np
import pytest
import torch
from processes import gloo_world

from engine.distributed.collectives import all_reduce_sum
from engine.distributed.world import World
from engine.errors import BadVideosError
from engine.resilience.bad_videos import MIN_LIMIT, BadVideoLog

ALONE = World(0, 1, 0, torch.device("cpu"))


def bad_video_log(folder, num_videos=1000, world=ALONE, batch_size=500):
    return BadVideoLog(str(folder), num_videos=num_videos, max_bad_fraction=0.005, batch_size=batch_size, world=world)


def failure(path, reason="empty"):
    return path, reason, 0, "good.mp4"


def check(log):
    log.check(int(all_reduce_sum(log.num_unsynced())))


def test_each_video_is_listed_once_with_reason_worker_epoch_and_replacement(tmp_path, caplog):
    q = bad_video_log(tmp_path)
    for epoch in range(4):
        q.record([("a b.mp4", "empty", 2, f"c {epoch}.mp4"), ("b.mp4", "cut off", -1, "c.mp4")], epoch=epoch)
        if epoch % 2:
            check(q)
    lines = (tmp_path / "bad_videos.txt").read_text().splitlines()
    assert lines == [
        "a b.mp4\tempty\trank 0 worker 2\tepoch 0\treplaced by c 0.mp4",
        "b.mp4\tcut off\trank 0\tepoch 0\treplaced by c.mp4",
    ]
    assert len(caplog.records) == 2


def test_odd_names_keep_the_columns(tmp_path):
    failures = [("a\tb\n.mp4", "two\nlines", 0, "c.mp4"), ("\udcff.mp4", "not text", 0, "d\te.mp4")]
    bad_video_log(tmp_path).record(failures, epoch=1)
    lines = (tmp_path / "bad_videos.txt").read_bytes().splitlines()
    assert lines == [
        b"a b .mp4\ttwo lines\trank 0 worker 0\tepoch 1\treplaced by c.mp4",
        b"\xff.mp4\tnot text\trank 0 worker 0\tepoch 1\treplaced by d e.mp4",
    ]


@pytest.mark.parametrize(("num_videos", "limit"), [(10, MIN_LIMIT), (1000, 5), (10_000, 50)])
def test_stops_above_its_limit(num_videos, limit, tmp_path):
    q = bad_video_log(tmp_path, num_videos, batch_size=num_videos)
    for number in range(limit):
        q.record([failure(f"{number}.mp4")], epoch=0)
        check(q)
    q.record([failure("last.mp4"), failure("0.mp4")], epoch=0)
    with pytest.raises(BadVideosError, match=rf"{limit + 1} of {num_videos} .*0\.mp4: empty; 1\.mp4.*bad_videos\.txt"):
        check(q)
    assert len((tmp_path / "bad_videos.txt").read_text().splitlines()) == limit + 1


def test_without_a_folder():
    q = BadVideoLog("", num_videos=1, max_bad_fraction=0, batch_size=1, world=ALONE)
    q.record([failure(f"{number}.mp4") for number in range(4)], epoch=0)
    with pytest.raises(BadVideosError):
        check(q)


def batches_until_the_end(share, *, seed, num_batches):
    """Of a million videos with this share of bad ones, where 1 % is allowed; None: training goes on."""
    rng = np.random.default_rng(seed)
    q = BadVideoLog("", num_videos=10**6, max_bad_fraction=0.01, batch_size=8, world=ALONE)
    for number in range(num_batches):
        q.record([failure(f"{number} {place}.mp4") for place in np.flatnonzero(rng.random(8) < share)], epoch=0)
        try:
            check(q)
        except BadVideosError as error:
            assert f"of the first {8 * (number + 1)} videos" in str(error) and str(error).count(".mp4: empty") == 3
            return number + 1
    return None


def test_far_too_many_end_the_run_long_before_the_limit(caplog):
    """Ten thousand of a million are allowed: a list of wrong files would be found out after hours."""
    caplog.set_level(logging.ERROR)
    assert all(batches_until_the_end(1, seed=seed, num_batches=50) == 1 for seed in range(3))
    assert all((batches_until_the_end(0.1, seed=seed, num_batches=200) or 999) < 60 for seed in range(3))
    assert all(batches_until_the_end(0.01, seed=seed, num_batches=400) is None for seed in range(10))


def _several_ranks(world, folder):
    """Both ranks meet one common video and three of their own, then the other's; what each says in the end."""
    q = bad_video_log(folder, world=world)
    own = [failure(f"{world.rank} {number}.mp4") for number in range(2)]
    q.record([failure("common.mp4", "cut off"), *own], epoch=0)
    check(q)  # 5 different videos: the limit
    others = [failure(f"{1 - world.rank} {number}.mp4") for number in range(2)]
    q.record(others, epoch=1)
    check(q)
    known = len(q.reasons)
    if world.rank == 1:
        q.record([failure("one more.mp4")], epoch=2)
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
    assert {row[2] for row in rows} == {"rank 0 worker 0", "rank 1 worker 0"} and all(len(row) == 5 for row in rows)
