"""Files about every video and every class of a test."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..files import naming, replace_text
from .task import Table, Task, VideoPredictions


class Listed(Protocol):
    """A list of videos."""

    def __len__(self) -> int: ...

    def samples(self) -> Iterator[tuple[str, tuple[float, float] | None]]:
        """Path and span of every video."""


def write_results(task: Task, predictions: VideoPredictions, videos: Listed, stem: Path) -> list[str]:
    """Write `STEM_predictions.npz`, `STEM_predictions.csv` and the tables of the task; returns the files' names."""
    paths, spans = zip(*videos.samples(), strict=True)
    named: dict[str, Any] = {"paths": np.array(paths), "num_views": np.int64(predictions.num_views)}
    table = task.video_table(predictions)
    before: list[tuple[Any, ...]] = [(path,) for path in paths]
    header = ["path"]
    if any(spans):
        named["spans"] = np.array([span or (np.nan, np.nan) for span in spans])
        before = [(path, *(span or ("", ""))) for path, span in zip(paths, spans, strict=True)]
        header += ["start", "end"]
    rows = ((*first, *row) for first, row in zip(before, table.rows, strict=True))
    tables = {"predictions": Table((*header, *table.header), rows), **task.class_tables(predictions)}
    npz = stem.with_name(f"{stem.name}_predictions.npz")
    with naming(npz):
        np.savez_compressed(npz, **(named | task.arrays(predictions)))
    files = [npz.name]
    for ending, content in tables.items():
        files.append(f"{stem.name}_{ending}.csv")
        replace_text(stem.with_name(files[-1]), _csv(content))
    return files


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.rows)
    return text.getvalue()
