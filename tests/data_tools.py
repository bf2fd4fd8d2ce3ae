"""What the tests of the preparation tools share: how they are called, and what they make."""

import re

from videos import read_number

from datasets.decoding.open import open_video
from scripts.data import check, reencode, shard

TOOLS = {"check": check, "reencode": reencode, "shard": shard}


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
