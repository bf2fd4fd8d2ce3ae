"""Figures of masked video pre-training: arrays in, a matplotlib Figure out, on a light or a dark page.

Letters: B clips, T H W frames and pixels, K rows of prototypes, E examples of each, F frames of an example. Pictures
are uint8 RGB, channels last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image

GAP = 6  # pixels between enlarged frames
FRAME = 128  # pixels that a frame is enlarged to
STRIPES = 14  # pixels from one stripe over a masked tubelet to the next


@dataclass(frozen=True)
class Style:
    """Colours of a page."""

    page: str
    text: str
    muted: str
    first: str  # what is pre-trained, what is the video's
    second: str  # what is compared with it
    masked: str


LIGHT = Style(page="#ffffff", text="#1f2328", muted="#6e7781", first="#0969da", second="#d1711f", masked="#dfe4ea")
DARK = Style(page="#0d1117", text="#e6edf3", muted="#8d96a0", first="#58a6ff", second="#f0883e", masked="#2b323b")


def draw_masked_clips(
    clips: np.ndarray, visible: np.ndarray, labels: Sequence[str], *, title: str = "", dark: bool = False
) -> Figure:
    """For each clip a row of its frames, and below it the same frames as the encoder sees them.

    Args:
        clips: (B, T, H, W, 3) uint8.
        visible: (B, T, H, W) bool, by pixel: masked tubelets are faded and striped.
        labels: what each clip shows, in words.
    """
    style = DARK if dark else LIGHT
    rows = [_clip_and_visible(*pair, style) for pair in zip(clips, visible, strict=True)]
    return _clip_rows(rows, labels, ("clip", "visible\ntubelets"), title=title, style=style)


def draw_reconstructions(
    clips: np.ndarray,
    visible: np.ndarray,
    predicted: np.ndarray,
    labels: Sequence[str],
    *,
    title: str = "",
    dark: bool = False,
) -> Figure:
    """`draw_masked_clips` with a third row for each clip: (B, T, H, W, 3) uint8 with the masked tubelets predicted."""
    style = DARK if dark else LIGHT
    rows = [
        [*_clip_and_visible(clip, seen, style), [enlarge(frame) for frame in filled]]
        for clip, seen, filled in zip(clips, visible, predicted, strict=True)
    ]
    return _clip_rows(rows, labels, ("clip", "visible\ntubelets", "predicted"), title=title, style=style)


def _clip_and_visible(clip: np.ndarray, visible: np.ndarray, style: Style) -> list[list[np.ndarray]]:
    """Two rows of enlarged frames."""
    return [
        [enlarge(frame) for frame in clip],
        [fade(frame, seen, style) for frame, seen in zip(clip, visible, strict=True)],
    ]


def _clip_rows(
    rows: Sequence[Sequence[Sequence[np.ndarray]]],
    labels: Sequence[str],
    names: Sequence[str],
    *,
    title: str,
    style: Style,
) -> Figure:
    """Versions of clips, [clip][version][frame], a panel for each clip."""
    panels = [join([join(version) for version in versions], axis=0) for versions in rows]
    height, width = panels[0].shape[:2]
    across = 9.7  # inches
    down = across * height / width
    above, label_height, below = (0.5 if title else 0.1), 0.35, 0.4
    total = above + len(rows) * (label_height + down) + below
    figure = _new_figure(11.0, total, style)
    bottoms = [total - above - (place + 1) * (label_height + down) for place in range(len(rows))]
    panes = [figure.add_axes((1.1 / 11, bottom / total, across / 11, down / total)) for bottom in bottoms]
    for axes, panel, label in zip(panes, panels, labels, strict=True):
        axes.imshow(panel, interpolation="nearest")
        _bare(axes)
        axes.set_title(label, loc="left", fontsize=12, fontweight="bold", color=style.text)
        for place, name in enumerate(names):
            axes.text(
                -8, place * (FRAME + GAP) + FRAME / 2, name, fontsize=11, ha="right", va="center", color=style.muted
            )
    for frame in range(len(rows[0][0])):
        panes[-1].text(
            frame * (FRAME + GAP) + FRAME / 2,
            height + 8,
            f"frame {frame + 1}",
            ha="center",
            va="top",
            color=style.muted,
            fontsize=11,
        )
    _title(figure, title, style)
    return figure


def draw_prototypes(
    examples: np.ndarray,
    names: Sequence[str],
    notes: Sequence[str],
    *,
    headings: tuple[str, str, str],
    inner: tuple[slice, slice],
    title: str = "",
    dark: bool = False,
) -> Figure:
    """A row for each prototype: its name, tubelets that are nearest to it as their frames side by side, a note.

    Args:
        examples: (K, E, F, H, W, 3) uint8: the tubelets with what surrounds them.
        names: of the prototypes, with what is to be said of each.
        notes: stand right of the examples.
        headings: above names, examples and notes.
        inner: rows and columns of the tubelet in an example; what surrounds it is faded.
    """
    style = DARK if dark else LIGHT
    seen = np.zeros(examples.shape[3:5], bool)
    seen[inner] = True
    rows = [
        join(
            [join([fade(frame, seen, style, striped=False) for frame in frames], gap=2) for frames in row], gap=4 * GAP
        )
        for row in examples
    ]
    height, width = rows[0].shape[:2]
    picture = join(rows, axis=0, gap=2 * GAP)
    across, above = 7.2, (0.85 if title else 0.4)  # inches
    down = across * picture.shape[0] / width
    total = above + down + 0.1
    figure = _new_figure(11.0, total, style)
    axes = figure.add_axes((1.6 / 11, 0.1 / total, across / 11, down / total))
    axes.imshow(picture, interpolation="nearest")
    _bare(axes)
    for place, heading in zip((-14, width / 2, width + 14), headings, strict=True):
        side = "right" if place < 0 else "left" if place > width else "center"
        axes.text(place, -12, heading, ha=side, va="bottom", color=style.muted, fontsize=10)
    for place, (name, note) in enumerate(zip(names, notes, strict=True)):
        middle = place * (height + 2 * GAP) + height / 2
        axes.text(-14, middle, name, ha="right", va="center", color=style.text, fontsize=11)
        axes.text(width + 14, middle, note, ha="left", va="center", color=style.text, fontsize=10)
    _title(figure, title, style)
    return figure


def draw_curves(
    axes: Axes,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    level: tuple[str, float] | None = None,
    dark: bool = False,
) -> None:
    """Lines of (steps, values) by name into a panel, the first in the style's first colour; `level` is dashed."""
    style = DARK if dark else LIGHT
    for (name, (steps, values)), colour in zip(curves.items(), (style.first, style.second, style.muted), strict=False):
        axes.plot(steps, values, label=name, color=colour, linewidth=1.8, marker="o" if len(steps) < 4 else "")
    if level is not None:
        axes.axhline(level[1], label=level[0], color=style.muted, linewidth=1.2, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)" if level else "loss")
    axes.legend(frameon=False, labelcolor=style.text)
    _panel(axes, title, style)


