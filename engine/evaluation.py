"""What a model says of videos from several views, exact for any number of ranks and videos.

Letters: B videos in a batch, G views per video, K outputs, V videos in all.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .distributed.collectives import gather_objects, gather_to_main
from .distributed.world import EXPECTED, World, on_main_process, raise_any
from .errors import NonFiniteError
from .files import replace_text
from .resilience.preemption import raise_if_preempted, stop_requested
from .resilience.watchdog import heartbeat
from .results import RESULTS
from .tasks.results import Listed, write_results
from .tasks.task import Task, VideoPredictions

logger = logging.getLogger(__name__)

Scores = Callable[[torch.Tensor], torch.Tensor]
Row = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # of a video: index, target, scores (K,), those of views (G, K)


@torch.no_grad()
def predict_batch(
    model: nn.Module,
    batch: Any,
    *,
    autocast: AbstractContextManager[Any],
    clips_at_once: int,
    scores: Scores,
    in_step: bool = False,
) -> torch.Tensor:
    """(B, G, K) scores of the views of a batch, on the device."""
    parts = batch.clip.split(clips_at_once)
    if in_step:
        _keep_step(model, parts, autocast)
    with autocast:
        logits = torch.cat([model(clips) for clips in parts])
    return scores(logits.float()).unflatten(0, (-1, batch.views))


@torch.no_grad()
def predict_batches(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device,
    autocast: AbstractContextManager[Any],
    clips_at_once: int,
    in_step: bool,
    scores: Scores,
) -> Iterator[tuple[Any, torch.Tensor]]:
    """Each batch, moved to the device, and the scores of its views, until a rank is asked to stop; see `predict`."""
    for batch in batches:
        if stop_requested():
            break
        batch = batch.to(device)
        yield (
            batch,
            predict_batch(model, batch, autocast=autocast, clips_at_once=clips_at_once, in_step=in_step, scores=scores),
        )
    while in_step and _keep_step(model, (), autocast):
        logger.debug("waiting for ranks with more videos")


def predict(
    model: nn.Module,
    loader: Any,
    *,
    world: World,
    num_videos: int,
    autocast: AbstractContextManager[Any],
    clips_at_once: int,
    scores: Scores,
    in_step: bool = False,
    pooling: str = "mean",
    log_every: int = 50,
) -> VideoPredictions | None:
    """Predict every video of the loader's list. Rank 0 gets the predictions of all ranks, the others None.

    Args:
        loader: batches with `clip` (B * G, ...), video-major, `label` and `index` (B,), `views` G; each rank sees its
            own share of the videos.
        num_videos: length of the list.
        clips_at_once: clips in one forward pass: bounds the memory.
        in_step: a forward pass needs all ranks (ZeRO stage 3), however few videos some have.
        scores: (B, K) outputs of the model -> what is pooled over views.
        pooling: "mean" or "max" over the views of a video.

    Raises:
        RuntimeError: on rank 0, a video predicted twice or not at all.
        OSError, RuntimeError, ValueError: on all ranks, what ended one of them, such as a video that cannot be decoded.
        Preempted: on all ranks, one received a signal.
    """
    was_training = model.training
    model.eval()
    rows: list[Row] = []
    failure: Exception | None = None
    predictions = predict_batches(
        model,
        loader,
        device=world.device,
        autocast=autocast,
        clips_at_once=clips_at_once,
        in_step=in_step,
        scores=scores,
    )
    try:
        for number, (batch, views) in enumerate(predictions, start=1):
            heartbeat()
            pooled = views.amax(dim=1) if pooling == "max" else views.mean(dim=1)
            rows += zip(batch.index.tolist(), *(x.cpu().numpy() for x in (batch.label, pooled, views)), strict=True)
            if number % log_every == 0:
                logger.info("tested %d of %d batches", number, len(loader))
    except EXPECTED as error:
        if in_step:  # the other ranks are in a forward pass that waits for this one
            raise
        failure = error
    model.train(was_training)
    raise_any(failure, world)
    raise_if_preempted()
    shares = gather_to_main(rows)  # a rank beyond the number of videos has none
    return _merge([row for share in shares for row in share], num_videos) if world.is_main else None


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models, by the suffix of their results ('' for the model itself), on the lists of a run.

    Attributes:
        task: what the model says of a video.
        loaders: by the name of their list, such as "val"; see `predict`.
        lists: the lists.
        autocast, clips_at_once, in_step, pooling: see `predict`.
        averages_on_cpu: models with a suffix are kept in host memory between evaluations.
    """

    world: World
    task: Task
    loaders: Mapping[str, Any]
    lists: Mapping[str, Listed]
    autocast: AbstractContextManager[Any]
    clips_at_once: int
    in_step: bool
    averages_on_cpu: bool = False
    pooling: str = "mean"

    def evaluate(
        self, models: Mapping[str, nn.Module], name: str
    ) -> tuple[dict[str, float], dict[str, VideoPredictions]]:
        """Metrics, with names that begin with `name` and the suffix; on rank 0 every video's predictions by suffix.

        Raises:
            NonFiniteError: on all ranks, probabilities that are NaN.
        """
        predictions: dict[str, VideoPredictions] = {}
        for suffix, model in models.items():
            found = predict(
                model.to(self.world.device),
                self.loaders[name],
                world=self.world,
                num_videos=len(self.lists[name]),
                autocast=self.autocast,
                clips_at_once=self.clips_at_once,
                in_step=self.in_step,
                scores=self.task.scores,
                pooling=self.pooling,
            )
            if suffix and self.averages_on_cpu:
                model.to("cpu")
            if found is not None:
                predictions[suffix] = found
        return on_main_process(self.world, lambda: self._metrics(predictions, name)), predictions

    def _metrics(self, predictions: Mapping[str, VideoPredictions], name: str) -> dict[str, float]:
        """Metrics of all models. Raises NonFiniteError: the class of a NaN would be 0, and count as an answer."""
        metrics: dict[str, float] = {}
        for suffix, found in predictions.items():
            (bad,) = np.nonzero(~np.isfinite(found.scores).all(axis=1))
            if len(bad):
                raise NonFiniteError(
                    f"{name}{suffix}: the predictions for {len(bad)} of {len(found.targets)} videos are NaN, first "
                    f"those for number {bad[0] + 1} of the list: the weights are not usable, or --amp overflows (try "
                    "--amp none)"
                )
            metrics |= {f"{name}{suffix}/{key}": value for key, value in self.task.metrics(found).items()}
        return metrics

    def evaluate_batches(self, models: Mapping[str, nn.Module], batches: Sequence[Any]) -> None:
        """Predict some batches, and forget the results: what a dry run times."""
        for model in models.values():
            model.to(self.world.device).eval()
            for _ in predict_batches(
                model,
                batches,
                device=self.world.device,
                autocast=self.autocast,
                clips_at_once=self.clips_at_once,
                in_step=self.in_step,
                scores=self.task.scores,
            ):
                continue

    def test(
        self,
        models: Mapping[str, nn.Module],
        *,
        output_dir: str,
        views_are: str,
        origin: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Test the models on the list "test"; show the results, write them with what is said of every video and class.

        Args:
            output_dir: gets `test.json` and what `write_results` writes; "": nothing is written.
            views_are: the views of a video, in words.
            origin: -> the entries of `test.json` that say what the results belong to; called on rank 0.
        """
        metrics, by_model = self.evaluate(models, "test")
        if not self.world.is_main:
            return
        if output_dir:  # a test that is cut short leaves none that its predictions do not belong to
            (Path(output_dir) / RESULTS).unlink(missing_ok=True)
        result: dict[str, Any] = {**metrics, "views_are": views_are}
        for suffix, predictions in by_model.items():
            own = {key.split("/")[1]: value for key, value in metrics.items() if key.startswith(f"test{suffix}/")}
            result |= {"videos": len(predictions.targets), "views": predictions.num_views}
            logger.info(
                "test%s: %s  (%d videos, %d views each: %s)",
                suffix,
                self.task.describe(own, predictions),
                result["videos"],
                result["views"],
                views_are,
            )
            if output_dir:
                stem = Path(output_dir) / f"test{suffix}"
                logger.info("wrote %s", ", ".join(write_results(self.task, predictions, self.lists["test"], stem)))
        if output_dir:
            replace_text(Path(output_dir) / RESULTS, json.dumps({**result, **origin()}, indent=1) + "\n")


def _keep_step(model: nn.Module, parts: Sequence[torch.Tensor], autocast: AbstractContextManager[Any]) -> bool:
    """Go through the forward passes that other ranks have in this round and this one has not, on an empty clip.

    Args:
        parts: what this rank is about to put through the model.

    Returns:
        False if no rank has anything left.
    """
    rounds = gather_objects((len(parts), tuple(parts[0].shape[1:]) if parts else ()))
    most, shape = max(rounds)
    device = next(model.parameters()).device
    with autocast:
        for _ in range(most - len(parts)):
            model(torch.zeros(1, *shape, device=device))
    return most > 0


def _merge(rows: list[Row], num_videos: int) -> VideoPredictions:
    rows.sort(key=lambda row: row[0])
    if [row[0] for row in rows] != list(range(num_videos)):
        raise RuntimeError(f"{len(rows)} predictions for {num_videos} videos: each must be predicted exactly once")
    _, targets, scores, views = zip(*rows, strict=True)
    return VideoPredictions(scores=np.stack(scores), targets=np.stack(targets), views=np.stack(views))
