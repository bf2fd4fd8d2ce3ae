"""Any number of classes for every video."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .scores import average_precision
from .task import Selection, Table, Task, VideoPredictions, percent

_NAMED = 5  # classes that the log names
_COLUMNS = ("path", "start", "end", "labels", "predicted")  # of the table of videos, before those of the classes


class Multilabel(Task):
    """Binary cross-entropy in float32, the mean over clips and classes.

    Args:
        class_names: of the K classes, for tables.
    """

    selection = Selection("mAP")
    labels = "classes"

    def __init__(self, *, class_names: Sequence[str]) -> None:
        self.class_names = class_names

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        return {"loss": F.binary_cross_entropy_with_logits(model(batch.clip).float(), batch.label.float())}

    def scores(self, outputs_BK: torch.Tensor) -> torch.Tensor:
        """The probability of each class, alone."""
        return outputs_BK.sigmoid()

    def metrics(self, predictions: VideoPredictions) -> dict[str, float]:
        """`mAP` in percent, over the `classes` that at least one video has, and the mean `loss`."""
        precisions = [p for p in self._average_precisions(predictions) if p is not None]
        scores = predictions.scores.astype(np.float64).clip(1e-12, 1 - 1e-12)
        losses = np.where(predictions.targets > 0, -np.log(scores), -np.log1p(-scores))
        return {
            "mAP": 100 * float(np.mean(precisions)),
            "classes": float(len(precisions)),
            "loss": float(losses.mean()),
        }

    def describe(self, metrics: Mapping[str, float], predictions: VideoPredictions) -> str:
        """The metrics, and the classes that no video has, which are not in the mean."""
        absent = [self.class_names[k] for k in np.flatnonzero(~predictions.targets.any(axis=0)).tolist()]
        shown = f"mAP {metrics['mAP']:.2f} over {metrics['classes']:.0f} classes"
        if not absent:
            return shown
        more = ", ..." if len(absent) > _NAMED else ""
        return f"{shown}, without {len(absent)} that no video has ({', '.join(absent[:_NAMED])}{more})"

    def arrays(self, predictions: VideoPredictions) -> dict[str, np.ndarray]:
        """`probabilities` (V, K), `view_probabilities` (V, G, K), `labels` 0 or 1 (V, K), `class_names`."""
        return {
            "probabilities": predictions.scores,
            "view_probabilities": predictions.views,
            "labels": predictions.targets,
            "class_names": np.array(list(self.class_names)),
        }

    def video_table(self, predictions: VideoPredictions) -> Table:
        """The names of its classes, those above a half, and the probability of every class."""
        rows = (
            (self._join(labels), self._join(scores > 0.5), *(f"{score:.6g}" for score in scores))
            for labels, scores in zip(predictions.targets, predictions.scores, strict=True)
        )
        names = [f"probability of {name}" if name in _COLUMNS else name for name in self.class_names]
        return Table(("labels", "predicted", *names), rows)

    def class_tables(self, predictions: VideoPredictions) -> dict[str, Table]:
        """`classes`: average precision of each class, precision and recall where a half is the threshold."""
        truth, found = predictions.targets > 0, predictions.scores > 0.5
        hits, positives, predicted = (truth & found).sum(axis=0), truth.sum(axis=0), found.sum(axis=0)
        rows = [
            (k, name, positives[k], "" if p is None else round(100 * p, 4), predicted[k])
            + (percent(hits[k], predicted[k]), percent(hits[k], positives[k]))
            for k, (name, p) in enumerate(zip(self.class_names, self._average_precisions(predictions), strict=True))
        ]
        header = ("class", "name", "videos", "average_precision", "predicted", "precision", "recall")
        return {"classes": Table(header, rows)}

    def _average_precisions(self, predictions: VideoPredictions) -> list[float | None]:
        """Of each class; None for one that no video has."""
        truth = predictions.targets > 0
        return [
            average_precision(predictions.scores[:, k], truth[:, k]) if truth[:, k].any() else None
            for k in range(truth.shape[1])
        ]

    def _join(self, is_there: np.ndarray) -> str:
        return ";".join(self.class_names[k] for k in np.flatnonzero(is_there).tolist())
