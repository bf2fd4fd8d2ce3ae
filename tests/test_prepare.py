"""The preparation tools on tiny real videos: what goes in comes out, stopped jobs go on, what is broken is reported."""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from misbehaving import misbehave
from PIL import Image
from processes import ROOT
from videos import _paint, read_number, write_video

from datasets.decoding.nal_units import is_h264_reference
from datasets.decoding.open import open_video
from datasets.lists.read import read_list
from engine.errors import ConfigError
from scripts.data import browse, check, jobs, prepare, reencode, shard, upright
from scripts.data.media import describe, open_source
from scripts.data.processes import Task, run_tasks

TOOLS = {"check": check, "reencode": reencode, "shard": shard}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six good videos of numbered frames and three bad ones, and a list of them all with labels."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a b", "c"):
        (folder / name).mkdir()
    good = [
        write_video(folder / "a b" / "0.mp4", 30, gop=30),
        write_video(folder / "a b" / "1.webm", 20, first=100, codec="libvpx"),
        write_video(folder / "c" / "0.mp4", 1, first=7),
        write_video(folder / "c" / "0.avi", 24, first=50, codec="mpeg4"),
        write_video(folder / "c" / "#1.mp4", 14, width=80, height=66),
        write_video(folder / "c" / "odd.mp4", 12, first=9, width=65, height=49, pix_fmt="yuv444p"),
    ]
    whole = good[0].read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("<html>404 not found</html>")
    bad = [folder / "truncated.mp4", folder / "text.mp4", folder / "missing.mp4"]
    order = [good[0], bad[0], *good[1:4], bad[1], *good[4:], bad[2]]
    (folder / "train.csv").write_text("".join(f"{path} {place}\n" for place, path in enumerate(order)))
    return argparse.Namespace(folder=folder, good=good, bad=bad, order=order, list=folder / "train.csv")


def numbers(path):
    with open_video(path) as video:
        return [read_number(frame) for frame in video.get_frames(range(video.num_frames))]


def call(tool, *words):
    TOOLS[tool].main([str(word) for word in words])


def outputs(folder):
    """All files of a finished job but its notes, by name; of videos the frames' numbers.

    Their bytes are not compared: those of one video, made anew from an MPEG-4 file in AVI, differed between two runs on
    a busy machine, once in many; why was not found.
    """
    return {
        str(path.relative_to(folder)): numbers(path)
        if path.suffix == ".mp4"
        else path.read_bytes().replace(str(folder).encode(), b"OUT")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not re.match(r"results-|report|job\.json", path.name)
    }


def arguments(tool, videos, out):
    return {
        "check": (videos.list, "--out", out, "--samples", "0"),
        "reencode": (videos.list, out, "--short_side", "32"),
        "shard": (videos.list, out, "--shard_size", "8K"),
    }[tool] + ("--workers", "2")


@pytest.fixture(scope="module", params=list(TOOLS))
def finished(request, videos, tmp_path_factory):
    """Each tool, and what it makes in one run."""
    out = tmp_path_factory.mktemp(request.param)
    call(request.param, *arguments(request.param, videos, out))
    return request.param, out


# ------------------------------------------------------------------------------------------------- the three jobs


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


# ------------------------------------------------------------------------------------------------- processes


def test_a_crash_and_a_hang_cost_one_result_each():
    works = ["1", "crash", "2", "hang", "3", "crash", "4"]
    tasks = [Task(str(place), work) for place, work in enumerate(works)]
    start = time.monotonic()
    results = {task.key: result for task, result in run_tasks(tasks, misbehave, workers=2, timeout=3)}
    assert time.monotonic() - start < 100
    assert [results[str(place)].get("did") for place in (0, 2, 4, 6)] == ["1", "2", "3", "4"]
    assert "SIGKILL" in results["1"]["error"]
    assert "SIGKILL" in results["5"]["error"]
    assert "hangs" in results["3"]["error"]


def test_bugs_and_full_disks_stop_a_job():
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(run_tasks([Task("x", "bug")], misbehave, workers=1, timeout=9))
    with pytest.raises(ConfigError, match=r"/disk/x\.mp4: No space left"):
        list(run_tasks([Task("x", "full")], misbehave, workers=1, timeout=9))
    assert not multiprocessing.active_children()


