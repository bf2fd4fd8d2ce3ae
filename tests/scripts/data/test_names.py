"""Names of new files: all below the folder, each once, none too long, whatever the old names were."""

import os
import posixpath
import tarfile

import numpy as np
import pytest
from videos import read_number, write_video

from datasets.decoding.open import open_video
from datasets.lists.read import read_list
from scripts.data import reencode, shard
from scripts.data.lists import absolute
from scripts.data.names import distinct_names, output_names


def test_names_below_the_folder_that_all_share():
    paths = ["/d/a/x.avi", "/d/a/x.webm", "/d/b/#y.mp4", "/d/s.tar#z/v.mp4", "s3://e/f.mp4"]
    assert list(reencode.target_names(paths[:4]).values()) == ["a/x.avi.mp4", "a/x.webm.mp4", "b/_y.mp4", "s/z/v.mp4"]
    assert list(reencode.target_names(paths[:1]).values()) == ["x.mp4"]
    assert len(set(reencode.target_names(paths).values())) == 5


def test_no_two_names_are_the_same():
    """Two videos in one file would have one label each, and one content."""
    same = ["/d/#1.mp4", "/d/_1.mp4", "/d/x.avi", "/d/x.webm", "/d/x.avi.mp4", "/d/s.tar#v.mp4", "/d/s/v.mp4"]
    for names in (output_names(same), reencode.target_names(same)):
        assert list(names) == same and len(set(names.values())) == len(same)
    assert distinct_names({"1": "a.mp4", "2": "a.mp4", "3": "a (2).mp4"}) == {
        "1": "a.mp4",
        "2": "a (3).mp4",
        "3": "a (2).mp4",
    }
    folder = reencode.target_names(["/d/a.mp4/q.avi", "/d/a.avi"])
    assert list(folder.values()) == ["a.mp4/q.mp4", "a (2).mp4"]


def test_names_stay_below_the_folder_and_are_short_enough():
    rng = np.random.default_rng(0)
    pieces = ["..", ".", "", "a", "é" * 130, "x" * 255]
    for _ in range(200):
        members = ["/".join(rng.choice(pieces, 4)) + f"/{number % 2}.mp4" for number in range(5)]
        for name in reencode.target_names([f"/d/s.tar#{member}" for member in dict.fromkeys(members)]).values():
            assert not posixpath.isabs(name) and not posixpath.normpath(name).startswith("..")
            assert posixpath.normpath(name) == name
            assert all(len(os.fsencode(part)) <= 255 for part in name.split("/")), name


def test_absolute_paths_leave_members_alone():
    assert absolute("/d/x.tar#a/../../z.mp4") == "/d/x.tar#a/../../z.mp4"
    assert absolute("/d/../e/x.tar#z.mp4") == "/e/x.tar#z.mp4"
    assert absolute("s3://b/../x.tar#z.mp4") == "s3://b/../x.tar#z.mp4"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A tar whose members lead out of the folder they are unpacked to, and a list of them."""
    folder = tmp_path_factory.mktemp("hostile") / "deep" / "deeper"
    folder.mkdir(parents=True)
    members = ["../up.mp4", "../../../out.mp4", f"{folder}/abs.mp4", "a/../../z.mp4", "ok.mp4"]
    with tarfile.open(folder / "s.tar", "w") as tar:
        for number, name in enumerate(members):
            info = tar.gettarinfo(write_video(folder / "v.mp4", 3, first=10 * number))
            info.name = name
            with open(folder / "v.mp4", "rb") as file:
                tar.addfile(info, file)
    (folder / "l.csv").write_text("".join(f"{folder}/s.tar#{name} {place}\n" for place, name in enumerate(members)))
    return folder


def test_members_of_a_tar_cannot_write_outside_the_output_folder(hostile):
    root = hostile.parents[1]
    before = {path for path in root.rglob("*") if path.is_file()}
    reencode.main([str(hostile / "l.csv"), str(hostile / "out"), "--workers", "1"])
    new = {path for path in root.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(hostile / "out") or path.name == "s.tar.index" for path in new)
    made = read_list(hostile / "out" / "l.csv")
    assert list(made.labels) == [0, 1, 2, 3, 4]
    for path, label in zip(made.paths, made.labels, strict=True):
        with open_video(path) as video:
            assert read_number(video.get_frames([2])[0]) == 10 * label + 2


def test_names_as_long_as_there_can_be(tmp_path):
    """The file that is written first has another name, which must not be longer; `.avi.mp4` would be too long."""
    names = ["x" * 251 + ".mp4", "q" * 250 + ".avi", "q" * 250 + ".mkv", "z.mp4"]
    for number, name in enumerate(names):
        write_video(tmp_path / f"short{name[-4:]}", 3, first=10 * number, codec="mpeg4").rename(tmp_path / name)
    (tmp_path / "l.csv").write_text("".join(f"{tmp_path / name} {place}\n" for place, name in enumerate(names)))
    reencode.main([str(tmp_path / "l.csv"), str(tmp_path / "out"), "--workers", "1"])
    shard.main([str(tmp_path / "l.csv"), str(tmp_path / "packed"), "--workers", "1"])
    for folder in ("out", "packed"):
        made = read_list(tmp_path / folder / "l.csv")
        assert list(made.labels) == [0, 1, 2, 3]
        for path, label in zip(made.paths, made.labels, strict=True):
            with open_video(path) as video:
                assert read_number(video.get_frames([2])[0]) == 10 * label + 2


def test_a_path_that_no_file_can_have_costs_one_video(tmp_path):
    path = write_video(tmp_path / "v.mp4", 3)
    too_long = "/".join([str(tmp_path), *["y" * 200] * 25, "v.mp4"])
    result = reencode.reencode(reencode.Work(str(path), too_long, reencode.Recipe()))
    assert "File name too long" in result["error"]
