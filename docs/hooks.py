"""Hooks of mkdocs (a hook is a file of functions, not a plugin): the repository's own layout as the site's.

The pages at the root and those in docs/ link to each other and to files of the code by relative paths, as GitHub shows
them. So the site gets the same layout: every page under its path from the root, and every file of the code that a page
links to beside them, as text. The API reference is made from the docstrings when the site is built.
"""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
API_PAGE = "docs/api.md"
ASSETS = (".svg", ".png", ".gif", ".jpg", ".css")
LINK = re.compile(r"\]\(([^()#\s]+)[^()]*\)")
# What code outside of this repository may rely on: module -> names, in this order on the page.
PROMISED = {
    "models.registry": ("create_model",),
    "models.sigma": ("Sigma",),
    "models.classifier": ("Classifier",),
    "models.sinkhorn.balance": ("sinkhorn", "sinkhorn_codes"),
    "datasets.sampling": (
        "pretrain_indices",
        "dense_train_indices",
        "dense_test_indices",
        "uniform_train_indices",
        "uniform_test_indices",
        "crop_offsets",
    ),
    "datasets.decoding.open": ("open_video",),
    "datasets.decoding.reader": ("VideoReader",),
    "datasets.errors": ("DecodeError",),
    "engine.schedules": ("cosine_schedule",),
}
IMPORTED_FROM = {  # where the re-exporting package is what to import from
    "models.registry": "models",
    "models.sinkhorn.balance": "models.sinkhorn",
    "datasets.decoding.open": "datasets.decoding",
    "datasets.errors": "datasets.decoding",
}

# ------------------------------------------------------------------------------------------------ the layout


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every page by its path from the root, with the files that it links to."""
    pages = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
    assets = [path for path in (ROOT / "docs").rglob("*") if path.suffix in ASSETS]
    linked = {path for page in pages for path in _linked(page) if path.is_file() and path not in pages}
    theme = [file for file in files if not Path(file.abs_src_path or "").is_relative_to(ROOT / "docs")]
    found = [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for path in sorted({*pages, *assets, *linked})
    ]
    return Files([*theme, *found, File.generated(config, API_PAGE, content=api_page())])


def _linked(page: Path) -> set[Path]:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in links if "://" not in link}


# ------------------------------------------------------------------------------------------------ the API reference


def api_page() -> str:
    """The promised names with signature and docstring, as Markdown."""
    lines = [
        "# API reference",
        "",
        "The names that other code may rely on. Installed as a package, they are under `sigma_video`: "
        "`from sigma_video.models import create_model`.",
    ]
    for module, names in PROMISED.items():
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        nodes = {node.name: node for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")}
        heading = f"## {IMPORTED_FROM.get(module, module)}"
        lines += [] if heading in lines else ["", heading]
        for name in names:
            lines += ["", *_entry(nodes[name])]
        lines += ["", f"Source: [{path.relative_to(ROOT)}](../{path.relative_to(ROOT).as_posix()})"]
    return "\n".join(lines) + "\n"


def _entry(node: Any) -> list[str]:
    lines = [f"### {node.name}", "", "```python", *_signature(node), "```", "", *_markdown(node)]
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and ast.get_docstring(method):
                lines += ["", f"#### {node.name}.{method.name}", "", "```python", *_signature(method), "```", ""]
                lines += _markdown(method)
    return lines


def _signature(node: Any) -> list[str]:
    if isinstance(node, ast.ClassDef):
        made = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
        if made is None:
            return [f"class {node.name}"]
        arguments, name, end = made.args, f"class {node.name}", ""
    else:
        arguments, name = node.args, f"def {node.name}"
        end = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    arguments.args = [argument for argument in arguments.args if argument.arg != "self"]
    whole = re.sub(r"(: [^,=]+)=", r"\1 = ", ast.unparse(arguments))
    if len(name) + len(whole) + len(end) < 100:
        return [f"{name}({whole}){end}"]
    parts = re.split(r", (?![^\[(]*[\])])", whole)
    return [f"{name}(", *(f"    {part}," for part in parts), f"){end}"]


def _markdown(node: Any) -> list[str]:
    """A docstring in Google's style as Markdown: sections become lists."""
    lines, in_section = [], False
    for line in (ast.get_docstring(node) or "").splitlines():
        section = re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line)
        item = re.match(r"    (\*{0,2}[\w., ]+): (.*)", line)
        if section:
            lines += ["", f"**{section[1]}**", ""]
            in_section = True
        elif in_section and item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif in_section and line.startswith("    "):
            lines.append(line.strip() if lines[-1] == "" else "  " + line.strip())
        else:
            in_section = in_section and not line
            lines.append(line)
    return lines
