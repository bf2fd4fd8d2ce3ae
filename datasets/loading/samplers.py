"""The order of the samples: shuffled and resumable in training, all of them once in evaluation."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ..errors import AnnotationError
from .orders import Order, ShuffledOrder

_STEPS_AT_ONCE = 64  # whose order is computed in one go


class TrainSampler(Sampler[tuple[int, ...]]):
    """The samples of one rank, (epoch, index), in a seeded random order of the videos.

    Step g of an epoch uses videos g*B .. (g+1)*B of the epoch's order, B = batch_size * world_size, and rank r the r-th
    part of them: the global batch depends on B only. Videos that do not fill a last global batch are left out of that
    epoch. The order is computed as it is needed: neither time nor memory grow with the list. What an epoch shows again
    is (epoch, index, occurrence), see `Order`.

    Args:
        num_samples: videos in the list.
        batch_size: of one rank.
        rank, world_size: of this process.
        seed: of the run; at least 0.
        order: of the videos; default: shuffled, each once.

    Raises:
        AnnotationError: an epoch has fewer videos than one global batch.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        order: Order | None = None,
    ) -> None:
        self.order = order or ShuffledOrder(num_samples, seed=seed)
        self.global_batch = batch_size * world_size
        length = self.order.length
        if length < self.global_batch:
            short = length == num_samples
            what = f"the list has {length} videos" if short else f"--samples_per_epoch: {length} videos"
            raise AnnotationError(
                f"{what}, fewer than the {self.global_batch} of one batch over all ranks "
                f"(--batch_size {batch_size} x {world_size} ranks): lower --batch_size, or raise --samples_per_epoch"
            )
        self.num_samples, self.batch_size, self.rank, self.seed = num_samples, batch_size, rank, seed
        self.num_steps = length // self.global_batch
        self.epoch = 0
        self.start_step = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields: from its start, unless it is the one just resumed."""
        if epoch != self.epoch:
            self.epoch, self.start_step = epoch, 0

    def state_dict(self, finished_steps: int = 0) -> dict[str, int]:
        """The state that this order is resumed from.

        Args:
            finished_steps: batches of the current epoch that were trained on. The caller knows: workers fetch ahead.
        """
        return {
            "epoch": self.epoch,
            "position": finished_steps * self.global_batch,
            "num_samples": self.num_samples,
            "seed": self.seed,
            **self._of_order(),
        }

    def _of_order(self) -> dict[str, int]:
        """What is special of the order: nothing where every video comes once."""
        order = self.order
        length = {} if order.length == self.num_samples else {"samples_per_epoch": order.length}
        return length | ({"balanced_sampling": 1} if order.is_balanced else {})

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume after the videos that a `state_dict` has finished, on any number of ranks.

        Raises:
            ValueError: another list length or seed, so that the order would differ; or a place in the epoch at which no
                global batch of this size begins.
        """
        for name, flag in (("num_samples", "the list"), ("seed", "--seed")):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"cannot resume the order of the samples: {name} was {state[name]} and is now "
                    f"{getattr(self, name)}; keep {flag}"
                )
        for name in ("samples_per_epoch", "balanced_sampling"):
            before, now = state.get(name, 0), self._of_order().get(name, 0)
            if before != now:
                raise ValueError(
                    f"cannot resume the order of the samples: --{name} was {before or 'off'} and is now "
                    f"{now or 'off'}; keep it"
                )
        position = state["position"]
        if position % self.global_batch or not 0 <= position <= self.num_steps * self.global_batch:
            raise ValueError(
                f"cannot resume after {position} videos of the epoch: global_batch is now {self.global_batch}; keep "
                "--batch_size x ranks"
            )
        self.epoch, self.start_step = state["epoch"], position // self.global_batch

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, also when this one starts in the middle."""
        return self.num_steps * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        epoch = self.epoch
        own = self.rank * self.batch_size + np.arange(self.batch_size)
        for first in range(self.start_step, self.num_steps, _STEPS_AT_ONCE):
            steps = np.arange(first, min(first + _STEPS_AT_ONCE, self.num_steps))
            videos, occurrences = self.order(epoch, (steps[:, None] * self.global_batch + own).ravel())
            for index, occurrence in zip(videos.tolist(), occurrences.tolist(), strict=True):
                yield (epoch, index, occurrence) if occurrence else (epoch, index)


class EvalSampler(Sampler[int]):
    """Every `world_size`-th index from `rank` on: over all ranks each index once, none added to even out the shares."""

    def __init__(self, num_samples: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_samples, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
