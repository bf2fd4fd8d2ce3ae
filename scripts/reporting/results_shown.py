"""The test of a run on its page: metrics, confusion matrix, table of classes, the worst videos."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .charts import Chart, Series, scatter_chart
from .markup import cards, details, element, number, numeric, row_head, table, text
from .pictures import NoPicture, matrix_picture, thumbnail
from .predictions import (
    CLASSIFICATION,
    REGRESSION,
    Mistake,
    Predictions,
    most_confused,
    read_class_table,
    read_predictions,
)
from .run_folder import Run

NUM_WORST = 12  # videos
NUM_PAIRS = 15  # of classes that are confused
LARGEST_WITH_NUMBERS = 40  # classes: a larger matrix is a picture
CELL, LONGEST_NAME = 30, 22  # pixels; characters
_WORDS = {
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
    "mean_per_class": "mean accuracy per class (%)",
    "legacy_cumulative": "cumulative mean of the released code (%)",
    "mAP": "mAP (%)",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "spearman": "Spearman correlation",
}


def test_section(run: Run) -> str:
    """All about the test; '' if there was none.

    Raises:
        ConfigError: a file of the test that cannot be read.
    """
    if run.result is None:
        return ""
    parts = [f"<h3>Test</h3>{_tested_on(run.result)}"]
    for suffix, metrics in run.test_metrics().items():
        classes = read_class_table(run.folder, suffix)[1:]
        hidden = {"top5"} if 0 < len(classes) <= 5 else set()  # it is 100 % whatever the model says
        inner = cards((number(value), _WORDS.get(name, name)) for name, value in metrics.items() if name not in hidden)
        inner += "".join(_about_predictions(run, suffix))
        parts.append(inner if not suffix else details(f"Averaged weights ({suffix.strip('_')})", inner))
    return "".join(parts)


def _tested_on(result: dict[str, Any]) -> str:
    """What the test was of, in a line."""
    listed = result.get("list")
    words = [f"{result.get('videos', '?')} videos", f"{result.get('views', '?')} views each"]
    words += [str(result["views_are"])] if result.get("views_are") else []
    if isinstance(listed, dict):
        words.append(f"list {listed.get('file')} (fingerprint {listed.get('fingerprint')})")
    return f'<p class="note">{text(", ".join(words))}</p>'


def _about_predictions(run: Run, suffix: str) -> Iterator[str]:
    predictions = read_predictions(run.folder, suffix)
    if predictions is not None and predictions.task == CLASSIFICATION:
        yield confusion_section(predictions)
    if predictions is not None and predictions.task == REGRESSION:
        pairs = np.stack([predictions.arrays[name].astype(float) for name in ("targets", "predictions")], axis=1)
        points = [(x, y) for x, y in pairs.tolist()]
        yield scatter_chart(
            Chart("Predicted against true values", [Series("", points)], x_name="true value", has_legend=False)
        )
    if rows := read_class_table(run.folder, suffix):
        yield f"<h4>Classes</h4>{class_table(rows)}"
    if predictions is not None:
        yield worst_section(predictions, roots_of(run))


# ------------------------------------------------------------------------------------------------ classes


def confusion_section(predictions: Predictions) -> str:
    """The matrix, and below it the pairs that are confused most often."""
    confusion, names = predictions.confusion(), predictions.names
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    if len(names) <= LARGEST_WITH_NUMBERS:
        drawing = _matrix_with_numbers(confusion, shares, names)
    else:
        drawing = element("img", "", class_="matrix", src=matrix_picture(shares), alt="confusion matrix")
        drawing = drawing.removesuffix("</img>")
    pairs = [
        (row_head(names[row]), text(names[column]), numeric(count), numeric(round(100 * float(shares[row, column]), 2)))
        for row, column, count in most_confused(confusion, NUM_PAIRS)
    ]
    header = ("class", "taken for", "videos", "% of the class")
    often = f"<h4>Most often confused</h4>{table(header, pairs, sortable=True)}" if pairs else ""
    return (
        '<h4>Confusion matrix</h4><p class="note">Videos by class (rows) and predicted class (columns); the colour is '
        f'the share of the row.</p><div class="scroll">{drawing}</div>{often}'
    )


def _matrix_with_numbers(confusion: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> str:
    left = 16 + 7 * min(max(map(len, names)), LONGEST_NAME)
    side, above = CELL * len(names), 12 + left * 0.72
    parts = []
    for k, name in enumerate(names):
        at = (k + 0.5) * CELL
        label = text(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")
        full = f"<title>{text(name)}</title>"
        parts.append(f'<text x="{left - 6}" y="{above + at + 4:.1f}" text-anchor="end">{full}{label}</text>')
        turn = f"translate({left + at + 4:.1f} {above - 6:.1f}) rotate(-45)"
        parts.append(f'<text transform="{turn}">{full}{label}</text>')
    for (row, column), count in np.ndenumerate(confusion):
        x, y, share = left + column * CELL, above + row * CELL, shares[row, column]
        says = f"{names[row]} taken for {names[column]}: {count} ({100 * share:.1f} %)"
        inner = f"<title>{text(says)}</title>" + (
            f'<rect class="cell" x="{x}" y="{y:.1f}" width="{CELL - 1}" height="{CELL - 1}" '
            f'fill-opacity="{share:.3f}"/>'
            f'<text class="{"on" if share > 0.55 else ""}" x="{x + CELL / 2 - 0.5}" y="{y + CELL / 2 + 4:.1f}" '
            f'text-anchor="middle">{count or "·"}</text>'
        )
        parts.append(element("g", inner, data_row=row, data_column=column, data_count=int(count)))
    width, height = left + side + round(above * 0.75), above + side + 4
    size = f'viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}"'
    return f'<svg class="confusion" {size} role="img" aria-label="confusion matrix">{"".join(parts)}</svg>'


def class_table(rows: Sequence[Sequence[str]]) -> str:
    """The table of classes as its file has it, sortable, with bars behind percentages."""
    header, *body = rows
    bars = {header.index(name) for name in ("accuracy", "average_precision") if name in header}
    return table(
        [name.replace("_", " ") for name in header],
        ([_class_cell(value, is_bar=place in bars) for place, value in enumerate(row)] for row in body),
        sortable=True,
        class_="classes",
    )


def _class_cell(value: str, *, is_bar: bool) -> str:
    try:
        found = float(value)
    except ValueError:
        return f"<td>{text(value)}</td>"
    bar = f"--share:{min(max(found, 0), 100):.1f}%" if is_bar else None
    return element("td", text(value), class_="number bar" if is_bar else "number", data_value=value, style=bar)


# ------------------------------------------------------------------------------------------------ videos


def roots_of(run: Run) -> list[Path]:
    """Folders that the list's paths may start from."""
    settings = run.result.get("settings") if run.result else None
    root = (settings if isinstance(settings, dict) else run.args).get("data_root")
    return [Path(), *([Path(str(root))] if root else [])]


