"""Counts of all videos of a list, on any number of ranks, and what they are worth.

Letters: V videos, S states of one of them, T frames of a clip.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.distributed.collectives import gather_objects
from engine.distributed.world import World
from engine.errors import NonFiniteError
from engine.resilience.preemption import raise_if_preempted, stop_requested
from engine.resilience.watchdog import heartbeat

from .anchors import split_outputs
from .cycles import State, context_frames
from .search import count_cycles
from .segments import gather_clips

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counter:
    """Counts the repetitions of videos.

    Attributes:
        loader: this rank's share of the videos, one a batch; see `SpanDataset`.
        names: of all videos, in the list's order.
        num_frames: T.
        clips_at_once: states in one forward pass.
        autocast: precision of the network.
    """

    world: World
    loader: Any
    names: Sequence[str]
    num_frames: int
    clips_at_once: int
    autocast: AbstractContextManager[Any]

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> np.ndarray:
        """int64 (V,), on every rank.

        Raises:
            NonFiniteError: on all ranks, outputs that are NaN.
            Preempted: on all ranks, one received a signal.
        """
        was_training = model.training
        model.eval()
        counts, bad = {}, []
        for batch in self.loader:
            heartbeat()
            if stop_requested():
                break
            index = int(batch.index[0])
            try:
                counts[index] = count_cycles(batch.clip.shape[1], partial(self.ask, model, batch.clip[0]))
            except NonFiniteError:
                bad.append(index)
        model.train(was_training)
        raise_if_preempted()
        shares = gather_objects((counts, bad))
        if nans := sorted(index for _, found in shares for index in found):
            raise NonFiniteError(
                f"the outputs for {len(nans)} of {len(self.names)} videos are NaN, first those for "
                f"{self.names[nans[0]]}: the weights are not usable, or --amp overflows (try --amp none)"
            )
        everything = {index: count for found, _ in shares for index, count in found.items()}
        if sorted(everything) != list(range(len(self.names))):
            raise RuntimeError(f"{len(everything)} counts for {len(self.names)} videos: each must be counted once")
        return np.array([everything[index] for index in range(len(self.names))])

    @torch.no_grad()
    def rehearse(self, model: nn.Module, batches: Sequence[Any]) -> None:
        """Count some batches, and forget the results: what a dry run times."""
        model.eval()
        for batch in batches:
            count_cycles(batch.clip.shape[1], partial(self.ask, model, batch.clip[0]))

    def ask(self, model: nn.Module, frames: torch.Tensor, states: Sequence[State]) -> np.ndarray:
        """What the network says of states: float32 (S, 2, A, 3).

        Args:
            frames: uint8 (F, 3, S, S), of the whole video.
        """
        places = torch.from_numpy(np.stack([context_frames(state, self.num_frames) for state in states]))
        places = torch.where((places >= 0) & (places < len(frames)), places, -1)
        with self.autocast:
            found = [model(gather_clips(frames, part, self.world.device)) for part in places.split(self.clips_at_once)]
        outputs = split_outputs(torch.cat(found)).cpu()
        if not bool(outputs.isfinite().all()):
            raise NonFiniteError("outputs that are NaN")
        return outputs.numpy()


def relative_errors(counted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """|counted - true| / true of each video; their mean is the MAE, lower is better."""
    return np.abs(counted - true) / true


def metrics(counted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """`MAE`, relative to the counts, and `OBO`: the share of videos that are counted right or off by one."""
    off_by_one = np.abs(counted - true) <= 1
    return {"MAE": float(relative_errors(counted, true).mean()), "OBO": float(off_by_one.mean())}
