"""One class of several for every video."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .scores import confusion_matrix, legacy_cumulative, mean_per_class, top_k
from .task import Selection, Table, Task, VideoPredictions, percent

Mixup = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_WORST = 5  # classes that the log names


class Classification(Task):
    """Cross-entropy in float32, with mixup or with label smoothing.

    With class weights w the loss of a clip with (soft) targets t is -sum over k of w_k t_k log p_k, and that of a batch
    the mean over its clips: it does not depend on how clips are put into batches. (`torch.nn.CrossEntropyLoss` divides
    by the weights in the batch where targets are hard.)

    Args:
        mixup: (clips, labels) -> (mixed clips, soft targets (B, K)); None to disable.
        smoothing: label smoothing without mixup (mixup smooths its own targets).
        class_weights: float (K,).
        class_names: of the K classes, for tables.
        with_cumulative: give `legacy_cumulative` beside `mean_per_class`.
    """

    selection = Selection("top1")
    labels = "class"
    has_classes = True

    def __init__(
        self,
        mixup: Mixup | None = None,
        smoothing: float = 0.0,
        *,
        class_weights: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        with_cumulative: bool = False,
    ) -> None:
        self.mixup, self.smoothing, self.class_names = mixup, smoothing, class_names
        self.with_cumulative = with_cumulative
        self.class_weights = None if class_weights is None else torch.from_numpy(class_weights).float()

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """`loss`, and without mixup also `top1`: accuracy in percent."""
        if self.mixup is not None:
            clips, targets = self.mixup(batch.clip, batch.label)
            return {"loss": self._cross_entropy(model(clips).float(), targets)}
        logits = model(batch.clip).float()
        return {
            "loss": self._cross_entropy(logits, batch.label),
            "top1": 100 * (logits.argmax(dim=1) == batch.label).float().mean(),
        }

    def _cross_entropy(self, logits_BK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """For classes (B,), which are smoothed, or soft targets (B, K), which are not."""
        is_hard = targets.ndim == 1
        if self.class_weights is None:
            return F.cross_entropy(logits_BK, targets, label_smoothing=self.smoothing if is_hard else 0.0)
        if self.class_weights.device != logits_BK.device:
            self.class_weights = self.class_weights.to(logits_BK.device)
        if is_hard:
            targets = F.one_hot(targets, logits_BK.shape[1]) * (1 - self.smoothing) + self.smoothing / len(logits_BK[0])
        return F.cross_entropy(logits_BK, targets, weight=self.class_weights)

    def scores(self, outputs_BK: torch.Tensor) -> torch.Tensor:
        """Class probabilities."""
        return outputs_BK.softmax(dim=1)

    def metrics(self, predictions: VideoPredictions) -> dict[str, float]:
        """`top1`, `top5`, `mean_per_class` in percent, and the mean `loss`."""
        probabilities, labels = predictions.scores, predictions.targets
        own = probabilities[np.arange(len(labels)), labels]
        return {
            "top1": top_k(probabilities, labels, 1),
            "top5": top_k(probabilities, labels, 5),
            "mean_per_class": mean_per_class(probabilities, labels),
            **({"legacy_cumulative": legacy_cumulative(probabilities, labels)} if self.with_cumulative else {}),
            "loss": float(-np.log(np.clip(own, 1e-12, 1)).mean()) + 0.0,  # never -0.0
        }

    def describe(self, metrics: Mapping[str, float], predictions: VideoPredictions) -> str:
        """The metrics, and the classes with the lowest accuracy."""
        shown = "top-1 {top1:.2f}  top-5 {top5:.2f}  mean per class {mean_per_class:.2f}".format_map(metrics)
        confusion = self._confusion(predictions)
        sizes = confusion.sum(axis=1)
        accuracies = [(confusion[k, k] / sizes[k], k) for k in np.flatnonzero(sizes).tolist()]
        worst = [(accuracy, k) for accuracy, k in sorted(accuracies) if accuracy < 1][:_WORST]
        words = ", ".join(f"{self._name(k)} {100 * accuracy:.1f} of {sizes[k]}" for accuracy, k in worst)
        return f"{shown}  lowest: {words}" if worst else shown

    def arrays(self, predictions: VideoPredictions) -> dict[str, np.ndarray]:
        """`probabilities` (V, K), `view_probabilities` (V, G, K), `labels` (V,), `confusion` (K, K), `class_names`."""
        return {
            "probabilities": predictions.scores,
            "view_probabilities": predictions.views,
            "labels": predictions.targets,
            "confusion": self._confusion(predictions),
            "class_names": np.array(self._names(predictions)),
        }

    def video_table(self, predictions: VideoPredictions) -> Table:
        """Class, predicted class and its probability; then the class that each view predicts."""
        names, predicted = self._names(predictions), predictions.scores.argmax(axis=1)
        of_views = predictions.views.argmax(axis=2)
        views = [f"view{view}" for view in range(predictions.num_views)]
        rows = (
            (label, names[label], best, names[best], f"{scores[best]:.6g}", int(label == best), *by_view)
            for label, best, scores, by_view in zip(
                predictions.targets.tolist(), predicted.tolist(), predictions.scores, of_views.tolist(), strict=True
            )
        )
        return Table(
            ("label", "label_name", "predicted", "predicted_name", "probability", "is_correct", *views),
            rows,
        )

    def class_tables(self, predictions: VideoPredictions) -> dict[str, Table]:
        """`classes`: how each class fares; `confusion`: videos by class (rows) and predicted class (columns)."""
        names, confusion = self._names(predictions), self._confusion(predictions)
        sizes, predicted, correct = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
        others = confusion - np.diag(correct)
        rows = [
            (k, name, sizes[k], correct[k], percent(correct[k], sizes[k]), predicted[k])
            + (percent(correct[k], predicted[k]), names[others[k].argmax()] if others[k].any() else "")
            for k, name in enumerate(names)
        ]
        header = ("class", "name", "videos", "correct", "accuracy", "predicted", "precision", "most_often_taken_for")
        matrix = [(name, *confusion[k].tolist()) for k, name in enumerate(names)]
        return {"classes": Table(header, rows), "confusion": Table(("class \\ predicted", *names), matrix)}

    def _confusion(self, predictions: VideoPredictions) -> np.ndarray:
        predicted = predictions.scores.argmax(axis=1)
        return confusion_matrix(predictions.targets, predicted, predictions.scores.shape[1])

    def _names(self, predictions: VideoPredictions) -> list[str]:
        return [self._name(k) for k in range(predictions.scores.shape[1])]

    def _name(self, label: int) -> str:
        return self.class_names[label] if self.class_names else str(label)
