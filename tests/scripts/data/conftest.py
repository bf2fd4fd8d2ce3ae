"""Tiny real videos that the tools are tried on, and data sets made of them."""

import argparse
import shutil

import pytest
from videos import write_video


@pytest.fixture(scope="session")
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
