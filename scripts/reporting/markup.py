"""Pieces of HTML. All that comes from files passes through `text`: names of classes and paths may be anything."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from sigma_video.terminal import printable

from .run_folder import Run

NOTHING = "\u2013"  # an en dash


def text(value: Any) -> str:
    """A value as text for a page, also inside an attribute's quotes."""
    return html.escape(printable(value if isinstance(value, str) else shown(value)), quote=True)


def shown(value: Any) -> str:
    """A value in words: numbers with at most five digits that count."""
    if value is None:
        return NOTHING
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return str(value)


def tested(run: Run) -> str:
    """The first metric of the test, of each of its weights."""
    first = {suffix: next(iter(metrics.items())) for suffix, metrics in run.test_metrics().items()}
    return ", ".join(f"{name}{suffix} {shown(value)}" for suffix, (name, value) in first.items())


def number(value: float | None) -> str:
    """A measured number, with at most five digits that count."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.5g}" if value and not 1e-3 <= abs(value) < 1e6 else f"{float(f'{value:.5g}'):g}"


def element(tag: str, inner: str, /, **attributes: Any) -> str:
    """`<tag ...>inner</tag>`; `inner` is HTML, attributes are text. `class_` is `class`, `data_x` is `data-x`."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    written = "".join(f' {name}="{text(value)}"' for name, value in named.items())
    return f"<{tag}{written}>{inner}</{tag}>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, sortable: bool = False, class_: str = "") -> str:
    """A table in a frame that scrolls; cells are HTML, a cell `<td ...>` is taken as it is."""
    heads = [element("button", text(name), type="button") if sortable else text(name) for name in header]
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    names = " ".join(filter(None, [class_, "sortable" if sortable else ""]))
    return (
        f'<div class="scroll"><table class="{names}"><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _cell(content: str) -> str:
    return content if content.startswith(("<td", "<th")) else f"<td>{content}</td>"


def numeric(value: Any, **attributes: Any) -> str:
    """A cell with a number, set right and sorted by its value."""
    return element("td", text(value), class_="number", data_value=value, **attributes)


def row_head(words: str) -> str:
    """The cell that a row is about."""
    return element("th", text(words), scope="row")


def definitions(rows: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values, both text."""
    return table(("", ""), ((row_head(name), text(value)) for name, value in rows), class_="definitions")


def cards(facts: Iterable[tuple[str, str]]) -> str:
    """Large HTML, each with words below it, side by side."""
    each = (f'<div class="card"><b>{large}</b><span>{text(words)}</span></div>' for large, words in facts)
    return f'<div class="cards">{"".join(each)}</div>'


def details(summary: str, inner: str, *, is_open: bool = False) -> str:
    """Something that is unfolded by a click; the summary is text."""
    return f"<details{' open' if is_open else ''}><summary>{text(summary)}</summary>{inner}</details>"