def draw_accuracies(
    axes: Axes, groups: Mapping[str, tuple[float, float]], names: tuple[str, str], *, chance: float, dark: bool = False
) -> None:
    """Two bars, in percent, for each group into a panel, with their numbers; chance is dashed."""
    style = DARK if dark else LIGHT
    for number, (name, colour) in enumerate(zip(names, (style.first, style.second), strict=True)):
        places = np.arange(len(groups)) + 0.4 * (number - 0.5)
        bars = axes.bar(places, [pair[number] for pair in groups.values()], 0.36, label=name, color=colour)
        axes.bar_label(bars, fmt="%.1f", padding=2, color=style.text)
    axes.axhline(chance, label="chance", color=style.muted, linewidth=1.2, linestyle="--")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylim(0, 115)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("top-1 (%)")
    axes.legend(frameon=False, labelcolor=style.text, loc="upper right", ncols=1)
    _panel(axes, "test accuracy", style)


def new_panels(count: int, *, title: str = "", dark: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, for the functions that draw into one."""
    style = DARK if dark else LIGHT
    figure = _new_figure(4.6 * count, 4.4, style, layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    _title(figure, title, style, y=None)
    return figure, list(panels)


def draw_confusion(
    matrices: Mapping[str, np.ndarray], class_names: Sequence[str], *, title: str = "", dark: bool = False
) -> Figure:
    """Confusion matrices side by side, with their numbers and one scale of colours.

    Args:
        matrices: by title, (classes, classes): how many videos of the row's class were taken for the column's.
    """
    style = DARK if dark else LIGHT
    colours = LinearSegmentedColormap.from_list("page to first", [style.page, style.first])
    figure, panels = new_panels(len(matrices), title=title, dark=dark)
    figure.set_size_inches(6.9 * len(matrices), 6.4)
    for axes, (name, counts) in zip(panels, matrices.items(), strict=True):
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = axes.imshow(shares, cmap=colours, vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            colour = style.page if shares[row, column] > 0.7 else style.text
            axes.text(
                column, row, f"{int(count)}" if count else "·", ha="center", va="center", color=colour, fontsize=10
            )
        axes.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(class_names)), class_names)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        _panel(axes, name, style)
        axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=panels, shrink=0.7, label="share of the true class's videos")
    bar.ax.yaxis.label.set_color(style.text)
    bar.ax.tick_params(colors=style.text)
    bar.outline.set_edgecolor(style.muted)
    return figure


def enlarge(picture: np.ndarray, size: int = FRAME) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size', 3), smoothly."""
    height, width = picture.shape[:2]
    return np.asarray(Image.fromarray(picture).resize((size * width // height, size), Image.Resampling.BICUBIC))


def fade(picture: np.ndarray, seen: np.ndarray, style: Style, *, striped: bool = True) -> np.ndarray:
    """A picture enlarged, with the pixels that are not seen blended into the page, and striped."""
    large = enlarge(picture).astype(float)
    shown = np.asarray(Image.fromarray(seen).resize(large.shape[1::-1], Image.Resampling.NEAREST))
    grey = large.mean(axis=2, keepdims=True)
    veil = 255 * np.array(to_rgb(style.masked))
    hidden = 0.22 * grey + 0.78 * veil
    if striped:
        rows, columns = np.indices(shown.shape)
        stripes = (rows + columns) % STRIPES < 2
        hidden = np.where(stripes[..., None], 0.55 * veil + 0.45 * 255 * np.array(to_rgb(style.muted)), hidden)
    return np.where(shown[..., None], large, hidden).round().astype(np.uint8)


def join(pictures: Sequence[np.ndarray], *, axis: int = 1, gap: int = GAP) -> np.ndarray:
    """Pictures side by side, or with axis 0 one below the other, as RGBA: what is between them is transparent."""
    opaque = [_with_alpha(picture) for picture in pictures]
    shape = list(opaque[0].shape)
    shape[axis] = gap
    parts = [part for picture in opaque for part in (np.zeros(shape, np.uint8), picture)]
    return np.concatenate(parts[1:], axis=axis)


def _with_alpha(picture: np.ndarray) -> np.ndarray:
    if picture.shape[2] == 4:
        return picture
    return np.concatenate([picture, np.full((*picture.shape[:2], 1), 255, np.uint8)], axis=2)


def _new_figure(width: float, height: float, style: Style, **options: Any) -> Figure:
    return plt.figure(figsize=(width, height), facecolor=style.page, **options)


def _title(figure: Figure, title: str, style: Style, *, y: float | None = 0.985) -> None:
    if title:
        options = {} if y is None else {"y": y, "va": "top"}
        figure.suptitle(title, color=style.text, fontsize=14, **options)


def _bare(axes: Axes) -> None:
    axes.set_axis_off()


def _panel(axes: Axes, title: str, style: Style) -> None:
    """Colours of a panel with axes."""
    axes.set_title(title, color=style.text, fontsize=12)
    axes.set_facecolor(style.page)
    axes.tick_params(colors=style.text)
    axes.xaxis.label.set_color(style.text)
    axes.yaxis.label.set_color(style.text)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(style.muted)
