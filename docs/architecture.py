"""Draw the code from its imports, and list its files by their docstrings: `python docs/architecture.py --write`."""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from drawing import Plan, draw

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datasets", "models", "engine", "inference", "evaluation", "programs")
NOT_DRAWN = {"tests", "docs", "bench", "setup"}

# ------------------------------------------------------------------------------------------------ rooms and arrows


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
            parts = name.split(".")
            found = parts[1] if parts[0] == "sigma_video" and parts[1:2] and parts[1] in files else parts[0]
            if found in files and found != room:
                arrows.add((room, found))
    return Plan({room: room + ("/" if (ROOT / room).is_dir() else ".py") for room in files}, arrows)


def plans() -> dict[str, Plan]:
    """All drawings by name."""
    return {"overview": overview_plan(), **{package: package_plan(package) for package in PACKAGES}}


# ------------------------------------------------------------------------------------------------ the list of files

MARKS = ("<!-- files: written by docs/architecture.py -->", "<!-- end of files -->")
HEADINGS = {  # folder -> what it is, in the order of the page
    "": "Entry scripts and settings",
    "models": "models: the method",
    "datasets": "datasets: from lists to batches",
    "engine": "engine: training and testing",
    "inference": "inference: from a file to a model and its features",
    "evaluation": "evaluation: measures of trained models",
    "programs": "programs: what entry scripts are made of",
    "sigma_video": "sigma_video: the installed package",
    "scripts": "scripts: called from a shell",
    "bench": "bench: measurements",
}
AT_THE_ROOT = {  # files without a docstring or a leading comment that says it
    "pyproject.toml": "The package: dependencies, extras, commands; settings of ruff, mypy and pytest.",
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
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    sys.exit(bool(stale) and not write)


if __name__ == "__main__":
    main()
