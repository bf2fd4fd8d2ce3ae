"""Tables as Markdown, CSV, HTML and LaTeX."""

import csv
import html
import io
from collections.abc import Mapping, Sequence

from .table_cells import TABLES, Cell, Row, Table

MISSING = "\N{EM DASH}"
CSV_HEADER = (
    *("table", "group", "method", "backbone", "pretrained_on", "epochs", "column"),
    *("published", "lowest", "highest", "sources", "secondhand", "measured", "difference"),
    *("videos", "views", "probe", "seeds", "checkpoint", "list", "commit", "marks", "file"),
)
LEGEND = (
    "A cell: the published value, in brackets the range of what is published for it; then, where results were given, "
    "the measured value and its difference. *: second-hand; ~: computed, printed nowhere."
)


def cell_text(cell: Cell, digits: int, *, with_measured: bool, note: str = "") -> str:
    """Such as `81.6 (81.3-81.6); 80.9 (-0.7)`, and `81.6; -` for a cell that is not measured.

    Args:
        note: the sign of what sets the measured value apart.
    """
    text = MISSING if cell.value is None else f"{cell.value:.{digits}f}" + "*" * cell.secondhand + "~" * cell.computed
    values = [f"{value:.{digits}f}" for value, _ in cell.published]
    if len(set(values)) > 1:
        text += f" ({min(values, key=float)}-{max(values, key=float)})"
    if not with_measured:
        return text
    if cell.measured is None:
        return f"{text}; {MISSING}"
    difference = "" if cell.difference is None else f" ({cell.difference:+.{digits}f})"
    return f"{text}; {cell.measured:.{digits}f}{note}{difference}"


def grid(table: Table, rows: Sequence[Row], notes: list[str], *, with_measured: bool) -> list[list[str]]:
    """Header and lines of a table as text. The marks of its cells are added to `notes`, each with a number."""
    digits = {column.name: column.digits for column in table.columns}
    first = ["method", "model"] + ["pre-trained on", "epochs"] * table.by_pretraining
    lines = [[*first, *(rows[0].cells if rows else digits)]]
    for row in rows:
        line = [row.method, row.backbone or MISSING]
        if table.by_pretraining:
            line += [row.pretrained_on or MISSING, MISSING if row.epochs is None else str(row.epochs)]
        for name, cell in row.cells.items():
            note = ""
            if cell.marks and with_measured:
                notes.append(f"{row.method} {row.backbone or ''}, {name}: {'; '.join(cell.marks)}")
                note = f" [{len(notes)}]"
            line.append(cell_text(cell, digits.get(name, 1), with_measured=with_measured, note=note))
        lines.append(line)
    return lines


def markdown_grid(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of a header and lines."""
    rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(cell.replace("*", r"\*") for cell in row) + " |" for row in rows)


def _html_grid(lines: Sequence[Sequence[str]]) -> str:
    rows = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
        for tag, line in zip(["th"] + ["td"] * len(lines), lines, strict=False)
    ]
    return "\n".join(["<table>", *rows, "</table>"])


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MISSING: "--"}
)


def _latex_grid(lines: Sequence[Sequence[str]]) -> str:
    rows = [" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in lines]
    return "\n".join(
        [f"\\begin{{tabular}}{{{'l' * len(lines[0])}}}", r"\hline", rows[0], r"\hline", *rows[1:], r"\hline"]
        + [r"\end{tabular}"]
    )


def document(tables: Mapping[str, Sequence[Row]], form: str, *, with_measured: bool) -> str:
    """The given tables, each followed by its context rows and its notes, as "markdown", "html" or "latex"."""
    draw = {"markdown": markdown_grid, "html": _html_grid, "latex": _latex_grid}[form]
    heading, plain = {
        "markdown": (lambda text: f"## {text}", lambda text: text.replace("*", r"\*")),
        "html": (lambda text: f"<h2>{html.escape(text)}</h2>", lambda text: f"<p>{html.escape(text)}</p>"),
        "latex": (lambda text: f"\\section*{{{text.translate(_LATEX)}}}", lambda text: text.translate(_LATEX) + "\n"),
    }[form]
    parts = [plain(LEGEND)]
    for table in (table for table in TABLES if table.name in tables):
        notes: list[str] = []
        groups = [[row for row in tables[table.name] if row.of_paper is of_paper] for of_paper in (True, False)]
        grids = [grid(table, rows, notes, with_measured=with_measured) for rows in groups]
        parts += [heading(table.title), draw(grids[0])]
        if with_measured:
            cells = [cell for row in groups[0] for cell in row.cells.values() if cell.published]
            done = sum(cell.measured is not None for cell in cells)
            parts.append(plain(f"Measured: {done} of {len(cells)} cells, {len(cells) - done} are missing."))
        if groups[1]:
            parts += [plain("For context, not in the paper's table:"), draw(grids[1])]
        parts += [plain(f"[{number}] {note}") for number, note in enumerate(notes, 1)]
    return "\n\n".join(parts) + "\n"


def as_csv(tables: Mapping[str, Sequence[Row]]) -> str:
    """A line for each cell that has a published or a measured value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    digits = {table.name: {column.name: column.digits for column in table.columns} for table in TABLES}
    for table, rows in tables.items():
        for row in rows:
            for name, cell in row.cells.items():
                if cell.published or cell.measured is not None:
                    group = "paper" if row.of_paper else "context"
                    first = (table, group, row.method, row.backbone, row.pretrained_on, row.epochs, name)
                    writer.writerow((*first, *_csv_cell(cell, digits[table].get(name, 1))))
    return text.getvalue()


def _csv_cell(cell: Cell, digits: int) -> tuple[object, ...]:
    values = [value for value, _ in cell.published]
    sources = "; ".join(f"{value:g} {source}" for value, source in cell.published)
    numbers = (cell.value, min(values, default=None), max(values, default=None), cell.measured, cell.difference)
    shown = tuple(None if value is None else f"{value:.{digits}f}" for value in numbers)
    found = cell.record
    of_record: tuple[object, ...] = ("",) * 7
    if found is not None:
        seeds = " ".join(map(str, found.seeds))
        of_record = (found.videos, found.views, found.probe, seeds, found.checkpoint, found.list_hash, found.commit)
    file = "" if found is None else found.file
    return (*shown[:3], sources, cell.secondhand, *shown[3:], *of_record, "; ".join(cell.marks), file)
