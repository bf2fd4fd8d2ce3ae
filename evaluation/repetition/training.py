"""Training the network to refine hypotheses: a mini-batch of segments is stepped through, update after update."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.distributed.collectives import all_reduce_sum
from engine.tasks.task import Selection

from .anchors import IGNORED, anchor_loss, anchor_targets, best_factors, split_outputs
from .cycles import State, context_frames, draw_state, moved
from .segments import SegmentBatch, gather_clips

LIMIT = 2.0  # of the logarithm of a factor, as hypotheses change
STEPS = (5.0, 20.0)  # fewest and most of them through a segment
_STATE_STREAM = 4  # last word of the seeds of hypotheses; samples have (seed, epoch, index, repeat)


class CountingTask:
    """One update on the states of a batch, which then move on: called as (model, batch), it gives the losses.

    Args:
        num_frames: of a clip, half of them of the past.
        regression_mean: see `anchor_loss`.
        seed: of the run.
    """

    selection = Selection("MAE", lower_is_better=True)

    def __init__(self, *, num_frames: int, regression_mean: str, seed: int) -> None:
        self.num_frames, self.regression_mean, self.seed = num_frames, regression_mean, seed

    def __call__(self, model: nn.Module, batch: SegmentBatch) -> dict[str, torch.Tensor]:
        """`loss` with gradients, `class_loss` and `offset_loss`; the states of the batch are those of the next step."""
        if not batch.states:
            batch.rngs = [np.random.default_rng([self.seed, *self._words(key), _STATE_STREAM]) for key in batch.keys]
            batch.states = [self._new_state(batch, place) for place in range(len(batch.keys))]
        outputs = split_outputs(model(self.clips(batch)))
        classes, logs = self._targets(batch)
        losses = anchor_loss(
            outputs,
            classes.to(batch.device),
            logs.to(batch.device),
            regression_mean=self.regression_mean,
            all_reduce=all_reduce_sum,
            num_ranks=all_reduce_sum.num_ranks,
        )
        factors = best_factors(outputs.detach().cpu().numpy(), limit=LIMIT)
        batch.states = [self._next_state(batch, place, factors[place]) for place in range(len(batch.states))]
        return losses

    @staticmethod
    def _words(key: tuple[int, ...]) -> tuple[int, int, int]:
        """Epoch, place and occurrence."""
        epoch, place, *occurrence = key
        return epoch, place, sum(occurrence)

    def clips(self, batch: SegmentBatch) -> torch.Tensor:
        """What the network sees of the states: float32 (B, 3, T, S, S)."""
        places = np.stack([context_frames(state, self.num_frames) for state in batch.states])
        lengths, starts = np.array(batch.lengths)[:, None], np.array(batch.starts)[:, None]
        inside = (places >= 0) & (places < lengths)
        return gather_clips(batch.frames, torch.from_numpy(np.where(inside, starts + places, -1)), batch.device)

    @staticmethod
    def _targets(batch: SegmentBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 and float32 (B, 2, A): of the past cycle at the state's frame, of the next at the one after."""
        rows = []
        for state, length, start in zip(batch.states, batch.lengths, batch.starts, strict=True):
            middle = int(state.middle)
            past = int(batch.previous[start + middle])
            future = int(batch.following[start + middle + 1]) if middle + 1 < length else IGNORED
            rows.append([anchor_targets(past, int(state.past)), anchor_targets(future, int(state.future))])
        classes = torch.tensor(np.array([[branch[0] for branch in row] for row in rows]))
        return classes, torch.tensor(np.array([[branch[1] for branch in row] for row in rows]), dtype=torch.float32)

    @staticmethod
    def _new_state(batch: SegmentBatch, place: int) -> State:
        first = int(batch.following[batch.starts[place]])
        return draw_state(first, batch.counts[place], batch.lengths[place], batch.rngs[place])

    def _next_state(self, batch: SegmentBatch, place: int, factors: np.ndarray) -> State:
        """The state a twentieth to a fifth of the segment further; a new one at its end, or for a cycle too short."""
        length = batch.lengths[place]
        if not np.isfinite(factors).all():  # the loss is not either, and what --on_nonfinite says is done
            return self._new_state(batch, place)
        step = max(int(length / batch.rngs[place].uniform(*STEPS)), 1)
        state = moved(batch.states[place], factors.tolist(), step=step)
        return self._new_state(batch, place) if state is None or state.middle >= length else state


class RepeatedBatches:
    """Every batch of a loader several times in a row, as the same object: its states live from one to the next.

    Args:
        loader: of one rank.
        times: how often.
        group: batches that make one update: they come in turn.
    """

    def __init__(self, loader: Any, *, times: int, group: int = 1) -> None:
        self.loader, self.times, self.group = loader, times, group
        self.sampler = _RepeatedSampler(loader.sampler, times)

    def __len__(self) -> int:
        return len(self.loader) // self.group * self.group * self.times

    def __iter__(self) -> Iterator[SegmentBatch]:
        batches = iter(self.loader)
        while len(together := list(itertools.islice(batches, self.group))) == self.group:
            for _ in range(self.times):
                for batch in together:
                    yield batch
                    batch.failures = []  # they are counted once


class _RepeatedSampler:
    """The sampler of such batches: it can be resumed where a batch has had all its repeats."""

    def __init__(self, sampler: Any, times: int) -> None:
        self.sampler, self.times = sampler, times

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def state_dict(self, finished_steps: int = 0) -> dict[str, int]:
        assert finished_steps % self.times == 0
        return self.sampler.state_dict(finished_steps // self.times)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.load_state_dict(state)
