"""Videos that bench/data.py is run on: moving textures, H.264 as it is found and as reencode.py gives it."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from scripts.data.encoding import Recipe
from scripts.data.encoding import encode as encode_anew


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Blobs of several sizes: uint8 (height, width, 3)."""
    image = np.full((height, width, 3), 128.0)
    for cell, strength in ((96, 60), (32, 40), (12, 25), (4, 12)):
        coarse = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2, 3))
        scaled = torch.nn.functional.interpolate(
            torch.from_numpy(coarse).permute(2, 0, 1)[None], size=(height, width), mode="bicubic"
        )
        image += strength * scaled[0].permute(1, 2, 0).numpy()
    return image.clip(0, 255).astype(np.uint8)


def moving_frames(width: int, height: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """A panning background, two things that move over it, and a little noise."""
    rng = np.random.default_rng(seed)
    back = texture(height + 160, width + 160, rng)
    things = [texture(height // 3, width // 4, rng) for _ in range(2)]
    noise = rng.integers(-3, 4, (8, height, width, 1))

    def frame(t: int) -> np.ndarray:
        y, x = (round(80 + 75 * math.sin(t / 40 + seed + turn)) for turn in (0, 1.5))
        image = back[y : y + height, x : x + width].astype(np.int16)
        for k, thing in enumerate(things):
            top = round((height - len(thing)) * (0.5 + 0.5 * math.sin(t / (17 + 9 * k) + k)))
            left = round((width - thing.shape[1]) * (0.5 + 0.5 * math.cos(t / (23 + 5 * k))))
            image[top : top + len(thing), left : left + thing.shape[1]] = thing
        return (image + noise[t % 8]).clip(0, 255).astype(np.uint8)

    return (frame(t) for t in range(count))


def encode(file: Path, frames: Iterator[np.ndarray], size: tuple[int, int], gop: int) -> Path:
    """H.264 at 30 fps, of uint8 arrays (height, width, 3)."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", gop
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file


def reencode(source: Path, target: Path, short_side: int) -> Path:
    """The form that scripts/data/reencode.py gives."""
    encode_anew(str(source), str(target), Recipe(short_side=short_side))
    return target
