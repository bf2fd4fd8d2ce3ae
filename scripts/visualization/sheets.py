"""Sheets and films: pictures with a text that says what they are. Arrays in, uint8 RGB out.

Letters: T H W frames and pixels.
"""

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
PAGE, INK, MUTED = (255, 255, 255), (25, 30, 36), (80, 88, 97)
MARGIN, GAP = 16, 6  # pixels
TITLE, TEXT, SMALL = 24, 17, 15  # sizes of type in pixels
NAMES = 150  # pixels of the column of names
CHIP = 18  # side of a colour in a legend


@dataclass(frozen=True)
class Text:
    """What stands above a picture: a title, lines below it, and what colours mean."""

    title: str
    notes: Sequence[str] = ()
    legend: Sequence[tuple[Colour, str]] = ()


def sheet(text: Text, rows: Mapping[str, Sequence[np.ndarray] | np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Rows of pictures of one size, (H, W, 3) each, named on the left; captions stand below the columns."""
    height, width = next(iter(rows.values()))[0].shape[:2]
    columns = len(captions)
    left = MARGIN + NAMES
    page = Image.new("RGB", (left + columns * (width + GAP) + MARGIN, len(rows) * (height + GAP) + 2 * SMALL), PAGE)
    for number, (name, pictures) in enumerate(rows.items()):
        top = number * (height + GAP)
        _write(page, name, (MARGIN, top), size=TEXT, width=NAMES - GAP)
        for column, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), (left + column * (width + GAP), top))
    for column, caption in enumerate(captions):
        place = left + column * (width + GAP), len(rows) * (height + GAP)
        _write(page, caption, place, size=SMALL, width=width, colour=MUTED)
    return _below(_header(text, page.width), np.asarray(page))


def tiles(text: Text, pictures: Sequence[np.ndarray], captions: Sequence[str], *, columns: int) -> np.ndarray:
    """Pictures of one size in lines of `columns`, each with a caption of up to two lines below it."""
    height, width = pictures[0].shape[:2]
    lines = -(-len(pictures) // columns)
    step = height + 2 * (SMALL + 3) + GAP
    page = Image.new("RGB", (2 * MARGIN + columns * (width + GAP) - GAP, lines * step + MARGIN), PAGE)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        place = MARGIN + number % columns * (width + GAP), number // columns * step
        page.paste(Image.fromarray(picture), place)
        lines_of = [_shortened(line, SMALL, width) for line in caption.split("\n")]
        _write(page, "\n".join(lines_of), (place[0], place[1] + height + 1), size=SMALL, width=width, colour=MUTED)
    return _below(_header(text, page.width), np.asarray(page))


def film(text: Text, panels: Mapping[str, np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Panels (T, H, W, 3) side by side under their names and one text; a frame's caption stands below.

    Returns:
        (T, H', W', 3) with even sides, as video codecs want them.
    """
    length, height, width = next(iter(panels.values())).shape[:3]
    total = max(2 * MARGIN + len(panels) * (width + GAP) - GAP, 480)
    names = Image.new("RGB", (total, TEXT + 8), PAGE)
    for number, name in enumerate(panels):
        _write(names, _shortened(name, TEXT, width), (MARGIN + number * (width + GAP), 0), size=TEXT, width=width)
    above = _below(_header(text, total), np.asarray(names))
    shape = len(above) + height + SMALL + 14, total
    frames = np.full((length, shape[0] + shape[0] % 2, total + total % 2, 3), PAGE, np.uint8)
    frames[:, : len(above), :total] = above
    for number, panel in enumerate(panels.values()):
        left = MARGIN + number * (width + GAP)
        frames[:, len(above) : len(above) + height, left : left + width] = panel
    for frame, caption in zip(frames, captions, strict=True):
        foot = Image.new("RGB", (total, SMALL + 8), PAGE)
        _write(foot, caption, (MARGIN, 0), size=SMALL, width=total - 2 * MARGIN, colour=MUTED)
        frame[len(above) + height + 4 : len(above) + height + 4 + foot.height, :total] = np.asarray(foot)
    return frames


def resized(frames: np.ndarray, side: int) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, side, side, 3), smoothly."""
    return np.stack([np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.BICUBIC)) for f in frames])


def nearest(labels: np.ndarray, side: int) -> np.ndarray:
    """(T, h, w) -> (T, side, side), each pixel that of the cell it lies in."""
    rows, columns = (np.arange(side) * cells // side for cells in labels.shape[1:3])
    return labels[:, rows][:, :, columns]


def _header(text: Text, width: int) -> np.ndarray:
    """(H, width, 3): title, notes and legend, wrapped."""
    inner = width - 2 * MARGIN
    lines = [(line, TITLE, INK) for line in _wrapped(text.title, TITLE, inner)]
    lines += [(line, TEXT, MUTED) for note in text.notes for line in _wrapped(note, TEXT, inner)]
    placed, x, y = [], 0, 0
    for colour, name in text.legend:
        needed = CHIP + GAP + int(_font(TEXT).getlength(name)) + 3 * GAP
        if x and x + needed > inner:
            x, y = 0, y + CHIP + GAP
        placed.append((x, y, colour, name))
        x += needed
    text_height = sum(size + 7 for _, size, _ in lines)
    page = Image.new("RGB", (width, MARGIN + text_height + (y + CHIP + 3 * GAP if placed else GAP)), PAGE)
    pen, top = ImageDraw.Draw(page), MARGIN
    for line, size, colour in lines:
        pen.text((MARGIN, top), line, fill=colour, font=_font(size))
        top += size + 7
    for x, y, colour, name in placed:
        y += top + GAP // 2
        pen.rectangle((MARGIN + x, y, MARGIN + x + CHIP, y + CHIP), fill=colour, outline=MUTED)
        pen.text((MARGIN + x + CHIP + GAP, y), name, fill=INK, font=_font(TEXT))
    return np.asarray(page)


def _write(
    page: Image.Image, text: str, place: tuple[int, int], *, size: int, width: int, colour: Colour = INK
) -> None:
    """Wrapped text from its top left corner on."""
    lines = [line for part in text.split("\n") for line in _wrapped(part, size, width)]
    ImageDraw.Draw(page).multiline_text(place, "\n".join(lines), fill=colour, font=_font(size), spacing=4)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels; a longer word is shortened."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_shortened(word, size, width))
    return lines


def _shortened(text: str, size: int, width: int) -> str:
    """The text, or its beginning and end with dots between that fit into `width` pixels."""
    if _font(size).getlength(text) <= width:
        return text

    def ends(kept: int) -> str:
        return f"{text[:kept]}...{text[len(text) - kept :]}"

    def needed(kept: int) -> int:
        return math.ceil(_font(size).getlength(ends(kept)))

    fitting = bisect.bisect_right(range(1, len(text) // 2), width, key=needed)
    return ends(max(fitting, 1))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own, which is there on every machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _below(*pictures: np.ndarray) -> np.ndarray:
    return np.concatenate(pictures)
