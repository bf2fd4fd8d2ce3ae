"""Videos that lie as pictures: a folder of frames, or a single photo, which is a video of one frame."""

import io
import os
import re

import numpy as np
from PIL import Image, ImageOps

from ..errors import DecodeError
from .media_names import is_image, is_left_out
from .reader import VideoReader, as_decode_error, is_shard_member, read_member, stack

_NOT_FRAMES = re.compile(r"flow|(^|[_-])[xyuv]_?#")  # optical flow, which lies beside the frames in some archives
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class FrameReader(VideoReader):
    """Frame n is the n-th picture of a folder in the order of the numbers in their names, or the one picture.

    Pictures of any depth, grey, palette or with transparency become 8-bit RGB; a photo is turned as its camera asks.
    """

    decoder = "frames"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        if is_image(path):
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
    """The pictures in a folder that are its frames, by the numbers in their names: img_2.jpg before img_10.jpg.

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


def _group_by_pattern(folder: str, names: list[str]) -> dict[str, dict[tuple[int, ...], str]]:
    """Names by their pattern, `#` for a number, and by the numbers in them."""
    patterns: dict[str, dict[tuple[int, ...], str]] = {}
    for name in sorted(names):
        stem = os.path.splitext(name)[0]
        of_pattern = patterns.setdefault(re.sub(r"\d+", "#", stem), {})
        numbers = tuple(map(int, re.findall(r"\d+", stem)))
        if numbers in of_pattern:
            raise DecodeError(folder, f"two pictures for one frame: {of_pattern[numbers]}, {name}")
        of_pattern[numbers] = name
    return patterns


def read_image(path: str) -> np.ndarray:
    """A picture: uint8 (H, W, 3), RGB, upright.

    Raises:
        DecodeError: it is missing, cut off, or not a picture.
    """
    source = io.BytesIO(read_member(path)) if is_shard_member(path) else path
    with as_decode_error(path, _ERRORS), Image.open(source) as image:
        image.load()
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("a picture of floating-point numbers")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
