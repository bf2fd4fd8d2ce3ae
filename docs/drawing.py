"""Layered drawings of rooms and arrows as SVG, for docs/architecture.py."""

from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import quoteattr

Arrow = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """Rooms of a drawing and the arrows between them: (a, b) where a imports b."""

    rooms: dict[str, str]  # name -> label
    arrows: set[Arrow]


def implied(arrows: set[Arrow]) -> set[Arrow]:
    """Arrows that follow from others: a imports b, and also something that imports b. They are drawn faintly."""
    below: dict[str, set[str]] = {}

    def reach(room: str) -> set[str]:
        if room not in below:
            direct = {b for a, b in arrows if a == room}
            below[room] = direct.union(*(reach(b) for b in direct))
        return below[room]

    return {(a, b) for a, b in arrows if any(b in reach(c) for x, c in arrows if x == a and c != b)}


# ------------------------------------------------------------------------------------------------ layout
# Layers by the longest chain of imports, crossings reduced by the barycentre rule (Sugiyama, Tagawa, Toda 1981).

ROW, GAP, HEIGHT, MARGIN = 74, 22, 30, 14


def layer_of(plan: Plan) -> dict[str, int]:
    """0 for rooms that import no other; else one more than the highest that it imports.

    Raises:
        SystemExit: rooms import each other in a circle.
    """
    layer: dict[str, int] = {}
    waiting = set(plan.rooms)
    while waiting:
        ready = {room for room in waiting if not {b for a, b in plan.arrows if a == room} & waiting}
        if not ready:
            raise SystemExit(f"error: imports in a circle among {', '.join(sorted(waiting))}")
        for room in ready:
            layer[room] = 1 + max((layer[b] for a, b in plan.arrows if a == room), default=-1)
        waiting -= ready
    return layer


class Layout:
    """Places of rooms, and of the points where long arrows pass a layer. `x` are centres."""

    def __init__(self, plan: Plan) -> None:
        self.width = {room: 7.6 * len(label) + 22 for room, label in plan.rooms.items()}
        self.layer = layer_of(plan)
        self.chains: dict[Arrow, list[str]] = {}
        for a, b in sorted(plan.arrows):
            points = [f"{a}>{b}@{level}" for level in range(self.layer[a] - 1, self.layer[b], -1)]
            self.chains[a, b] = [a, *points, b]
            for level, point in zip(range(self.layer[a] - 1, self.layer[b], -1), points, strict=True):
                self.layer[point], self.width[point] = level, 10.0
        self.neighbours: dict[str, list[str]] = {node: [] for node in self.layer}
        for chain in self.chains.values():
            for a, b in pairwise(chain):
                self.neighbours[a].append(b)
                self.neighbours[b].append(a)
        self.rows = [
            sorted(node for node in self.layer if self.layer[node] == level)
            for level in range(max(self.layer.values()) + 1)
        ]
        self.x: dict[str, float] = {}
        for row in self.rows:
            self._spread(row, {node: float(i) for i, node in enumerate(row)})
        for sweep in range(60):
            for row in self.rows if sweep % 2 else reversed(self.rows):
                self._arrange(row, reorder=sweep < 40)
        left = min(self.x[node] - self.width[node] / 2 for node in self.x)
        self.x = {node: x - left + MARGIN for node, x in self.x.items()}

    def _arrange(self, row: list[str], *, reorder: bool) -> None:
        wanted = {n: _mean([self.x[m] for m in self.neighbours[n]], default=self.x[n]) for n in row}
        if reorder:
            row.sort(key=lambda node: (wanted[node], node))
        self._spread(row, wanted)

    def _spread(self, row: list[str], wanted: dict[str, float]) -> None:
        """As near to the wanted places as the widths allow: the mean of pushing to the right and to the left."""
        right, left = dict(wanted), dict(wanted)
        for a, b in pairwise(row):
            right[b] = max(right[b], right[a] + self._distance(a, b))
        for b, a in pairwise(reversed(row)):
            left[a] = min(left[a], left[b] - self._distance(a, b))
        self.x.update({node: (right[node] + left[node]) / 2 for node in row})

    def _distance(self, a: str, b: str) -> float:
        return (self.width[a] + self.width[b]) / 2 + GAP

    def y(self, node: str) -> float:
        """Of the centre; the highest layer is at the top."""
        return MARGIN + HEIGHT / 2 + ROW * (len(self.rows) - 1 - self.layer[node])


def _mean(values: list[float], *, default: float) -> float:
    return sum(values) / len(values) if values else default


def draw(plan: Plan) -> str:
    """The drawing as SVG, in colours that are readable on white and on black."""
    layout = Layout(plan)
    width = max(layout.x[node] + layout.width[node] / 2 for node in layout.x) + MARGIN
    height = 2 * MARGIN + HEIGHT + ROW * (len(layout.rows) - 1)
    faint = implied(plan.arrows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace, Menlo, Consolas, monospace" '
        'font-size="12.5">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 1 L7 4 L0 7 z" fill="#7b8794"/></marker></defs>',
    ]
    for a, b in sorted(plan.arrows, key=lambda arrow: (arrow not in faint, arrow)):
        lines.append(
            f'<path data-from={quoteattr(a)} data-to={quoteattr(b)} d="{_curve(layout, (a, b))}" fill="none" '
            f'stroke="#7b8794" stroke-width="1.3" stroke-opacity="{0.35 if (a, b) in faint else 1}" '
            'marker-end="url(#tip)"/>'
        )
    for room, label in sorted(plan.rooms.items()):
        x, y, w = layout.x[room], layout.y(room), layout.width[room]
        fill = "#2f6f9f" if label.endswith("/") else "#5a6472"
        lines.append(
            f'<g data-room={quoteattr(room)}><rect x="{x - w / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{w:.1f}" '
            f'height="{HEIGHT}" rx="6" fill="{fill}"/><text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle" '
            f'fill="#ffffff">{label}</text></g>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _curve(layout: Layout, arrow: Arrow) -> str:
    """Bends between the layers, and straight where the arrow passes one, between its boxes."""
    *points, (last_x, last_y) = ((layout.x[node], layout.y(node)) for node in layout.chains[arrow])
    x, y = points[0][0], points[0][1] + HEIGHT / 2
    path = f"M{x:.1f} {y:.1f}"
    for next_x, next_y in [*points[1:], (last_x, last_y - 1)]:
        top = next_y - HEIGHT / 2
        bend = (top - y) / 2
        path += f" C{x:.1f} {y + bend:.1f} {next_x:.1f} {top - bend:.1f} {next_x:.1f} {top:.1f}"
        x, y = next_x, next_y + HEIGHT / 2
        path += f" V{y:.1f}" if next_y != last_y - 1 else ""
    return path
