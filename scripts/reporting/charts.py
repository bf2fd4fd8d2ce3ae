"""Charts as inline SVG, in the page's own colours, so that they follow a light and a dark page."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .markup import element, number, text

NUM_COLOURS = 8  # classes c0 ... c7 of the style sheet
MOST_POINTS = 600  # of a line
NOISY, MEANS = 200, 100  # a line with more points than the first is faint, below one through so many means
WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 40
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        points: x rising; y None where there is a gap.
        colour: its number; all lines of a run have the same one.
        dash: 0 for a solid line; others differ from one another.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        levels: horizontal lines by name, such as chance.
        marks: x of vertical lines.
        within: the lowest and highest value that there can be; the axis ends there.
        note: below the title.
        has_legend: False if the title says what the only line is.
    """

    title: str
    series: Sequence[Series]
    levels: dict[str, float] = field(default_factory=dict)
    marks: Sequence[float] = ()
    within: tuple[float, float] = (-math.inf, math.inf)
    note: str = ""
    x_name: str = "step"
    has_legend: bool = True


def line_chart(chart: Chart) -> str:
    """A chart with its title and legend."""
    lines = [replace(series, points=thinned(series.points)) for series in chart.series]
    points = [point for line in lines for point in line.points]
    frame = Frame.around(points, list(chart.levels.values()), within=chart.within)
    parts = [_axes(frame, chart.x_name)]
    parts += [
        f'<line class="mark" x1="{frame.x(at):.1f}" x2="{frame.x(at):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        for at in chart.marks
        if frame.left <= at <= frame.right
    ]
    parts += [
        f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(at):.1f}" y2="{frame.y(at):.1f}"/>'
        for at in chart.levels.values()
    ]
    for series, line in zip(chart.series, lines, strict=True):
        parts.append(_line(line, frame, means=means(series.points) if len(series.points) > NOISY else []))
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    return _figure(chart, "".join(parts), frame)


def scatter_chart(chart: Chart) -> str:
    """Points, with the diagonal."""
    (series,) = chart.series
    frame = Frame.around(series.points, [], same=True)
    ends = frame.x(frame.left), frame.y(frame.bottom), frame.x(frame.right), frame.y(frame.top)
    diagonal = '<line class="level" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends)
    dots = "".join(
        f'<circle class="dot c0" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>'
        for x, y in series.points
        if y is not None
    )
    return _figure(chart, _axes(frame, chart.x_name) + diagonal + dots, frame)


@dataclass(frozen=True)
class Frame:
    """The part of the plane that is shown."""

    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def around(
        cls,
        points: Sequence[Point],
        levels: Sequence[float],
        *,
        same: bool = False,
        within: tuple[float, float] = (-math.inf, math.inf),
    ) -> "Frame":
        """Around points and levels; with `same` both axes have one range. Of y nothing outside `within` is shown."""
        finite = [(x, y) for x, y in points if y is not None]
        xs = [x for x, _ in points] or [0.0]
        ys = [y for _, y in finite] + list(levels) or [0.0]
        if same:
            xs = ys = xs + ys
        (left, right), (bottom, top) = _widened(min(xs), max(xs), 0.0), _widened(min(ys), max(ys), 0.05)
        if 0 <= min(ys) < 0.4 * max(ys):  # zero is near: a scale from it does not mislead
            bottom = 0.0
        return cls(left, right, max(bottom, within[0]), min(top, within[1]))

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.bottom) / (self.top - self.bottom)


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    if low == high:
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    margin = share * (high - low)
    return low - margin, high + margin


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers inside a range: multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    return [place * step for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points: of each stretch of a longer line the lowest and the highest."""
    if len(points) <= MOST_POINTS:
        return list(points)
    kept: set[int] = {0, len(points) - 1}
    for part in np.array_split(np.arange(len(points)), MOST_POINTS // 2 - 1):
        finite = [place for place in part.tolist() if points[place][1] is not None] or part.tolist()[:1]
        kept |= {min(finite, key=lambda at: points[at][1] or 0.0), max(finite, key=lambda at: points[at][1] or 0.0)}
    return [points[place] for place in sorted(kept)]


def means(points: Sequence[Point]) -> list[Point]:
    """MEANS points: of each stretch of a line the mean of what is finite."""
    found: list[Point] = []
    for part in np.array_split(np.array(points, dtype=float), MEANS):
        finite = part[np.isfinite(part[:, 1])]
        found.append((float(part[:, 0].mean()), float(finite[:, 1].mean()) if len(finite) else None))
    return found


def _line(series: Series, frame: Frame, *, means: Sequence[Point]) -> str:
    """A path, whose values are kept for the cursor, and one through the means of a noisy line."""
    shape, dots = _shape(series.points, frame)
    path = element(
        "path",
        "",
        class_=f"line d{series.dash}" + (" faint" if means else ""),
        d=shape,
        data_name=series.name,
        data_points=json.dumps(series.points, separators=(",", ":")),
    )
    if means:
        dots += element("path", "", class_=f"line d{series.dash}", d=_shape(means, frame)[0])
    return element("g", path + dots, class_=f"c{series.colour % NUM_COLOURS}")


def _shape(points: Sequence[Point], frame: Frame) -> tuple[str, str]:
    """The words of a path, and dots where a point has no neighbours."""
    words, is_open, dots = [], False, []
    for place, (x, y) in enumerate(points):
        if y is None:
            is_open = False
            continue
        words.append(f"{'L' if is_open else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        following = points[place + 1][1] if place + 1 < len(points) else None
        if not is_open and following is None:
            dots.append(f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>')
        is_open = True
    return "".join(words), "".join(dots)


def _axes(frame: Frame, x_name: str) -> str:
    parts = []
    for at in ticks(frame.bottom, frame.top):
        y = frame.y(at)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(at)}</text>')
    for at in ticks(frame.left, frame.right):
        x = frame.x(at)
        anchor = "end" if x > WIDTH - 30 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{number(at)}</text>')
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{text(x_name)}</text>"
    )
    return "".join(parts)


def _figure(chart: Chart, inner: str, frame: Frame) -> str:
    limits = json.dumps([frame.left, frame.right, frame.bottom, frame.top])
    box = json.dumps([LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP])
    drawing = element(
        "svg",
        inner,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=chart.title,
        data_limits=limits,
        data_box=box,
    )
    entries = [_entry(series.name, f"c{series.colour % NUM_COLOURS}", f"d{series.dash}") for series in chart.series]
    entries += [_entry(name, "", "level") for name in chart.levels]
    legend = f'<ul class="legend">{"".join(entries)}</ul>' if chart.has_legend else ""
    note = f'<p class="note">{text(chart.note)}</p>' if chart.note else ""
    return (
        f'<figure class="chart"><figcaption>{text(chart.title)}</figcaption>{note}{legend}'
        f'{drawing}<output class="values"></output></figure>'
    )


def _entry(name: str, colour: str, line: str) -> str:
    stroke = (
        f'<svg class="key {colour}" viewBox="0 0 24 8" aria-hidden="true"><path class="line {line}" d="M0 4H24"/></svg>'
    )
    return f"<li>{stroke}{text(name)}</li>"