def worst_section(predictions: Predictions, roots: Sequence[Path]) -> str:
    """Frames of the videos that are furthest from right."""
    mistakes = predictions.mistakes(NUM_WORST)
    if not mistakes:
        return "<h4>Worst videos</h4><p>None: every video is predicted right.</p>"
    shown, gone = [], 0
    for mistake in mistakes:
        try:
            picture = f'<img src="{thumbnail(mistake.path, mistake.span, roots)}" alt="three frames of the video">'
        except NoPicture as reason:
            gone += 1
            picture = f'<div class="gone">{text(str(reason))}</div>'
        shown.append(_card(mistake, picture))
    order = {
        CLASSIFICATION: "Wrong predictions, those first that give the true class the least probability.",
        REGRESSION: "The largest errors first.",
    }.get(predictions.task, "Those first with the most probability on wrong classes.")
    note = f" {gone} of these {len(mistakes)} videos cannot be shown." if gone else ""
    return f'<h4>Worst videos</h4><p class="note">{order}{note}</p><div class="videos">{"".join(shown)}</div>'


def _card(mistake: Mistake, picture: str) -> str:
    from datasets.lists.video_list import sample_name  # with torch, as `thumbnail`

    name = sample_name(mistake.path.rpartition("/")[2], mistake.span)
    return (
        f'<figure class="video">{picture}<figcaption><b>{text(mistake.truth)}</b> → {text(mistake.predicted)}'
        f"<br><small>{text(mistake.note)}</small><br>"
        f'<small class="path" title="{text(mistake.path)}">{text(name)}</small></figcaption></figure>'
    )
