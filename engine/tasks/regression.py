"""A number for every video."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigError
from .scores import r_squared, spearman
from .task import Selection, Table, Task, VideoPredictions

LARGEST = 1e30  # of a number: that of its square and of sums stay far inside float64, the number inside float32
LOSSES = {"mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


class Regression(Task):
    """The model says how many standard deviations the number lies above the mean of the training list.

    Args:
        loss: a key of LOSSES, of these standardised numbers; smooth L1 is quadratic up to one standard deviation.
        target_scale: mean and standard deviation of the training list.
    """

    selection = Selection("mae", lower_is_better=True)
    labels = "value"

    def __init__(self, *, loss: str, target_scale: Sequence[float]) -> None:
        self.loss = LOSSES[loss]
        self.mean, self.deviation = target_scale

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """`loss`, and `mae`: the mean error in the unit of the list."""
        outputs = model(batch.clip).float()[:, 0]
        targets = ((batch.label - self.mean) / self.deviation).float()  # from float64: values may be far from 0
        return {"loss": self.loss(outputs, targets), "mae": self.deviation * (outputs - targets).abs().mean()}

    def scores(self, outputs_BK: torch.Tensor) -> torch.Tensor:
        """Numbers in the unit of the list."""
        return self.mean + self.deviation * outputs_BK.double()

    def metrics(self, predictions: VideoPredictions) -> dict[str, float]:
        """`mae` and `rmse` in the unit of the list; `r2` and `spearman` where numbers differ."""
        predicted, targets = predictions.scores[:, 0], predictions.targets
        errors = predicted - targets
        correlations = {"r2": r_squared(predicted, targets), "spearman": spearman(predicted, targets)}
        return {
            "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            **{name: value for name, value in correlations.items() if value is not None},
        }

    def describe(self, metrics: Mapping[str, float], predictions: VideoPredictions) -> str:
        """The metrics."""
        shown = ("MAE", "mae"), ("RMSE", "rmse"), ("R2", "r2"), ("Spearman", "spearman")
        return "  ".join(f"{word} {metrics[name]:.4g}" for word, name in shown if name in metrics)

    def arrays(self, predictions: VideoPredictions) -> dict[str, np.ndarray]:
        """`predictions` (V,), `view_predictions` (V, G), `targets` (V,)."""
        return {
            "predictions": predictions.scores[:, 0],
            "view_predictions": predictions.views[:, :, 0],
            "targets": predictions.targets,
        }

    def video_table(self, predictions: VideoPredictions) -> Table:
        """The number, what is predicted, and what each view predicts."""
        views = [f"view{view}" for view in range(predictions.num_views)]
        rows = (
            (target, f"{scores[0]:.9g}", *(f"{value:.9g}" for value in views[:, 0]))
            for target, scores, views in zip(
                predictions.targets.tolist(), predictions.scores, predictions.views, strict=True
            )
        )
        return Table(("target", "predicted", *views), rows)


def scale_of(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation of the targets of the training list.

    Raises:
        ConfigError: all are equal, or one is too large.
    """
    numbers = np.asarray(list(values), np.float64)
    if np.abs(numbers).max() > LARGEST:
        raise ConfigError(
            f"--task regression: a training video has the number {numbers[np.abs(numbers).argmax()]:g}, and float32 "
            f"holds none beyond {LARGEST:g}: give them in another unit"
        )
    if np.ptp(numbers) == 0:
        raise ConfigError(f"--task regression: all training videos have the number {numbers[0]:g}: nothing to learn")
    return [float(numbers.mean()), float(numbers.std())]
