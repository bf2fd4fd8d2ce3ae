"""What a test said of each video: counts of classes, and the videos that the model gets most wrong."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.results import predictions_name
from engine.tasks.scores import confusion_matrix

CLASSIFICATION, MULTILABEL, REGRESSION = "classification", "multilabel", "regression"
MOST_CLASSES_NAMED = 5  # of a video that has several


@dataclass(frozen=True)
class Mistake:
    """A video and what is wrong about it.

    Attributes:
        path, span: as the list had them; span in seconds, None for all of the video.
        truth, predicted: in words.
        note: numbers about it.
    """

    path: str
    span: tuple[float, float] | None
    truth: str
    predicted: str
    note: str


@dataclass(frozen=True)
class Predictions:
    """The arrays of a predictions file, and the task that they are of."""

    task: str
    arrays: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return [str(name) for name in self.arrays["class_names"]]

    def confusion(self) -> np.ndarray:
        """int64 (K, K): videos by class (rows) and most probable class (columns)."""
        probabilities = self.arrays["probabilities"]
        return confusion_matrix(self.arrays["labels"], probabilities.argmax(axis=1), probabilities.shape[1])

    def mistakes(self, most: int) -> list[Mistake]:
        """The videos that are furthest from right, the worst first; none that is right."""
        loss = self._losses()
        order = np.argsort(-loss, kind="stable")
        return [self._mistake(int(v)) for v in order[loss[order] > 0][:most]]

    def _losses(self) -> np.ndarray:
        """(V,): how wrong each video is; 0 for one that is right."""
        if self.task == REGRESSION:
            return np.abs(self.arrays["predictions"] - self.arrays["targets"])
        scores, labels = self.arrays["probabilities"].astype(np.float64), self.arrays["labels"]
        if self.task == MULTILABEL:
            wrong = (scores > 0.5) != (labels > 0)
            return (np.abs(scores - labels) * wrong).sum(axis=1)
        own = scores[np.arange(len(labels)), labels]
        return np.where(scores.argmax(axis=1) == labels, 0.0, np.maximum(1 - own, 1e-9))

    def _mistake(self, video: int) -> Mistake:
        spans = self.arrays.get("spans")
        start, end = (np.nan, np.nan) if spans is None else map(float, spans[video])
        span = None if np.isnan(start) else (start, end)
        return Mistake(str(self.arrays["paths"][video]), span, *self._words(video))

    def _words(self, video: int) -> tuple[str, str, str]:
        if self.task == REGRESSION:
            truth, found = self.arrays["targets"][video], self.arrays["predictions"][video]
            return f"{truth:.5g}", f"{found:.5g}", f"error {abs(found - truth):.4g}"
        scores, names = self.arrays["probabilities"][video], self.names
        if self.task == MULTILABEL:
            truth, found = self.arrays["labels"][video] > 0, scores > 0.5
            return _join(names, truth), _join(names, found), f"{(truth != found).sum()} classes wrong"
        label, best = int(self.arrays["labels"][video]), int(scores.argmax())
        return names[label], names[best], f"{scores[label]:.1%} for the true class, {scores[best]:.1%} for this one"


def _join(names: Sequence[str], is_there: np.ndarray) -> str:
    found = [names[k] for k in np.flatnonzero(is_there).tolist()]
    more = ", ..." if len(found) > MOST_CLASSES_NAMED else ""
    return ", ".join(found[:MOST_CLASSES_NAMED]) + more or "none"


def read_predictions(folder: Path, suffix: str) -> Predictions | None:
    """The predictions of a test; None if it wrote none.

    Raises:
        ConfigError: the file is not one that a test writes.
    """
    file = folder / predictions_name(suffix)
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        return _checked(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file}: not the predictions of a test ({error}): test again, or delete it") from error


def _checked(arrays: dict[str, np.ndarray]) -> Predictions:
    """Raises KeyError or ValueError for arrays that do not belong together. Earlier versions wrote no paths."""
    if "paths" not in arrays:
        arrays["paths"] = np.array(
            [f"video {place + 1} of the list" for place in range(len(next(iter(arrays.values()))))]
        )
    if "targets" in arrays:
        found = Predictions(REGRESSION, arrays)
        columns: list[Any] = [arrays[name] for name in ("targets", "predictions", "paths")]
    else:
        probabilities, labels = arrays["probabilities"], arrays["labels"]
        found = Predictions(MULTILABEL if labels.ndim == 2 else CLASSIFICATION, arrays)
        arrays.setdefault("class_names", np.arange(probabilities.shape[1]).astype(str))
        columns = [probabilities, labels, arrays["paths"]]
        if len(arrays["class_names"]) != probabilities.shape[1]:
            raise ValueError("class_names and probabilities differ in length")
        if found.task == CLASSIFICATION and not ((labels >= 0) & (labels < probabilities.shape[1])).all():
            raise ValueError("labels beyond the classes")
    if len({len(column) for column in columns}) != 1:
        raise ValueError("arrays of different lengths")
    return found


def most_confused(confusion: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """(class, class it is taken for, videos), the most frequent first."""
    others = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-others, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(confusion)) for place in order]
    return [(row, column, int(others[row, column])) for row, column in pairs if others[row, column]]


def read_class_table(folder: Path, suffix: str) -> list[list[str]]:
    """Header and rows of the table of classes; [] if there is none.

    Raises:
        ConfigError: it is not a table.
    """
    file = folder / f"test{suffix}_classes.csv"
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as content:
            rows = list(csv.reader(content))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not a table ({error}): test again, or delete it") from error
    if rows and any(len(row) != len(rows[0]) for row in rows):
        raise ConfigError(f"{file}: not a table, its rows differ in length: test again, or delete it")
    return rows
