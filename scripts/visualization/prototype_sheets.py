"""What prototypes stand for: sheets of their nearest tubelets in many videos, and how many tubelets each has.

Letters: K prototypes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from models.analysis.prototypes import perplexity

from .gallery import Gallery
from .sheets import Text, sheet, tiles
from .subject import Subject

TILE = 160  # pixels
AROUND = 2  # tubelets shown on every side of one
BEYOND = 223  # grey level of what lies outside of the frame
COLUMNS = 5
IN_OVERVIEW = 8  # tubelets of each prototype in the overview


def prototype_sheet(gallery: Gallery, subject: Subject, prototype: int) -> np.ndarray:
    """The nearest tubelets of one prototype, with video, time and cosine of each."""
    found = list(nearest_tubelets(gallery, subject, prototype))
    counts = gallery.counts[gallery.how]
    rank = int((counts > counts[prototype]).sum()) + 1
    ids = gallery.nearest.token[prototype].tolist()
    own = sum(gallery.code(token, subject.encoder.grid) == prototype for token in ids if token >= 0)
    limit = gallery.nearest.per_batch
    some = f", at most {limit} of a clip" if limit < len(ids) else ""
    notes = [
        f"{counts[prototype]} tubelets are assigned to it, {gallery.shares[prototype]:.2f} %: rank {rank} of "
        f"{len(counts)}. {gallery.describe()}",
        f"Tubelets with the largest cosine{some}; {own} of these {len(found)} are assigned to it. Each picture: first "
        "frame of the tubelet (red) and what surrounds it; below, video, time and cosine",
        subject.of_embeddings(),
        subject.describe,
    ]
    title = f"Prototype {prototype}: its {len(found)} nearest tubelets"
    return tiles(Text(title, notes), [tile for tile, _ in found], [text for _, text in found], columns=COLUMNS)


def overview(gallery: Gallery, subject: Subject, prototypes: Sequence[int]) -> np.ndarray:
    """A row of nearest tubelets for each of some prototypes."""
    rows = {}
    for prototype in prototypes:
        found = [tile for tile, _ in nearest_tubelets(gallery, subject, prototype)][:IN_OVERVIEW]
        rows[f"prototype {prototype}\n{gallery.shares[prototype]:.2f} % of the tubelets"] = found
    columns = max(len(row) for row in rows.values())
    notes = [
        f"Red frame: the tubelet. {gallery.describe()}",
        subject.of_embeddings(),
        subject.describe,
    ]
    title = f"Nearest tubelets of {len(rows)} of {len(gallery.shares)} prototypes"
    captions = ["nearest tubelet", *(f"no. {place}" for place in range(2, columns + 1))]
    return sheet(Text(title, notes), rows, captions)


def nearest_tubelets(gallery: Gallery, subject: Subject, prototype: int) -> Iterator[tuple[np.ndarray, str]]:
    """Picture and caption of each, from the nearest on."""
    frames, height, width = subject.encoder.tubelet
    ids, cosines = (values[prototype].tolist() for values in (gallery.nearest.token, gallery.nearest.similarity))
    for token, cosine in zip(ids, cosines, strict=True):
        if token < 0:  # fewer tubelets than asked for
            break
        video, clip, slot, row, column = gallery.locate(token, subject.encoder.grid)
        clips = gallery.videos[video]
        frame = clips.frames[clip, slot * frames].permute(1, 2, 0).numpy()
        tile = cut(frame, row * height, column * width, height=height, width=width)
        yield tile, f"{clips.name}\n{clips.when(clip, slot * frames)}, {cosine:.3f}"


def cut(frame: np.ndarray, top: int, left: int, *, height: int, width: int) -> np.ndarray:
    """(TILE, TILE, 3): a tubelet of a frame, framed in red, with AROUND tubelets on every side."""
    margin = ((AROUND * height,) * 2, (AROUND * width,) * 2, (0, 0))
    padded = np.pad(frame, margin, constant_values=BEYOND)
    whole = 2 * AROUND + 1
    image = Image.fromarray(padded[top : top + whole * height, left : left + whole * width])
    image = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
    low, high = AROUND * TILE / whole, (AROUND + 1) * TILE / whole
    pen = ImageDraw.Draw(image)
    pen.rectangle((low - 2, low - 2, high + 2, high + 2), outline=(255, 255, 255))
    pen.rectangle((low - 1, low - 1, high + 1, high + 1), outline=(220, 30, 30), width=2)
    return np.asarray(image)


def histogram(gallery: Gallery, subject: Subject) -> np.ndarray:
    """(H, W, 3) uint8: how many tubelets each prototype has, the most used first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: an installation need not have it
    from matplotlib.figure import Figure

    number = len(gallery.shares)
    figure = Figure(figsize=(9.6, 5.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for (name, counts), colour in zip(gallery.counts.items(), ("#0969da", "#d1711f"), strict=False):
        used, effective = int((counts > 0).sum()), perplexity(torch.from_numpy(counts))
        label = f"{name}: {used} of {number} used, perplexity {effective:.1f}"
        shares = 100 * np.sort(counts)[::-1] / gallery.total
        axes.plot(np.arange(1, number + 1), shares, drawstyle="steps-mid", color=colour, linewidth=1.8, label=label)
    even = f"all evenly used: {100 / number:.3g} %, perplexity {number}"
    axes.axhline(100 / number, color="#59636e", linestyle="--", linewidth=1.2, label=even)
    axes.set_xlabel("prototypes, the most used first", fontsize=12)
    axes.set_ylabel("share of the tubelets (%)", fontsize=12)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0.5, number + 0.5)
    axes.legend(frameon=False, fontsize=11)
    videos = "1 video" if len(gallery.videos) == 1 else f"{len(gallery.videos)} videos"
    figure.suptitle("How many tubelets each prototype has", fontsize=15)
    axes.set_title(f"{gallery.total} tubelets of {videos}. {subject.describe}", fontsize=10.5, color="#50585f")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
