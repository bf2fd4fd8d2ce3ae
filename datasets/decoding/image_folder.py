"""Videos that lie as pictures: a folder of frames, or a single photo, which is a video of one frame.

A photo is a file, or a row of CIFAR's pickles, `cifar-100-python/train#17`.
"""

import functools
import io
import itertools
import os
import pickle
import re
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from PIL import Image, ImageOps

from ..errors import DecodeError
from .media_names import is_image, is_left_out
from .reader import VideoReader, as_decode_error, is_shard_member, read_member, stack

_WHOLE, _DECIMAL = re.compile(r"\d+"), re.compile(r"(?<![\d.])\d+\.\d+(?![\d.])|\d+")
_PAIR = re.compile(r"(?<![\d.])(\d+)\.(\d+)(?![\d.])")  # no part of a date or version, which has more points
_MANY = 4  # evenly spaced numbers that are no chance
_NOT_FRAMES = re.compile(r"flow|(^|[_-])[xyuv]_?#")  # optical flow, which lies beside the frames in some archives
_PICKLED = re.compile(r"((?:.*/)?cifar-100-python/(?:train|test))#(\d+)")
_PICKLED_CLASSES = {  # what CIFAR's pickles are made of, besides plain values: arrays, as NumPy 1 and 2 write them
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),
}
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class FrameReader(VideoReader):
    """Frame n is the n-th picture of a folder in the order of the numbers in their names, or the one picture.

    Pictures of any depth, grey, palette or with transparency become 8-bit RGB; a photo is turned as its camera asks.
    """

    decoder = "frames"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        if is_image(path) or split_pickled(path):
            self._files = [path]
        else:
            self._files = [os.path.join(path, name) for name in frame_names(path)]
        self.num_frames = len(self._files)

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _read(self, indices: list[int]) -> np.ndarray:
        images = [read_image(self._files[i]) for i in indices]
        for i, image in zip(indices, images, strict=True):
            stack(self._files[i], [images[0], image])  # an error then names the picture, not the folder
        return stack(self._path, images)


def frame_names(folder: str | os.PathLike[str]) -> list[str]:
    """The pictures in a folder that are its frames, by the numbers in their names: img_2 before img_10.

    Raises:
        DecodeError: the folder cannot be read, has no pictures, pictures of several kinds of names, or of one number.
    """
    folder = os.fspath(folder)
    with as_decode_error(folder):
        names = [name for name in os.listdir(folder) if is_image(name) and not is_left_out(name)]
    patterns = _group_by_pattern(folder, names)
    frames = [pattern for pattern in patterns if not _NOT_FRAMES.search(pattern)]
    if not frames:
        raise DecodeError(folder, "a folder of optical flow only" if patterns else "a folder without pictures")
    if len(frames) > 1:
        examples = [next(iter(patterns[pattern].values())) for pattern in frames[:2]]
        raise DecodeError(folder, f"names of several kinds: which are the frames, {' or '.join(examples)}?")
    return [name for _, name in sorted(patterns[frames[0]].items())]


def _group_by_pattern(folder: str, names: list[str]) -> dict[str, dict[tuple[Fraction, ...], str]]:
    """Names by their pattern, `#` for a number, and by the numbers in them."""
    stems = {name: os.path.splitext(name)[0] for name in sorted(names)}
    patterns: dict[str, dict[tuple[Fraction, ...], str]] = {}
    number = _DECIMAL if _are_decimals(stems.values()) else _WHOLE
    for name, stem in stems.items():
        of_pattern = patterns.setdefault(number.sub("#", stem), {})
        numbers = tuple(map(Fraction, number.findall(stem)))
        if numbers in of_pattern:
            raise DecodeError(folder, f"two pictures for one frame: {of_pattern[numbers]}, {name}")
        of_pattern[numbers] = name
    return patterns


def _are_decimals(stems: Iterable[str]) -> bool:
    """Whether points in names are decimal points (0.25, 0.5, 0.75) rather than between two numbers (take1.9, take1.10).

    It makes a difference where numbers after a point differ in length. They are counters if those behind the same
    number, as whole numbers, follow one another, or are four or more and evenly spaced.
    """
    after: dict[str, set[str]] = {}
    for stem in stems:
        for whole, part in _PAIR.findall(stem):
            after.setdefault(whole, set()).add(part)
    parts = [part for group in after.values() for part in group]
    if len({len(part) for part in parts}) < 2 or any(part.startswith("0") and part != "0" for part in parts):
        return bool(parts)
    groups = [sorted(map(int, group)) for group in after.values()]
    return max(map(len, groups)) == 1 or not all(map(_is_counter, groups))


def _is_counter(numbers: list[int]) -> bool:
    steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    return not steps or steps == {1} or (len(steps) == 1 and len(numbers) >= _MANY)


def read_image(path: str) -> np.ndarray:
    """A picture: uint8 (H, W, 3), RGB, upright.

    Raises:
        DecodeError: it is missing, cut off, not a picture, or several of them in one file.
    """
    pickled = split_pickled(path)
    if pickled:
        return _read_pickled(path, *pickled)
    source = io.BytesIO(read_member(path)) if is_shard_member(path) else path
    with as_decode_error(path, _ERRORS), Image.open(source) as image:
        count = _num_pictures(image)
        if count > 1:
            reason = f"{count} pictures in one {image.format} file, of which the first alone would be read"
            raise DecodeError(path, f"{reason}: convert it to a video, or to a folder of frames")
        image.load()
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def _num_pictures(image: Image.Image) -> int:
    """How many pictures of an animation or a stack a file holds; previews beside a photo do not count."""
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO":  # a JPEG with the camera's previews behind it
        return 1
    if image.format != "TIFF":
        return count
    size, same = image.size, 0
    for page in range(count):  # thumbnails are smaller
        image.seek(page)
        same += image.size == size
    image.seek(0)
    return same


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("a picture of floating-point numbers")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


# ------------------------------------------------------------------------------------------------- CIFAR


def split_pickled(path: str) -> tuple[str, int] | None:
    """File and row of `cifar-100-python/train#17`; None for any other path."""
    match = _PICKLED.fullmatch(path)
    return (match[1], int(match[2])) if match else None


class _Arrays(pickle.Unpickler):
    """Unpickles arrays and plain values, and runs no other code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _PICKLED_CLASSES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which CIFAR's files do not")
        return super().find_class(module, name)


@functools.lru_cache(maxsize=2)
def read_pickle(file: str) -> dict[bytes, object]:
    """The content of one of CIFAR's files; names are bytes there.

    Raises:
        DecodeError: it is missing, cut off or holds something else.
    """
    errors = (OSError, pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError)
    with as_decode_error(file, errors), open(file, "rb") as stream:
        content = _Arrays(stream, encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError("not a dictionary")
        return content


def _read_pickled(path: str, file: str, row: int) -> np.ndarray:
    rows = read_pickle(file).get(b"data")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 3 * 32 * 32 or row >= len(rows):
        raise DecodeError(path, "no row of 3 x 32 x 32 values in it")
    return np.ascontiguousarray(rows[row].reshape(3, 32, 32).transpose(1, 2, 0).astype(np.uint8))
