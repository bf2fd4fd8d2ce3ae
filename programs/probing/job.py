"""What a probe works with, and what comes out of it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.lists.splits import LabelledData
from datasets.probing import Sight
from engine.distributed.ddp import autocast, check_amp
from engine.distributed.world import World
from evaluation.probing.heads import build_head
from evaluation.probing.recipes import RecipeConfig
from inference.load import Loaded

from .options import ProbingConfig


@dataclass(frozen=True)
class Job:
    """A probe with all that it needs."""

    config: ProbingConfig
    world: World
    loaded: Loaded
    sight: Sight
    data: LabelledData

    @property
    def recipe(self) -> RecipeConfig:
        return self.config.recipe

    @cached_property
    def amp(self) -> str:
        """A key of AMP_DTYPES."""
        device = self.world.device
        return check_amp(self.config.encoder.amp or ("bf16" if device.type == "cuda" else "none"), device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass."""
        return autocast(self.world.device, self.amp)

    def labels(self, part: str) -> np.ndarray:
        """Of a list's samples."""
        return np.asarray(list(self.data.lists[part].labels), dtype=np.int64)

    def loader_kwargs(self, *, alone: bool) -> dict[str, Any]:
        """Of a loader; `alone`: what it is given is this rank's own share."""
        rank, size = (0, 1) if alone else (self.world.rank, self.world.size)
        return self.config.loader.kwargs(rank=rank, world_size=size, device=self.world.device)

    def build_heads(self, number: int) -> list[nn.Module]:
        """Heads that start alike."""
        recipe, heads = self.recipe, []
        for _ in range(number):
            torch.manual_seed(recipe.seed)
            head = build_head(
                self.config.probe,
                self.loaded.model.embed_dim,
                self.data.num_classes,
                num_heads=recipe.probe_heads or 1,
                dropout=recipe.dropout or 0.0,
                trains_norm=recipe.train_fc_norm,
            )
            heads.append(head.to(self.world.device))
        return heads


@dataclass(frozen=True)
class Outcome:
    """Probabilities, or votes, (V, K) of the test samples by what the metrics' names end in; on rank 0.

    Attributes:
        chosen: what was found out: the head that was taken, the accuracies that it was chosen by.
    """

    scores: dict[str, np.ndarray]
    chosen: dict[str, Any]


def rows_of(found: dict[int, np.ndarray]) -> np.ndarray:
    """Rows in the order of their places."""
    return np.stack([found[place] for place in sorted(found)])
