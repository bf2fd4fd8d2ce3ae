"""Pictures inside a page: frames of videos, and matrices that are too large for numbers."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH = 132  # pixels of a frame
PLACES = (0.2, 0.5, 0.8)  # of the video, or of its part, that frames are taken from
ACCENT = (47, 129, 247)  # seen on a light and on a dark page
_QUALITY = 72


class NoPicture(Exception):
    """There is nothing to be shown of a video; the message says why."""


def thumbnail(path: str, span: tuple[float, float] | None, roots: Sequence[Path]) -> str:
    """Frames of a video side by side, as a data URI.

    Args:
        roots: folders that a relative path may start from.

    Raises:
        NoPicture: the video is no longer there, or cannot be decoded.
    """
    from datasets.decoding import DecodeError, open_video  # here: with torch, which no other part of a report needs
    from datasets.lists.spans import frames_within

    place = next((found for root in roots if _exists(found := root / path)), None)
    if place is None:
        raise NoPicture("no video at this path any more")
    try:
        with open_video(str(place)) as video:
            frames = frames_within(video, str(place), span)
            chosen = sorted({frames[int(share * len(frames))] for share in PLACES})
            pixels = video.get_frames(chosen)
    except (DecodeError, OSError) as error:
        raise NoPicture(f"cannot be decoded: {error}") from error
    small = [_scaled(frame.permute(1, 2, 0).numpy()) for frame in pixels]
    return data_uri(np.concatenate(small, axis=1), "JPEG")


def _exists(path: Path) -> bool:
    """Whether there is a file, or the shard or folder that a path points into."""
    try:
        return path.exists() or Path(str(path).partition("#")[0]).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _scaled(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    size = (WIDTH, max(1, min(round(WIDTH * height / width), 2 * WIDTH)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def matrix_picture(shares: np.ndarray) -> str:
    """A picture with a pixel for each entry: the larger, from 0 to 1, the more opaque; as a data URI."""
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = ACCENT
    pixels[..., 3] = np.round(255 * np.sqrt(shares)).astype(np.uint8)  # so that rare mistakes are seen
    return data_uri(pixels, "PNG")


def data_uri(pixels: np.ndarray, form: str) -> str:
    """(H, W, 3 or 4) uint8 as a file inside an address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"quality": _QUALITY} if form == "JPEG" else {"optimize": True}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
