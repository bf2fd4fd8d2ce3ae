"""check.py: the report, and damage that only a full check sees."""

import json
import os

import pytest
from data_tools import call
from videos import write_video

from scripts.data import check
from scripts.data.media import open_source
from scripts.data.reports import sibling


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


@pytest.mark.parametrize("beside", [False, True])
def test_names_of_classes_go_with_the_lists(beside, tmp_path):
    """The output folder is to be used in the place of the old one, whose labels.txt names the numbers of the lists."""
    path = write_video(tmp_path / "x.mp4", 3)
    (tmp_path / "train.csv").write_text(f"{path} 1\n" if beside else f"path,label\n{path},run\n")
    if beside:
        (tmp_path / "labels.txt").write_text("jump\nrun\n")
    call("check", tmp_path / "train.csv", "--out", tmp_path / "out", "--samples", "0", "--workers", "1")
    assert (tmp_path / "out" / "labels.txt").read_text() == ("jump\nrun\n" if beside else "run\n")


@pytest.mark.parametrize(
    ("python", "called", "expected"),
    [
        (".venv/bin/python", "scripts/data/prepare.py", ".venv/bin/python scripts/data/check.py"),
        (".venv/bin/python", "/a b/scripts/data/prepare.py", ".venv/bin/python '/a b/scripts/data/check.py'"),
        ("/of path/python", "scripts/data/prepare.py", "python scripts/data/check.py"),
        ("/other/bin/python3", "scripts/data/prepare.py", "/other/bin/python3 scripts/data/check.py"),
        ("/other/bin/python3", "/usr/bin/sigma-data-prepare", "sigma-data-check"),
    ],
)
def test_the_next_tool_is_named_as_it_can_be_called(python, called, expected, monkeypatch):
    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.setattr("sys.executable", os.path.join(os.getcwd(), python))
    monkeypatch.setattr("shutil.which", lambda name: "/of path/python")
    assert sibling("check") == expected
