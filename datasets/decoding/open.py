"""Frames of a video by their number: one interface, several back ends, one error.

`open_video(path)` gives a reader; `reader.get_frames([0, 4, 8])` gives exactly these frames or raises `DecodeError`.
Frame numbers count the frames that a player shows, in the order it shows them: B-frames are put in order, frames that
an edit list cuts away are not counted, and a phone's rotation is applied.

A path is a video file, a picture, a folder of frames, a video or picture in a shard (`/data/a.tar#b.mp4`), or one of
CIFAR's images (`cifar-100-python/train#17`).
A reader decodes in one thread: the loader's workers are the parallelism.
"""

import importlib.metadata
import logging
import os
import stat
from collections.abc import Callable

from ..errors import DecodeError
from .alternatives import DecordReader, FallbackReader, TorchCodecReader, known_issues, why_missing
from .image_folder import FrameReader, split_pickled
from .media_names import is_image
from .pyav import PyAVReader
from .reader import VideoReader, as_decode_error, is_shard_member

BACKENDS: dict[str, Callable[[str], VideoReader]] = {
    "decord": DecordReader,
    "pyav": PyAVReader,
    "torchcodec": TorchCodecReader,
}
_PACKAGES = {"pyav": "av"}
_logged: set[tuple[str, str]] = set()  # (back end, reason) of warnings that were given

logger = logging.getLogger(__name__)


def resolve_decoder(decoder: str) -> str:
    """The name in `BACKENDS` for a value of `--decoder`.

    "auto" is PyAV: it is right on every file this project was tried on, damage included, and no slower than the others
    (docs/decoding.md has the numbers); they are wrong, some without an error, on some of them.

    Raises:
        ValueError: no such back end.
        ImportError: the one asked for cannot be used here.
    """
    if decoder == "auto":
        return "pyav"
    if decoder not in BACKENDS:
        raise ValueError(f"unknown decoder '{decoder}': choose from auto, {', '.join(BACKENDS)}")
    if decoder != "pyav" and (reason := why_missing(decoder)):
        raise ImportError(reason)
    return decoder


def describe_decoder(decoder: str) -> str:
    """Back end and version for a value of `--decoder`, for logs: "pyav 18.1.0 (auto)".

    Raises:
        ValueError, ImportError: see `resolve_decoder`.
    """
    name = resolve_decoder(decoder)
    version = importlib.metadata.version(_PACKAGES.get(name, name))
    return f"{name} {version}" + (" (auto)" if decoder == "auto" else "")


def open_video(path: str | os.PathLike[str], *, decoder: str = "auto") -> VideoReader:
    """Open a video with a back end: "pyav", "decord", "torchcodec" or "auto". Pictures are read without one.

    A file that the back end is known to get wrong, or cannot decode, is read with PyAV instead; the reader's `decoder`
    names it, and the first such file of each reason is logged.

    Raises:
        DecodeError: the file is missing, empty, truncated, not a video, or has no frames.
        ValueError, ImportError: see `resolve_decoder`.
    """
    name = resolve_decoder(decoder)
    path = os.fspath(path)
    if is_shard_member(path):
        return FrameReader(path) if is_image(path) else _open_file(path, name)
    if split_pickled(path):
        return FrameReader(path)
    with as_decode_error(path):
        status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return FrameReader(path)
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(path, "not a file")  # a pipe, say, which a decoder would wait for
    if status.st_size == 0:
        raise DecodeError(path, "empty file")
    return FrameReader(path) if is_image(path) else _open_file(path, name)


def _open_file(path: str, name: str) -> VideoReader:
    if name == "pyav":
        return PyAVReader(path)
    reason = next(known_issues(path, name), None)
    if reason is None:
        try:
            return FallbackReader(path, BACKENDS[name](path))
        except DecodeError:
            reason = "it cannot open them"
    reader = PyAVReader(path)
    _warn_once(name, reason, path)
    return reader


def _warn_once(name: str, reason: str, path: str) -> None:
    if (name, reason) not in _logged:
        _logged.add((name, reason))
        logger.warning("PyAV reads files that %s would get wrong: %s; %s is the first", name, reason, path)
