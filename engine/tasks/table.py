"""The tasks by name: a row is a class, and how it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .classification import Classification, Mixup
from .multilabel import Multilabel
from .regression import Regression
from .task import Task


@dataclass(frozen=True, kw_only=True)
class TaskInputs:
    """What tasks are made of; each takes what it needs.

    Attributes:
        class_names: in label order.
        mixup, smoothing, class_weights, with_cumulative: see `Classification`.
        regression_loss, target_scale: see `Regression`.
    """

    class_names: Sequence[str] = ()
    mixup: Mixup | None = None
    smoothing: float = 0.0
    class_weights: np.ndarray | None = None
    with_cumulative: bool = False
    regression_loss: str = "mse"
    target_scale: Sequence[float] = (0.0, 1.0)


@dataclass(frozen=True)
class TaskRow:
    """A task: its class, and how it is made."""

    cls: type[Task]
    build: Callable[[TaskInputs], Task]


TASKS = {
    "classification": TaskRow(
        Classification,
        lambda given: Classification(
            given.mixup,
            given.smoothing,
            class_weights=given.class_weights,
            class_names=given.class_names,
            with_cumulative=given.with_cumulative,
        ),
    ),
    "multilabel": TaskRow(Multilabel, lambda given: Multilabel(class_names=given.class_names)),
    "regression": TaskRow(
        Regression, lambda given: Regression(loss=given.regression_loss, target_scale=given.target_scale)
    ),
}