def test_an_engine_that_is_not_installed_is_named_before_any_work(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as stopped:
        call("check", videos.list, "--out", tmp_path / "out", "--engine", "ray")
    assert stopped.value.code == 2
    assert re.match(r'error: --engine ray needs Ray: pip install "ray.*"', capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_end_of_the_main_process_ends_its_workers_in_the_middle_of_their_work(tmp_path):
    def work():
        (tmp_path / "pids").write_text("\n".join(str(result["did"]) for _, result in results(["pid"] * 2)))
        list(results(["hang"] * 2))

    def results(works):
        return run_tasks([Task(str(place), work) for place, work in enumerate(works)], misbehave, workers=2, timeout=99)

    running = multiprocessing.get_context("fork").Process(target=work)
    running.start()
    deadline = time.monotonic() + 60
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while not (tmp_path / "pids").exists() or len(pids := children.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # they are at it
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if state(pid) != "Z"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # gone
        return "Z"


# ------------------------------------------------------------------------------------------------- check


def test_report(videos, tmp_path, capsys):
    call("check", videos.list, "--out", tmp_path, "--full", "--samples", "1")
    text = (tmp_path / "report.txt").read_text()
    assert text in capsys.readouterr().out
    assert "9 videos: 6 can be decoded, 3 cannot" in text
    for word in ("No such file", "h264 66.7 %", "vp8 16.7 %", "64x48", "frames from key frame", "clips/s", "Advice"):
        assert word in text, word
    results = [json.loads(line) for line in (tmp_path / "results-1of1.jsonl").read_text().splitlines()]
    first = next(result for result in results if result["key"] == str(videos.good[0]))
    assert (first["frames"], first["fps"], first["key_distance"], first["codec"]) == (30, 30, 30, "h264")


def test_only_full_checks_see_damage_between_the_frames_tried(tmp_path):
    path = write_video(tmp_path / "x.mp4", 60, gop=10, bframes=0)
    with open_source(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    position, size = packets[21]  # neither of the first, the middle nor the last group of pictures
    data[position + 4 : position + size] = bytes(255 for _ in range(size - 4))
    path.write_bytes(data)
    assert "error" not in check.check(check.Work(str(path), False))
    assert "error" in check.check(check.Work(str(path), True))


# ------------------------------------------------------------------------------------------------- reencode


def encode(source, folder, **recipe):
    target = folder / "new" / "x.mp4"
    result = reencode.encode(str(source), str(target), reencode.Recipe(**recipe))
    assert os.listdir(target.parent) == ["x.mp4"]
    return target, result


def times(path):
    with open_source(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_frames_and_key_frames(tmp_path):
    source = write_video(tmp_path / "x.mp4", 50, first=1000, width=128, height=96, gop=50)
    target, result = encode(source, tmp_path, short_side=48)
    assert numbers(target) == list(range(1000, 1050))
    assert result == {"frames": 50, "height": 48, "width": 64, "bytes": target.stat().st_size}
    with open_source(str(target)) as container:
        keys = [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert np.diff([*keys, 50]).max() <= 12
    assert describe(str(target))["key_distance"] == pytest.approx(50 / len(keys))
    assert times(target) == pytest.approx(times(source))


def test_most_frames_are_needed_by_no_other(tmp_path):
    source = write_video(tmp_path / "x.mp4", 48, width=128, height=96, gop=48)
    target, _ = encode(source, tmp_path)
    with open_source(str(target)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        extradata = stream.codec_context.extradata
        unneeded = sum(not is_h264_reference(memoryview(packet), extradata) for packet in packets)
    assert unneeded >= 48 * 9 / 12  # of 12: a key frame, 5 B, P, 4 B, P


def test_key_frames_of_the_source_are_not_taken_over(tmp_path):
    target, _ = encode(write_video(tmp_path / "x.mp4", 24, gop=1, width=128, height=96), tmp_path)
    assert describe(str(target))["key_distance"] > 2


def test_variable_rate_stays(tmp_path):
    rng = np.random.default_rng(0)
    ticks = np.cumsum(rng.integers(200, 9000, 40)).tolist()
    with av.open(str(tmp_path / "x.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 90_000)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(_paint(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 90_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    target, _ = encode(tmp_path / "x.mp4", tmp_path)
    assert numbers(target) == list(range(40))
    assert times(target) == pytest.approx([(tick - ticks[0]) / 90_000 for tick in ticks], abs=1e-9)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(degrees, tmp_path):
    source = write_video(tmp_path / "x.mp4", 5, width=64, height=48, crf="5")
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000], ">i4") * 0x10000
    data[place : place + 36] = matrix.tobytes()
    source.write_bytes(data)
    target, result = encode(source, tmp_path, crf=5)
    with open_video(source) as old, open_video(target) as new:
        shown, made = old.get_frames([3]).float(), new.get_frames([3]).float()
    assert made.shape == shown.shape == (1, 3, result["height"], result["width"])
    assert (made - shown).abs().mean() < 6
    with open_source(str(target)) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_what_an_edit_list_hides_is_gone(tmp_path):
    source = write_video(tmp_path / "x.mp4", 48, gop=48)
    with av.open(str(source)) as old, av.open(str(tmp_path / "cut.mp4"), "w") as out:  # ffmpeg -ss ... -c copy
        stream = old.streams.video[0]
        copy = out.add_stream_from_template(stream)
        begin = round(17 / 30 / stream.time_base)
        for packet in old.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, copy
                out.mux(packet)
    target, _ = encode(tmp_path / "cut.mp4", tmp_path)
    assert numbers(target) == list(range(17, 48))
    with open_source(str(target)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert not any(packet.is_discard for packet in packets)
    assert len(packets) == 31


def test_full_range_becomes_limited(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (64, 1, 3))
    with av.open(str(tmp_path / "x.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 256, 64, "yuvj420p"
        stream.codec_context.color_range = 2
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format="rgb24").reformat(format="yuvj420p")))
        out.mux(stream.encode())
    target, _ = encode(tmp_path / "x.mp4", tmp_path, crf=1)
    with open_video(target) as video:
        assert (video.get_frames([1])[0, :, 32].float() - torch.linspace(0, 255, 256)).abs().max() <= 4


def test_audio_is_dropped_and_small_videos_keep_their_size(tmp_path):
    assert upright.target_size(240, 320, 256) == (240, 320)
    assert upright.target_size(1080, 1920, 256) == (256, 456)  # 455.1: even
    assert upright.target_size(1920, 1080, 256) == (456, 256)
    assert upright.target_size(1, 3, 256) == (2, 4)


def test_names_of_new_files():
    paths = ["/d/a/x.avi", "/d/a/x.webm", "/d/b/#y.mp4", "/d/s.tar#z/v.mp4", "s3://e/f.mp4"]
    assert list(reencode.target_names(paths[:4]).values()) == ["a/x.avi.mp4", "a/x.webm.mp4", "b/_y.mp4", "s/z/v.mp4"]
    assert list(reencode.target_names(paths[:1]).values()) == ["x.mp4"]
    assert len(set(reencode.target_names(paths).values())) == 5


def test_shards_are_encoded_too(videos, tmp_path):
    (tmp_path / "l.csv").write_text(f"{videos.good[0]} 0\n{videos.good[3]} 1\n")
    call("shard", tmp_path / "l.csv", tmp_path / "packed")
    call("reencode", tmp_path / "packed" / "l.csv", tmp_path / "small")
    for path, source in zip(
        read_list(tmp_path / "small" / "l.csv").paths, (videos.good[0], videos.good[3]), strict=True
    ):
        assert numbers(path) == numbers(source)


# ------------------------------------------------------------------------------------------------- prepare


@pytest.fixture
def sources(tmp_path, videos):
    """Makes a data set: annotation files by name and text, videos by name."""

    def make(annotations, names):
        for name, text in annotations.items():
            (tmp_path / "lists" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "lists" / name).write_text(text)
        for name in names:
            (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(videos.good[0], tmp_path / "videos" / name)
        return tmp_path / "lists", tmp_path / "videos", tmp_path / "out"

    return make


KINETICS = "label,youtube_id,time_start,time_end,split\n"
FORMS = {
    "kinetics": (
        {
            "train.csv": KINETICS + '"zip, line",aaaaaaaaaaa,5,15,train\nair drum,bbbbbbbbbbb,0,10,train\n',
            "val.csv": KINETICS + '"zip, line",ccccccccccc,0,10,val\n',
        },
        ["zip, line/aaaaaaaaaaa_000005_000015.mp4", "air drum/bbbbbbbbbbb_000000_000010.mp4", "ccccccccccc.mp4"],
        {"train": [1, 0], "val": [1], "test": [1]},
        ["air drum", "zip, line"],
    ),
    "ssv2": (
        {
            "something-something-v2-train.json": '[{"id": "1", "template": "Moving [something]"}]',
            "something-something-v2-validation.json": '[{"id": "2", "template": "Closing [something]"}]',
            "something-something-v2-test.json": '[{"id": "1"}]',
            "something-something-v2-labels.json": '{"Moving something": "1", "Closing something": "0"}',
        },
        ["1.webm", "2.webm"],
        {"train": [1], "val": [0], "test": [0]},
        ["Closing something", "Moving something"],
    ),
    "ucf101": (
        {
            "trainlist01.txt": "B/v_B_g01_c01.avi 2\nA/v_A_g01_c01.avi 1\n",
            "testlist01.txt": "B/v_B_g02_c01.avi\n",
            "trainlist02.txt": "A/none.avi 1\n",
            "classInd.txt": "1 A\n2 B\n",
        },
        ["B/v_B_g01_c01.avi", "A/v_A_g01_c01.avi", "B/v_B_g02_c01.avi"],
        {"train": [1, 0], "val": [1], "test": [1]},
        ["A", "B"],
    ),
    "hmdb51": (
        {"run_test_split1.txt": "#1.avi 1 \n2.avi 2 \n3.avi 0 \n", "eat_test_split1.txt": "4.avi 1 \n"},
        ["run/#1.avi", "run/2.avi", "run/3.avi", "eat/4.avi"],
        {"train": [0, 1], "val": [1], "test": [1]},
        ["eat", "run"],
    ),
    "gym": (
        {
            "gym99_train.txt": "aaaaaaaaaaa_E_000001_000002_A_0001_0002 3\n",
            "gym99_val.txt": "aaaaaaaaaaa_E_000001_000002_A_0003_0004 1\n",
        },
        ["aaaaaaaaaaa_E_000001_000002_A_0001_0002.mkv", "aaaaaaaaaaa_E_000001_000002_A_0003_0004.mp4"],
        {"train": [3], "val": [1], "test": [1]},
        None,
    ),
    "csv": (
        {"train.csv": "path,label\na.mp4,dog\nb.mp4,cat\n", "val.csv": "path,label\nc.mp4,dog\n"},
        ["a.mp4", "b.mp4", "c.mp4"],
        {"train": [1, 0], "val": [1], "test": [1]},
        ["cat", "dog"],
    ),
    "videomae": (
        {"train.txt": "a b.mp4   4\n", "val.txt": "c.mp4\t0\n", "test.txt": "d.mp4 2\n"},
        ["a b.mp4", "c.mp4", "d.mp4"],
        {"train": [4], "val": [0], "test": [2]},
        None,
    ),
    "diving48": (
        {
            "Diving48_V2_train.json": '[{"vid_name": "a_0", "label": 7, "start_frame": 0, "end_frame": 30}]',
            "Diving48_V2_test.json": '[{"vid_name": "b_0", "label": 1, "start_frame": 0, "end_frame": 30}]',
        },
        ["a_0.mp4", "b_0.mp4"],
        {"train": [7], "test": [1], "val": [1]},
        None,
    ),
    "moments": (
        {"trainingSet.csv": "run/a.mp4,run,3,1\n", "validationSet.csv": "run/b.mp4,run,3,0\n"},
        ["training/run/a.mp4", "validation/run/b.mp4"],
        {"train": [0], "val": [0], "test": [0]},
        ["run"],
    ),
    "jsonl": ({"train.jsonl": '{"path": "a.mp4", "label": 3}\n'}, ["a.mp4"], {"train": [3]}, None),
    "videomaev2": ({"train.csv": "a.mp4 0 -1\n"}, ["a.mp4"], {"train": [-1]}, None),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_lists_of_a_data_set(form, sources):
    annotations, names, labels, classes = FORMS[form]
    lists, folder, out = sources(annotations, names)
    prepare.main(["--from", form, str(lists), "--videos", str(folder), "--out", str(out)])
    for part, expected in labels.items():
        plain, index = (read_list(out / f"{part}.{ending}") for ending in ("csv", "jsonl"))
        assert list(plain.labels) == list(index.labels) == expected
        assert list(plain.paths) == list(index.paths)
        for path in plain.paths:
            with open_video(path) as video:
                assert video.num_frames == 30
    assert (out / "labels.txt").exists() == (classes is not None)
    if classes:
        assert (out / "labels.txt").read_text().splitlines() == classes
    assert (out / "missing.txt").read_text() == ""


def test_a_folder_of_classes(sources):
    _, folder, out = sources({}, ["train/dog/1.mp4", "train/cat/2.mp4", "val/dog/3.mp4", "val/cat/4.mp4"])
    prepare.main(["--from", "folder", str(folder), "--out", str(out)])
    assert list(read_list(out / "train.csv").labels) == [0, 1]
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    assert (out / "val.csv").read_text() == (out / "test.csv").read_text()


def test_several_labels_a_video(sources, tmp_path):
    header = "original_vido_id video_id frame_id path labels\n"
    frames = [("AAA", 1, "3,1"), ("AAA", 2, "3"), ("BBB", 1, ""), ("BBB", 2, ""), ("CCC", 1, ""), ("CCC", 2, "156,3")]
    lines = [f'{name} 0 {number} {name}/{name}-{number:06}.jpg "{labels}"\n' for name, number, labels in frames]
    lists, folder, out = sources({"train.csv": header + "".join(lines)}, [])
    for name, number, _ in frames:
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(_paint(number, 64, 48)).save(folder / name / f"{name}-{number:06}.jpg")
    prepare.main(["--from", "charades", str(lists), "--videos", str(folder), "--out", str(out)])
    assert not (out / "train.csv").exists()
    call("check", out / "train.jsonl", "--out", tmp_path / "checked", "--full")
    made = read_list(tmp_path / "checked" / "train.jsonl")
    assert list(made.label_sets) == [(1, 3), (), (3, 156)] and made.num_classes == 157
    assert numbers(made.paths[0]) == [1, 2]


def test_anomalies_are_reported(sources, capsys):
    lines = "a.mp4 0\nb.mp4 1\na.mp4 0\ngone.mp4 1\n"
    lists, folder, out = sources({"train.csv": lines, "val.csv": "b.mp4 1\n"}, ["a.mp4", "b.mp4"])
    prepare.main(["--from", "videomae", str(lists), "--videos", str(folder), "--out", str(out)])
    text = capsys.readouterr().out
    assert "train: 3 of 4 videos" in text
    assert re.search(r"1 are not there and left out, for example \S*gone\.mp4", text)
    assert re.search(r"1 are listed more than once, for example \S*a\.mp4", text)
    assert re.search(r"1 videos are in train and in val, for example \S*b\.mp4", text)
    assert (out / "missing.txt").read_text() == f"train\t{folder}/gone.mp4\n"
    assert len(read_list(out / "train.csv")) == 3


@pytest.mark.parametrize(("words", "message"), [
    (("--from", "csv", "LISTS", "--videos", "/none"), "none of the 1 videos is there, for example /none/a.mp4"),
    (("--from", "csv", "LISTS/nothing"), "does not exist"),
    (("--from", "ucf101", "LISTS"), "no lists of ucf101"),
    (("--from", "jsonl", "LISTS"), "no .jsonl with train, val or test in its name"),
    (("--from", "kinetics", "LISTS"), "youtube_id"),
])  # fmt: skip
def test_user_errors_of_prepare(words, message, sources, capsys):
    lists, _, out = sources({"train.csv": "path,label\na.mp4,1\n"}, [])
    with pytest.raises(SystemExit) as stopped:
        prepare.main([*(word.replace("LISTS", str(lists)) for word in words), "--out", str(out)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


# ------------------------------------------------------------------------------------------------- browse


def test_hidden_tokens_are_grey():
    frames = torch.randint(0, 256, (4, 3, 32, 48), dtype=torch.uint8)
    mask = torch.rand(2 * 2 * 3) < 0.5
    shown = browse.hide(frames, mask, (2, 2, 3))
    for token in range(12):
        t, y, x = token // 6, token % 6 // 3, token % 3
        block = (slice(2 * t, 2 * t + 2), slice(None), slice(16 * y, 16 * y + 16), slice(16 * x, 16 * x + 16))
        assert torch.equal(shown[block], torch.full_like(frames[block], 110) if mask[token] else frames[block])


def test_contact_sheet(videos, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("".join(f"class {place}\n" for place in range(9)))
    (tmp_path / "l.csv").write_text(f"{videos.good[0]} 0\n{videos.bad[1]} 5\n")
    flags = {"input_size": 32, "num_frames": 4, "mask_ratio": 0.5, "num_sample": 1, "columns": 3, "side": 20, "num": 2}
    small = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    browse.main([str(tmp_path / "l.csv"), str(tmp_path / "x.png"), *small])
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size[0] == 3 * 24 + 4
        assert sheet.size[1] > 5 * 40
    with pytest.raises(SystemExit):
        browse.main([str(tmp_path / "l.csv"), str(tmp_path / "x.txt"), *small])
    assert ".png" in capsys.readouterr().err


def test_rows_of_a_video(videos, tmp_path):
    (tmp_path / "l.csv").write_text(f"{videos.good[0]} 1\n")
    args = browse.parser().parse_args(
        [str(tmp_path / "l.csv"), "x.png", "--input_size", "32", "--num_frames", "4", "--mask_ratio", "0.5"]
    )
    options = browse.clip_options(args)
    rows = browse.rows_of(read_list(tmp_path / "l.csv"), 0, names=["cat", "dog"], options=options)
    assert rows[0].text.endswith("label 1: dog")
    assert [row.frames is None for row in rows] == [True] + 6 * [False]
    clip = rows[1].frames
    for row, name in zip(rows[2:5], ("tube", "random", "motion_vectors"), strict=True):
        assert f"--mask_type {name}: the encoder sees 4 of 8 tokens" in row.text
        assert (row.frames == clip).float().mean() == pytest.approx(0.5, abs=0.01)  # the same clip under every mask


# ------------------------------------------------------------------------------------------------- documents, slurm


def test_the_array_job_uses_what_exists():
    script = ROOT / "scripts" / "slurm" / "prepare.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    known = set.intersection(*(set(tool.parser()._option_string_actions) for tool in TOOLS.values()))
    commands = [
        line for line in script.read_text().splitlines() if "scripts/data/$tool.py" in line or "part=(--" in line
    ]
    assert len(commands) == 2
    assert set(re.findall(r"(?<=[( ])--\w+", " ".join(commands))) == {"--workers", "--part"} <= known
    assert "--merge" in known


def test_the_array_job_gives_every_task_its_part(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "4", "PATH": os.environ["PATH"]}
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"}
    for environment, more in ((slurm, ""), ({**slurm, **array}, " --part 3/8")):
        command = ["bash", ROOT / "scripts" / "slurm" / "prepare.sbatch", "check", "a list.csv"]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert shown.strip() == "scripts/data/check.py a list.csv --workers 4" + more


@pytest.mark.parametrize("tool", [prepare, check, reencode, shard, browse])
def test_help(tool, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--help"])
    assert stopped.value.code == 0
    assert len(capsys.readouterr().out) > 500


def test_a_folder_says_what_is_passed_over_and_reads_its_own_lists(sources, capsys):
    """Names that a list cannot hold, system names and empty classes do not stop the others."""
    names = ["dog/1.mp4", "cat/2.mp4", "cat/a\nb.mp4", "__MACOSX/._1.mp4", f"cat/{'x' * 251}.mp4", "cat/2.jpg"]
    _, folder, out = sources({}, names)
    (folder / "ant").mkdir()
    prepare.main(["--from", "folder", str(folder), "--out", str(out)])
    text = capsys.readouterr().out
    assert sorted(read_list(out / "train.csv").paths) == sorted(str(folder / names[place]) for place in (0, 1, 4))
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    for said in (
        "1 folders without a video are no classes: ant",
        "1 pictures beside videos: cat/2.jpg",
        "cat/a\\nb.mp4",
    ):
        assert said in text


def test_parts_of_one_list(sources):
    header, videos = "classname,youtube_id,subset,start,end,label\n", ["v_a.mp4", "v_b.mp4"]
    lines = "Run,a,training,1,3,1\nRun,a,training,5,7,-1\nWalk,b,validation,0,2,1\nWalk,a,training,8,9.5,1\n"
    lists, folder, out = sources({"HACS_clips_v1.1.1.csv": header + lines}, videos)
    prepare.main(["--from", "hacs", str(lists), "--videos", str(folder), "--out", str(out)])
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    path = str(folder / "v_a.mp4")
    assert rows == [
        {"path": path, "label": 0, "label_name": "Run", "start": 1.0, "end": 3.0},
        {"path": path, "label": 1, "label_name": "Walk", "start": 8.0, "end": 9.5},
    ]
    assert [json.loads(line)["label"] for line in (out / "val.jsonl").read_text().splitlines()] == [1]
