"""Draw the rooms of the code from its imports, and list all files by their docstrings: `python docs/architecture.py --write`."""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import quoteattr

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datasets", "models", "engine")
NOT_DRAWN = {"tests", "docs", "bench", "setup"}
Arrow = tuple[str, str]

# ------------------------------------------------------------------------------------------------ rooms and arrows


@dataclass(frozen=True)
class Plan:
    """Rooms of a drawing and the arrows between them: (a, b) where a imports b."""

    rooms: dict[str, str]  # name -> label
    arrows: set[Arrow]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of the project's modules that a file may import, relative ones resolved from the root."""
    folder = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            parent = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{parent}.{alias.name}".lstrip(".") for alias in node.names)


def package_plan(package: str) -> Plan:
    """The rooms of a package: its files and its wings, which are its folders."""
    files: dict[str, list[Path]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        inside = path.relative_to(ROOT / package)
        if inside.name != "__init__.py" or len(inside.parts) > 1:
            files.setdefault(inside.parts[0].removesuffix(".py"), []).append(path)
    arrows = set()
    for room, paths in files.items():
        for name in (name for path in paths for name in imports(path)):
            parts = name.removeprefix("sigma_video.").split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] in files and parts[1] != room:
                arrows.add((room, parts[1]))
    return Plan({room: room + "/" * (ROOT / package / room).is_dir() for room in files}, arrows)


def overview_plan() -> Plan:
    """The packages, the folders of scripts and the files at the root."""
    files = {path.stem: [path] for path in sorted(ROOT.glob("*.py"))}
    for folder in sorted(path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files[folder.name] = sorted(folder.rglob("*.py"))
    files = {room: paths for room, paths in files.items() if paths and room not in NOT_DRAWN and "." not in room}
    arrows = set()
    for room, paths in files.items():
        for name in (name for path in paths for name in imports(path)):
            found = name.removeprefix("sigma_video.").split(".")[0]
            if found in files and found != room:
                arrows.add((room, found))
    return Plan({room: room + ("/" if (ROOT / room).is_dir() else ".py") for room in files}, arrows)


def plans() -> dict[str, Plan]:
    """All drawings by name."""
    return {"overview": overview_plan(), **{package: package_plan(package) for package in PACKAGES}}


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
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12.5">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 1 L7 4 L0 7 z" fill="#7b8794"/></marker></defs>',
    ]
    for arrow in sorted(plan.arrows, key=lambda arrow: (arrow not in faint, arrow)):
        lines.append(
            f'<path data-from={quoteattr(arrow[0])} data-to={quoteattr(arrow[1])} d="{_curve(layout, arrow)}" fill="none" '
            f'stroke="#7b8794" stroke-width="1.3" stroke-opacity="{0.35 if arrow in faint else 1}" '
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
    chain = layout.chains[arrow]
    points = [(layout.x[node], layout.y(node)) for node in chain]
    points[0] = (points[0][0], points[0][1] + HEIGHT / 2)
    points[-1] = (points[-1][0], points[-1][1] - HEIGHT / 2 - 1)
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = (y1 - y0) / 2
        path += f" C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}"
    return path


# ------------------------------------------------------------------------------------------------ the list of files

MARKS = ("<!-- files: written by docs/architecture.py -->", "<!-- end of files -->")
HEADINGS = {  # folder -> what it is, in the order of the page
    "": "Entry scripts and settings",
    "models": "models: the method",
    "datasets": "datasets: from lists to batches",
    "engine": "engine: training and testing",
    "scripts": "scripts: called from a shell",
    "bench": "bench: measurements",
}
AT_THE_ROOT = {  # files without a docstring or a leading comment that says it
    "pyproject.toml": "The package, and the settings of ruff, mypy and pytest.",
    "requirements.txt": "What the project needs, with lower bounds.",
    "mkdocs.yml": "These pages as a site.",
}


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, or of a script's leading comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
        return " ".join(said.split("\n\n")[0].split())
    comments = [line[2:] for line in text.splitlines()[:4] if line.startswith("# ")]
    return comments[0] if comments else ""


def listed(folder: str) -> list[Path]:
    """Every file of a package, and the scripts of other folders."""
    if not folder:
        return [*sorted(ROOT.glob("*.py")), *(ROOT / name for name in AT_THE_ROOT)]
    patterns = ("*.py",) if folder in PACKAGES else ("*.py", "*.sh", "*.sbatch")
    found = [path for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    return sorted(found, key=lambda path: (path.parent, path.name))


def files_table() -> str:
    """The files as Markdown, a table for each folder, a row for each file."""
    lines: list[str] = []
    for folder, heading in HEADINGS.items():
        lines += ["", f"## {heading}", "", "| file | |", "|---|---|"]
        for path in listed(folder):
            name = path.relative_to(ROOT).as_posix()
            said = AT_THE_ROOT.get(name) or summary(path)
            shown = name.removeprefix(f"{folder}/")
            if path.name == "__init__.py" and path.parent.name != folder:
                shown = shown.removesuffix("__init__.py")
            lines.append(f"| [`{shown}`](../{name}) | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(lines).strip()


def written() -> dict[Path, str]:
    """What every generated file has to hold now."""
    page = ROOT / "docs" / "files.md"
    begin, end = map(re.escape, MARKS)
    table = f"{MARKS[0]}\n\n{files_table()}\n\n{MARKS[1]}"
    text = re.sub(f"{begin}.*{end}", lambda match: table, page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {page: text, **{ROOT / "docs" / "drawings" / f"{name}.svg": draw(plan) for name, plan in plans().items()}}


def main() -> None:
    """Write, or tell what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write what is out of date; without it, only name it")
    write = parser.parse_args().write
    stale = [(path, text) for path, text in written().items() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        print(path.relative_to(ROOT))
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    sys.exit(bool(stale) and not write)


if __name__ == "__main__":
    main()
