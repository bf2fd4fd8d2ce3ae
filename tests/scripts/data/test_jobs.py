"""The three jobs on tiny real videos: stopped ones go on, parts are merged, what is broken is reported."""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import time

import pytest
from data_tools import TOOLS, arguments, call, numbers, outputs

from datasets.lists.read import read_list
from scripts.data import jobs


@pytest.fixture(scope="module", params=list(TOOLS))
def finished(request, videos, tmp_path_factory):
    """Each tool, and what it makes in one run."""
    out = tmp_path_factory.mktemp(request.param)
    call(request.param, *arguments(request.param, videos, out))
    return request.param, out


def test_outputs_are_lists_of_what_can_be_decoded(finished, videos):
    tool, out = finished
    made = read_list(out / "train.csv", require_labels=True)
    expected = videos.good if tool != "shard" else [path for path in videos.order if path.exists()]
    assert list(made.labels) == [videos.order.index(path) for path in videos.order if path in expected]
    for path, label in zip(made.paths, made.labels, strict=True):
        if videos.order[label] in videos.good:
            assert numbers(path) == numbers(videos.order[label])


def test_what_is_broken_is_listed_with_its_reason(finished, videos):
    tool, out = finished
    lines = (out / ("bad_videos.txt" if tool == "check" else "failed.txt")).read_text().splitlines()
    expected = videos.bad if tool != "shard" else [videos.bad[2]]  # a file is packed as it is
    assert [line.split("\t")[0] for line in lines] == [str(path) for path in expected]
    assert all(len(line.split("\t")[1]) > 5 for line in lines)
    assert "No such file" in lines[-1]


def test_parts_merged_are_one_run(finished, videos, tmp_path):
    tool, whole = finished
    words = arguments(tool, videos, tmp_path)
    call(tool, *words, "--part", "2/2")
    with pytest.raises(SystemExit):
        call(tool, *words, "--merge")
    assert not (tmp_path / "train.csv").exists()
    call(tool, *words, "--part", "1/2")
    call(tool, *words, "--merge")
    assert outputs(tmp_path) == outputs(whole)


def test_killed_job_resumes(finished, videos, tmp_path):
    tool, whole = finished
    words = arguments(tool, videos, tmp_path)
    running = multiprocessing.get_context("fork").Process(target=call, args=(tool, *words))
    running.start()
    results = tmp_path / "results-1of1.jsonl"
    while not (results.exists() and results.stat().st_size) and running.is_alive():
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    before = results.read_bytes()
    results.write_bytes(before + before[: len(before.splitlines()[0]) // 2])  # as if a line was being written
    call(tool, *words)
    assert outputs(tmp_path) == outputs(whole)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert results.read_bytes().startswith(before)
    assert not multiprocessing.active_children()
    assert len({line["key"] for line in lines}) == len(lines)  # nothing was done twice


def test_a_finished_job_has_nothing_to_do(finished, videos, capsys):
    tool, out = finished
    before = (out / "results-1of1.jsonl").read_bytes()
    call(tool, *arguments(tool, videos, out))
    assert (out / "results-1of1.jsonl").read_bytes() == before
    assert "were done before" in capsys.readouterr().err


def test_failures_are_retried_on_request(videos, tmp_path):
    broken = tmp_path / "x.mp4"
    broken.write_bytes(b"")
    (tmp_path / "train.csv").write_text(f"{broken} 0\n{videos.good[0]} 1\n")
    words = (tmp_path / "train.csv", "--out", tmp_path / "out", "--samples", "0", "--workers", "1")
    call("check", *words)
    assert "empty file" in (tmp_path / "out" / "bad_videos.txt").read_text()
    shutil.copy(videos.good[1], broken)
    call("check", *words)
    assert "empty file" in (tmp_path / "out" / "bad_videos.txt").read_text()
    call("check", *words, "--retry")
    assert (tmp_path / "out" / "bad_videos.txt").read_text() == ""
    assert len(read_list(tmp_path / "out" / "train.csv")) == 2


@pytest.mark.parametrize("damage", ["lost", "cut off"])
@pytest.mark.parametrize("tool", ["reencode", "shard"])
def test_outputs_that_are_no_longer_whole_are_made_again(tool, damage, videos, tmp_path):
    words = arguments(tool, videos, tmp_path)
    call(tool, *words)
    before = outputs(tmp_path)
    victim = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".mp4", ".tar"))
    if damage == "lost":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-9])
    call(tool, *words)
    assert outputs(tmp_path) == before


def test_other_options_do_not_mix(videos, tmp_path, capsys):
    words = arguments("reencode", videos, tmp_path)
    call("reencode", *words, "--part", "1/9")
    with pytest.raises(SystemExit) as stopped:
        call("reencode", *words, "--crf", "30")
    assert stopped.value.code == 2
    assert re.search(r"error: .* another job \(recipe differ\).*another folder", capsys.readouterr().err)


def test_other_patterns_of_frames_do_not_mix(videos, tmp_path, capsys):
    """A job that an older version began, whose B-frames are others."""
    words = arguments("reencode", videos, tmp_path)
    call("reencode", *words, "--part", "1/9")
    [file] = tmp_path.rglob("job.json")
    plan = json.loads(file.read_text())
    plan["recipe"]["groups"] = "bframes=3"
    file.write_text(json.dumps(plan))
    with pytest.raises(SystemExit):
        call("reencode", *words)
    assert "another job (recipe differ)" in capsys.readouterr().err


def test_several_lists_share_their_work(videos, tmp_path):
    for name, places in (("train", (0, 2)), ("val", (2, 3))):
        (tmp_path / f"{name}.csv").write_text("".join(f"{videos.order[place]} {place}\n" for place in places))
    call("shard", tmp_path / "train.csv", tmp_path / "val.csv", tmp_path / "out")
    lists = [read_list(tmp_path / "out" / f"{name}.csv") for name in ("train", "val")]
    assert lists[0].paths[1] == lists[1].paths[0]
    assert [list(videos.labels) for videos in lists] == [[0, 2], [2, 3]]
    assert len(list((tmp_path / "out" / "shards").glob("*.tar"))) == 1


@pytest.mark.parametrize(("tool", "words", "message"), [
    ("check", ("none.csv",), "none.csv"),
    ("shard", ("LIST", "OUT", "--part", "1/2", "--merge"), "--part and --merge"),
    ("reencode", ("LIST", "/proc/none"), "cannot be used"),
])  # fmt: skip
def test_user_errors_are_one_line(tool, words, message, videos, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(tool, *({"LIST": videos.list, "OUT": tmp_path / "out"}.get(word, word) for word in words))
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b"])
def test_parts_that_do_not_exist(text):
    with pytest.raises(argparse.ArgumentTypeError, match="i/n"):
        jobs.parse_part(text)
