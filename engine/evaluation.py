"""Class probabilities of videos from several views, exact for any number of ranks and videos.

Letters: B videos in a batch, G views per video, K classes, V videos in all.
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
from .distributed.world import World, on_main_process
from .errors import NonFiniteError
from .files import replace_text
from .resilience.preemption import raise_if_preempted
from .resilience.watchdog import heartbeat
from .results import RESULTS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoPredictions:
    """Predictions for every video of a list, in the list's order."""

    probabilities: np.ndarray  # (V, K) float32: softmax of each view, then the mean over views
    labels: np.ndarray  # (V,) int64
    num_views: int  # per video

    def top(self, k: int) -> float:
        """Percentage of videos whose class is among the k most probable ones (k at most K)."""
        k = min(k, self.probabilities.shape[1])
        best = np.argpartition(-self.probabilities, k - 1, axis=1)[:, :k]
        return 100 * float((best == self.labels[:, None]).any(axis=1).mean())

    def mean_per_class(self) -> float:
        """Top-1 accuracy of every class that occurs, averaged over classes; percent."""
        correct = self.probabilities.argmax(axis=1) == self.labels
        return 100 * float(np.mean([correct[self.labels == label].mean() for label in np.unique(self.labels)]))

    def metrics(self, prefix: str) -> dict[str, float]:
        """`PREFIX/top1`, `PREFIX/top5`, `PREFIX/mean_per_class` in percent, and the mean loss."""
        own = self.probabilities[np.arange(len(self.labels)), self.labels]
        return {
            f"{prefix}/top1": self.top(1),
            f"{prefix}/top5": self.top(5),
            f"{prefix}/mean_per_class": self.mean_per_class(),
            f"{prefix}/loss": float(-np.log(np.maximum(own, 1e-12)).mean()),
        }

    def save(self, path: Path) -> None:
        """Arrays `probabilities`, `labels`, `num_views` as npz."""
        np.savez_compressed(
            path, probabilities=self.probabilities, labels=self.labels, num_views=np.int64(self.num_views)
        )


@torch.no_grad()
def predict_batch(
    model: nn.Module,
    batch: Any,
    *,
    autocast: AbstractContextManager[Any],
    clips_at_once: int,
    in_step: bool = False,
) -> torch.Tensor:
    """(B, K) class probabilities of a batch on the device: the softmax of each view, then the mean over views."""
    parts = batch.clip.split(clips_at_once)
    if in_step:
        _keep_step(model, parts, autocast)
    with autocast:
        logits = torch.cat([model(clips) for clips in parts])
    return logits.float().softmax(dim=1).unflatten(0, (-1, batch.views)).mean(dim=1)


@torch.no_grad()
def predict_batches(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    device: torch.device,
    autocast: AbstractContextManager[Any],
    clips_at_once: int,
    in_step: bool,
) -> Iterator[tuple[Any, torch.Tensor]]:
    """Each batch, moved to the device, and its class probabilities; see `predict` for the rest."""
    for batch in batches:
        batch = batch.to(device)
        yield batch, predict_batch(model, batch, autocast=autocast, clips_at_once=clips_at_once, in_step=in_step)
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
    in_step: bool = False,
    log_every: int = 50,
) -> VideoPredictions | None:
    """Predict every video of the loader's list. Rank 0 gets the predictions of all ranks, the others None.

    Args:
        loader: batches with `clip` (B * G, ...), video-major, `label` and `index` (B,), `views` G; each rank sees its
            own share of the videos.
        num_videos: length of the list.
        clips_at_once: clips in one forward pass: bounds the memory.
        in_step: a forward pass needs all ranks (ZeRO stage 3), however few videos some have.

    Raises:
        RuntimeError: on rank 0, a video predicted twice or not at all.
    """
    was_training = model.training
    model.eval()
    rows: list[tuple[int, int, np.ndarray]] = []
    num_views = 0
    predictions = predict_batches(
        model, loader, device=world.device, autocast=autocast, clips_at_once=clips_at_once, in_step=in_step
    )
    for number, (batch, probabilities) in enumerate(predictions, start=1):
        num_views = batch.views
        heartbeat()
        raise_if_preempted()
        rows += zip(batch.index.tolist(), batch.label.tolist(), probabilities.cpu().numpy(), strict=True)
        if number % log_every == 0:
            logger.info("tested %d of %d batches", number, len(loader))
    model.train(was_training)
    shares = gather_to_main((rows, num_views))  # a rank beyond the number of videos has none, and saw no views
    if not world.is_main:
        return None
    return _merge([row for share, _ in shares for row in share], num_videos, max(views for _, views in shares))


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models, by the suffix of their results ('' for the model itself), on the lists of a run.

    Attributes:
        loaders: by the name of their list, such as "val"; see `predict`.
        num_videos: length of each list.
        autocast, clips_at_once, in_step: see `predict`.
        averages_on_cpu: models with a suffix are kept in host memory between evaluations.
    """

    world: World
    loaders: Mapping[str, Any]
    num_videos: Mapping[str, int]
    autocast: AbstractContextManager[Any]
    clips_at_once: int
    in_step: bool
    averages_on_cpu: bool = False

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
                num_videos=self.num_videos[name],
                autocast=self.autocast,
                clips_at_once=self.clips_at_once,
                in_step=self.in_step,
            )
            if suffix and self.averages_on_cpu:
                model.to("cpu")
            if found is not None:
                predictions[suffix] = found
        return on_main_process(self.world, lambda: _metrics(predictions, name)), predictions

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
        """Test the models on the list "test"; show the results, write them with every video's probabilities.

        Args:
            output_dir: gets `test.json` and `test{suffix}_predictions.npz`; "": nothing is written.
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
            result |= {"videos": len(predictions.labels), "views": predictions.num_views}
            logger.info(
                "test%s: top-1 %.2f  top-5 %.2f  mean per class %.2f  (%d videos, %d views each: %s)",
                suffix,
                *(metrics[f"test{suffix}/{what}"] for what in ("top1", "top5", "mean_per_class")),
                result["videos"],
                result["views"],
                views_are,
            )
            if output_dir:
                predictions.save(Path(output_dir) / f"test{suffix}_predictions.npz")
        if output_dir:
            replace_text(Path(output_dir) / RESULTS, json.dumps({**result, **origin()}, indent=1) + "\n")


def _metrics(predictions: Mapping[str, VideoPredictions], name: str) -> dict[str, float]:
    """Metrics of all models. Raises NonFiniteError: the class of a NaN would be 0, and count as an answer."""
    metrics: dict[str, float] = {}
    for suffix, found in predictions.items():
        (bad,) = np.nonzero(~np.isfinite(found.probabilities).all(axis=1))
        if len(bad):
            raise NonFiniteError(
                f"{name}{suffix}: the probabilities of {len(bad)} of {len(found.labels)} videos are NaN, first that of "
                f"number {bad[0] + 1} of the list: the weights are not usable, or --amp overflows (try --amp none)"
            )
        metrics |= found.metrics(name + suffix)
    return metrics


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


def _merge(rows: list[tuple[int, int, np.ndarray]], num_videos: int, num_views: int) -> VideoPredictions:
    rows.sort(key=lambda row: row[0])
    if [row[0] for row in rows] != list(range(num_videos)):
        raise RuntimeError(f"{len(rows)} predictions for {num_videos} videos: each must be predicted exactly once")
    return VideoPredictions(
        probabilities=np.stack([row[2] for row in rows]),
        labels=np.asarray([row[1] for row in rows], dtype=np.int64),
        num_views=num_views,
    )
