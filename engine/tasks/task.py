"""What all tasks have in common.

Letters: B clips, V videos, G views of a video, K outputs of the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Selection:
    """The metric of a validation that says which epoch is the best one; it is never negative."""

    metric: str = "top1"
    lower_is_better: bool = False

    def improves(self, value: float, best: float) -> bool:
        """Whether a value is better than the best one so far, which is below 0 before the first."""
        return best < 0 or (value < best if self.lower_is_better else value > best)


@dataclass(frozen=True)
class VideoPredictions:
    """What a model says of every video of a list, in the list's order.

    Attributes:
        scores: (V, K): of each view what `Task.scores` says, then the mean or the maximum over views.
        targets: (V,), or (V, K) where a video has several classes.
        views: (V, G, K): the scores of each view.
    """

    scores: np.ndarray
    targets: np.ndarray
    views: np.ndarray

    @property
    def num_views(self) -> int:
        """G, views per video."""
        return self.views.shape[1]


class Table(NamedTuple):
    """A csv file to be."""

    header: Sequence[str]
    rows: Iterable[Sequence[Any]]


class Task(ABC):
    """A task: called as (model, batch), it gives the outputs of a training step, with a scalar "loss".

    Attributes:
        selection: which validation is the best one.
        labels: how lists are read: "class", "classes" or "value"; see `datasets.lists.entries.ListPart`.
        has_classes: whether every video has one class, so that clips can be mixed, labels smoothed, classes weighted.
    """

    selection: ClassVar[Selection]
    labels: ClassVar[str]
    has_classes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """The `loss` of a batch with gradients, computed in float32, and other scalars to be logged."""

    @abstractmethod
    def scores(self, outputs_BK: torch.Tensor) -> torch.Tensor:
        """(B, K) float32 outputs of the model -> what is pooled over the views of a video, (B, K)."""

    @abstractmethod
    def metrics(self, predictions: VideoPredictions) -> dict[str, float]:
        """Metrics over a list, among them that of `selection`."""

    @abstractmethod
    def describe(self, metrics: Mapping[str, float], predictions: VideoPredictions) -> str:
        """The metrics in one line, for the log."""

    @abstractmethod
    def arrays(self, predictions: VideoPredictions) -> dict[str, np.ndarray]:
        """What is kept of all videos in an npz file."""

    @abstractmethod
    def video_table(self, predictions: VideoPredictions) -> Table:
        """A row for each video; its path is put before it."""

    def class_tables(self, predictions: VideoPredictions) -> dict[str, Table]:
        """More tables, by the ending of their file's name."""
        return {}


def percent(part: float, whole: float) -> float | str:
    """A percentage for a table; "" where there is nothing to take it of."""
    return round(100 * float(part) / float(whole), 4) if whole else ""
