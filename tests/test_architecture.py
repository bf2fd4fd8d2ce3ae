"""The drawings and the list of files in docs are those of the code."""

import ast
import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from processes import ROOT

COMPOSING = ("inference", "evaluation", "programs")
PACKAGES = ("models", "datasets", "engine", *COMPOSING)
WRITE = ".venv/bin/python docs/architecture.py --write"


def room_of(file, package):
    """The file or folder at the top of its package that a file belongs to; None for the package's own `__init__`."""
    room = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
    return None if room == "__init__" else room


def imported_modules(file):
    """Names as the interpreter resolves them, of every import statement in a file."""
    package = ".".join(file.parent.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            parent = importlib.util.resolve_name(relative, package) if node.level else relative
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def read_drawing(name):
    """Rooms and arrows of a drawing, from its own data."""
    drawing = ElementTree.parse(ROOT / "docs" / "drawings" / f"{name}.svg").getroot()
    rooms = {element.get("data-room") for element in drawing.iter() if element.get("data-room")}
    arrows = {(e.get("data-from"), e.get("data-to")) for e in drawing.iter() if e.get("data-from")}
    return rooms, arrows, drawing


@pytest.mark.parametrize("package", PACKAGES)
def test_drawing_of_a_package_is_its_imports(package):
    files = sorted((ROOT / package).rglob("*.py"))
    rooms = {room_of(file, package) for file in files} - {None}
    arrows = set()
    for file in files:
        for name in imported_modules(file):
            parts = name.split(".")
            if room_of(file, package) and parts[0] == package and len(parts) > 1 and parts[1] in rooms:
                arrows.add((room_of(file, package), parts[1]))
    assert read_drawing(package)[:2] == (rooms, {(a, b) for a, b in arrows if a != b}), WRITE


def test_overview_shows_what_the_entry_scripts_compose():
    rooms, arrows, _ = read_drawing("overview")
    for file in sorted(ROOT.glob("run_*.py")):
        assert {b for a, b in arrows if a == file.stem} == {
            name.split(".")[0] for name in imported_modules(file) if name.split(".")[0] in rooms
        }, WRITE
    assert not {(a, b) for a, b in arrows if a in PACKAGES and a not in COMPOSING and b in PACKAGES}


@pytest.mark.parametrize("name", ["overview", *PACKAGES])
def test_drawings_point_down_and_overlap_nowhere(name):
    rooms, arrows, drawing = read_drawing(name)
    boxes = {}
    for group in drawing.iter("{http://www.w3.org/2000/svg}g"):
        rectangle = group.find("{http://www.w3.org/2000/svg}rect")
        boxes[group.get("data-room")] = [float(rectangle.get(key)) for key in ("x", "y", "width", "height")]
    assert boxes.keys() == rooms
    assert all(boxes[a][1] < boxes[b][1] for a, b in arrows), "an import that climbs"
    for a, (ax, ay, aw, _) in boxes.items():
        assert ax >= 0 and ax + aw <= float(drawing.get("width")), a
        for b, (bx, by, bw, _) in boxes.items():
            assert a == b or ay != by or ax + aw < bx or bx + bw < ax, (a, b)


def test_list_of_files_is_complete_and_described():
    rows = {}
    for line in (ROOT / "docs" / "files.md").read_text().splitlines():
        if line.startswith("| [`"):
            name = line.partition("](../")[2].partition(")")[0]
            rows[name] = line.rpartition(") |")[2].strip(" |")
    folders = (*PACKAGES, "sigma_video", "scripts", "bench")
    found = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    found |= {path for folder in ("scripts", "bench") for path in (ROOT / folder).rglob("*.sh")} | {*ROOT.glob("*.py")}
    names = {path.relative_to(ROOT).as_posix() for path in found}
    assert names <= rows.keys(), f"{sorted(names - rows.keys())}: {WRITE}"
    assert not [name for name in rows if not (ROOT / name).is_file()], WRITE
    assert not [name for name, said in rows.items() if not said], "without a docstring or leading comment"


def test_generated_pages_are_up_to_date():
    found = subprocess.run([sys.executable, ROOT / "docs" / "architecture.py"], capture_output=True, text=True)
    assert found.returncode == 0, f"{found.stdout}{found.stderr}out of date: {WRITE}"
