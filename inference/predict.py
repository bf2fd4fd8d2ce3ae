"""What a classifier says of videos that have no labels.

Letters: B videos in a batch, G views of a video, K outputs of the model.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from datasets.loading.batch import Batch
from datasets.loading.loaders import LoaderConfig, build_eval_loader
from engine.distributed.collectives import gather_objects
from engine.distributed.world import World
from engine.errors import ConfigError, NonFiniteError
from engine.evaluation import predict_batch
from engine.tasks.table import TASKS, TaskInputs
from engine.tasks.task import Task
from models import ModelError

from .load import Loaded
from .sources import Sample, as_list
from .views import Tolerant, Views, tested_views, view_dataset


@dataclass(frozen=True)
class Prediction:
    """What is said of a sample.

    Attributes:
        sample: the video, or the part of it.
        scores: (K,): probabilities of the classes, or the number; None where the video could not be read.
        names: of the classes.
        error: why it could not be read; "" where it could.
    """

    sample: Sample
    scores: np.ndarray | None
    names: Sequence[str] = field(default=(), repr=False)
    error: str = ""

    def labels(self, number: int = 5) -> list[int]:
        """The most likely classes, by number; raises ValueError where the video could not be read."""
        if self.scores is None:
            raise ValueError(f"{self.sample.path}: {self.error}")
        return [int(label) for label in np.argsort(-self.scores, kind="stable")[:number]]

    def top(self, number: int = 5) -> dict[str, float]:
        """The most likely classes and their probabilities, the most likely first; raises ValueError as `labels`."""
        scores: Any = self.scores
        return {self.names[k] if self.names else str(k): float(scores[k]) for k in self.labels(number)}


def task_of(loaded: Loaded) -> Task:
    """What the outputs of a classifier mean.

    Raises:
        ModelError: the file holds no classifier, or a regression without its scale.
    """
    if not loaded.classifies:
        raise ModelError("it has no classification head: fine-tune it first, or take its features")
    kind, scale = str(loaded.args.get("task") or "classification"), loaded.args.get("target_scale")
    if kind == "regression" and not scale:
        raise ModelError("it does not say what its outputs stand for (target_scale)")
    return TASKS[kind].build(TaskInputs(class_names=loaded.class_names, target_scale=scale or (0.0, 1.0)))


@dataclass(frozen=True)
class Predictor:
    """A classifier, and how it looks at videos.

    Attributes:
        loaded: the model, on its device.
        views: clips x crops of a video; their scores are pooled as in the test of its run.
        autocast, batch_size: of forward passes; clips of one.
    """

    loaded: Loaded
    task: Task
    views: Views
    autocast: AbstractContextManager[Any]
    batch_size: int

    @classmethod
    def of(
        cls, loaded: Loaded, autocast: AbstractContextManager[Any], *, views: Views | None = None, batch_size: int = 16
    ) -> "Predictor":
        """See the attributes; views: default: those of the run's test. Raises ModelError: see `task_of`."""
        return cls(loaded, task_of(loaded), views or tested_views(loaded), autocast, batch_size)

    @property
    def outputs(self) -> int:
        """K."""
        return int(self.loaded.model.head.weight.shape[0])

    def predict_batch(self, batch: Batch) -> np.ndarray:
        """(B, K) of a batch on the model's device.

        Raises:
            NonFiniteError: scores that are NaN or Inf.
        """
        how: Any = {"autocast": self.autocast, "clips_at_once": self.batch_size, "scores": self.task.scores}
        views = predict_batch(self.loaded.model, batch, **how)
        pooled = views.amax(dim=1) if self.loaded.args.get("view_pooling") == "max" else views.mean(dim=1)
        if not torch.isfinite(pooled).all():
            raise NonFiniteError("predictions that are NaN or Inf: the weights are not usable, or --amp overflows")
        return pooled.cpu().numpy()

    def predict(self, samples: Sequence[Sample], loader: LoaderConfig, world: World) -> Iterator[Prediction]:
        """What is said of each sample, in this order, on rank 0; the other ranks get nothing, and go through it too.

        A video that cannot be read has an error in the place of scores.
        """
        made = view_dataset(as_list(samples), self.loaded.clip, self.views, decoder=loader.decoder)
        batches = build_eval_loader(
            Tolerant(made, self.loaded.clip, self.views),
            batch_size=max(self.batch_size // self.views.number, 1),
            **loader.kwargs(rank=world.rank, world_size=world.size, device=world.device),
        )
        rounds = max(gather_objects(len(batches)))
        waiting: dict[int, Prediction] = {}
        place = 0
        for batch in itertools.islice(itertools.chain(batches, itertools.repeat(None)), rounds):
            found: Mapping[int, Prediction] | Exception = {}
            try:
                found = {} if batch is None else self._of_batch(batch, samples, world)
            except (RuntimeError, ValueError) as error:  # the others have to hear of it
                found = error
            for shared in gather_objects(found):
                if isinstance(shared, Exception):
                    raise shared
                waiting |= shared if world.is_main else {}
            while place in waiting:
                yield waiting.pop(place)
                place += 1

    def _of_batch(self, batch: Batch, samples: Sequence[Sample], world: World) -> Mapping[int, Prediction]:
        """By the place of the sample."""
        errors: dict[Any, str] = {index: reason for index, reason, _ in batch.failures}
        places = batch.index.tolist()
        scores = self.predict_batch(batch.to(world.device)) if len(errors) < len(places) else [None] * len(places)
        names = self.loaded.class_names
        return {
            place: Prediction(samples[place], None, error=errors[place])
            if place in errors
            else Prediction(samples[place], row, names)
            for place, row in zip(places, scores, strict=True)
        }


def refuse_nothing_read(predictions: Sequence[Prediction]) -> None:
    """Raise ConfigError, with the first reason, where no video could be read."""
    if predictions and all(prediction.scores is None for prediction in predictions):
        first = predictions[0]
        raise ConfigError(f"{first.sample.path}: {first.error}")
