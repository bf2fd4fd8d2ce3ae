"""Trains several heads at the same time, on the same features: on a cache of them, or as an encoder gives them.

Letters: V samples, G views of each, B samples of a step, D width, K classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .recipes import Candidate, RecipeConfig

Reduce = Callable[[torch.Tensor], torch.Tensor]


class HeadTrainer:
    """AdamW on heads that share nothing but their inputs: what one learns does not depend on the others.

    Args:
        heads: one for each candidate.
        recipe: complete.
        steps_per_epoch: by which the learning rate falls.
        smoothing: of labels.
        autocast: context of the heads' forward passes.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        candidates: Sequence[Candidate],
        recipe: RecipeConfig,
        *,
        steps_per_epoch: int,
        smoothing: float,
        autocast: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.heads, self.recipe, self.smoothing = heads, recipe, smoothing
        self.autocast = autocast or nullcontext()
        self.steps_per_epoch, self.steps = steps_per_epoch, 0
        groups: list[dict[str, Any]] = []
        for head, candidate in zip(heads, candidates, strict=True):
            decayed = [parameter for parameter in head.parameters() if parameter.ndim > 1]
            rest = [parameter for parameter in head.parameters() if parameter.ndim <= 1]
            groups += [
                {"params": decayed, "weight_decay": candidate.weight_decay, "base": candidate.lr},
                {"params": rest, "weight_decay": 0.0, "base": candidate.lr},
            ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0)

    def step(
        self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]], *, total: int, reduce: Reduce | None = None
    ) -> float:
        """One update of all heads. Each goes back before the next one goes forward: memory holds one at a time.

        Args:
            parts: features or tokens of this rank's samples, and their targets: (B,) classes, or (B, K) soft ones.
            total: samples of the step on all ranks.
            reduce: sums a tensor over ranks.

        Returns:
            The heads' mean share of the step's mean loss.
        """
        high, low = self.recipe.lr_scale(self.steps, steps_per_epoch=self.steps_per_epoch)
        assert self.recipe.min_lr is not None
        for group in self.optimizer.param_groups:
            group["lr"] = high * group["base"] + low * self.recipe.min_lr
        self.optimizer.zero_grad()
        losses = []
        for inputs, targets in parts:
            smoothing = self.smoothing if targets.ndim == 1 else 0.0
            for head in self.heads:
                with self.autocast:
                    outputs = head(inputs).float()
                loss = F.cross_entropy(outputs, targets, label_smoothing=smoothing, reduction="sum") / total
                loss.backward()
                losses.append(loss.detach())
        if reduce is not None:
            _sum_gradients([parameter for head in self.heads for parameter in head.parameters()], reduce)
        self.optimizer.step()
        self.steps += 1
        return float(torch.stack(losses).sum()) / len(self.heads)


def _sum_gradients(parameters: Sequence[nn.Parameter], reduce: Reduce) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def epoch_batches(places: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> Iterable[np.ndarray]:
    """The samples of each step of an epoch, in an order of its own; within a step they rise, as they lie on disk.

    Whole batches alone, as in training; a list that is shorter than a batch is one.
    """
    order = np.random.default_rng([seed, epoch]).permutation(places)
    whole = max(len(order) // batch_size, 1)
    for start in range(0, whole * batch_size, batch_size):
        yield np.sort(order[start : start + batch_size])


def train_on_features(
    heads: Sequence[nn.Module],
    candidates: Sequence[Candidate],
    recipe: RecipeConfig,
    *,
    features: np.ndarray,
    labels: np.ndarray,
    places: np.ndarray,
    smoothing: float,
    device: torch.device,
) -> None:
    """Train heads on cached features of some samples: in each step all views of its samples.

    Args:
        features: (V, G, D).
        labels: (V,).
        places: of the samples to train on.
    """
    assert recipe.epochs and recipe.batch_size
    steps = max(len(places) // recipe.batch_size, 1)
    trainer = HeadTrainer(heads, candidates, recipe, steps_per_epoch=steps, smoothing=smoothing)
    views = features.shape[1]
    for head in heads:
        head.train()
    for epoch in range(recipe.epochs):
        for batch in epoch_batches(places, recipe.batch_size, seed=recipe.seed, epoch=epoch):
            inputs = torch.from_numpy(features[batch].astype(np.float32)).to(device).flatten(0, 1)
            targets = torch.from_numpy(labels[batch]).to(device).repeat_interleave(views)
            trainer.step([(inputs, targets)], total=len(inputs))


@torch.no_grad()
def probabilities(
    head: nn.Module, features: np.ndarray, places: np.ndarray, *, device: torch.device, chunk: int = 4096
) -> np.ndarray:
    """(V, K) float32 of some samples: the mean of their views' probabilities."""
    head.eval()
    found = []
    for start in range(0, len(places), chunk):
        part = features[places[start : start + chunk]].astype(np.float32)
        logits = head(torch.from_numpy(part).to(device).flatten(0, 1)).float()
        found.append(logits.softmax(dim=1).unflatten(0, part.shape[:2]).mean(dim=1).cpu().numpy())
    return np.concatenate(found)


def accuracy(probabilities_VK: np.ndarray, labels_V: np.ndarray) -> float:
    """Top-1 in percent; 0 for predictions that are NaN, whose largest would count as an answer."""
    if not np.isfinite(probabilities_VK).all():
        return 0.0
    return 100 * float((probabilities_VK.argmax(axis=1) == labels_V).mean())


Step = Iterable[tuple[torch.Tensor, torch.Tensor]]


def train_on_clips(
    trainer: HeadTrainer,
    steps: Callable[[int], Iterable[Step]],
    *,
    total: int,
    reduce: Reduce | None,
    log: Callable[[int, float], None],
) -> None:
    """Train heads on what an encoder makes of clips, epoch by epoch.

    Args:
        steps: epoch -> the parts of every step: tokens (B, N, D) and targets of this rank's share.
        total: samples of a step on all ranks.
        log: called after each epoch with its number and this rank's share of the mean loss.
    """
    assert trainer.recipe.epochs
    for epoch in range(trainer.recipe.epochs):
        for head in trainer.heads:
            head.train()
        losses = [trainer.step(parts, total=total, reduce=reduce) for parts in steps(epoch)]
        log(epoch, sum(losses) / len(losses))


@torch.no_grad()
def clip_probabilities(
    heads: Sequence[nn.Module], batches: Iterable[tuple[torch.Tensor, Any]], autocast: AbstractContextManager[Any]
) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Of each batch what came with it, and by head the mean of the views' probabilities (B, K).

    Args:
        batches: tokens (B, G, N, D), and anything.
    """
    for head in heads:
        head.eval()
    for tokens, mark in batches:
        found = []
        for head in heads:
            with autocast:
                logits = head(tokens.flatten(0, 1)).float()
            found.append(logits.softmax(dim=1).unflatten(0, tokens.shape[:2]).mean(dim=1).cpu().numpy())
        yield mark, found
