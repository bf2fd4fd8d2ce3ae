"""The zoo as text: a line for each row, and the tables and commands of MODEL_ZOO.md. Used by zoo.py."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .zoo_rows import Zoo, ZooRow

PUBLISHED = Path(__file__).with_name("published.json")
BLOCK = re.compile(r"(<!-- zoo: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEADER = ("name", "model", "pre-trained on", "epochs", "fine-tuned on", "top-1, %", "licence")


def as_lines(zoo: Zoo) -> list[str]:
    """A table for the terminal."""
    rows = [("name", "model", "trained on", "licence", "size", "top-1 in %")]
    rows += [
        (
            row.name,
            f"{row.method} {row.backbone}",
            " > ".join(filter(None, (row.data, row.finetuned_on))),
            row.licence,
            f"{row.bytes / 1e9:.2f} GB" if row.bytes else "?",
            _numbers(row),
        )
        for row in zoo.rows.values()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "", "Not released:", *(f"  {what}" for what in zoo.missing)]


def page(zoo: Zoo, text: str) -> str:
    """A page with what stands between its marks `<!-- zoo: NAME -->` and `<!-- end -->` made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]](zoo)}\n\n{found[3]}", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *body])


def _numbers(row: ZooRow) -> str:
    return ", ".join(f"{where} {value}" for where, value in row.numbers.items())


def _models(zoo: Zoo) -> str:
    """Names, what they are, and what is printed of them."""
    notes: list[str] = []

    def cells(row: ZooRow) -> list[str]:
        mark = ""
        if row.note:
            if row.note not in notes:
                notes.append(row.note)
            mark = f" [{notes.index(row.note) + 1}]"
        epochs = str(row.epochs) if row.epochs else "not said"
        what = [f"`{row.name}`{mark}", f"{row.method}, {row.backbone}", row.data, epochs, row.finetuned_on or "no"]
        return [*what, _numbers(row), row.licence]

    table = _table(_HEADER, map(cells, zoo.rows.values()))
    return "\n\n".join([table, "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))])


def _files(zoo: Zoo) -> str:
    """Addresses, sizes and hashes."""
    rows = (
        [
            f"`{row.name}`",
            f"[{row.file.rpartition('/')[2]}]({row.address.partition('#')[0]})",
            f"{row.bytes:,}" if row.bytes else "not known",
            f"`{row.sha256}`" if row.sha256 else "not known",
        ]
        for row in zoo.rows.values()
    )
    return _table(("name", "file", "bytes", "SHA-256"), rows)


def _commands(zoo: Zoo) -> str:
    return "\n".join(["```bash", *(row.command for row in zoo.rows.values()), "```"])


def _missing(zoo: Zoo) -> str:
    return "\n".join(f"- {what}" for what in zoo.missing)


def _sources(zoo: Zoo) -> str:
    known = json.loads(PUBLISHED.read_text(encoding="utf-8"))["sources"] | zoo.sources
    used = dict.fromkeys(row.source for row in zoo.rows.values())
    return "\n".join(f"- {known[source]}" for source in used)


BLOCKS: dict[str, Callable[[Zoo], str]] = {
    "models": _models,
    "files": _files,
    "commands": _commands,
    "missing": _missing,
    "sources": _sources,
}
