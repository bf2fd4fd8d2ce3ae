"""Files of pictures and films, complete or not there."""

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

ENCODING = {"crf": "20", "preset": "veryfast"}


def new_folder(output: Path, name: str, taken: set[str]) -> Path:
    """A folder for a video's pictures, with its name; a second one of the name gets a number."""
    stem = re.sub(r"[^\w.-]+", "_", Path(name).stem) or "video"
    unique, number = stem, 2
    while unique in taken:
        unique, number = f"{stem}-{number}", number + 1
    taken.add(unique)
    folder = output / unique
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    Image.fromarray(picture).save(scratch, format="PNG")
    scratch.replace(path)


def write_film(frames: np.ndarray, path: Path, *, rate: float) -> None:
    """Write (T, H, W, 3) uint8 with even sides as an H.264 mp4 that browsers play.

    Args:
        rate: frames a second.
    """
    scratch = path.with_name(f".{path.name}")
    with av.open(str(scratch), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options=ENCODING)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    scratch.replace(path)
