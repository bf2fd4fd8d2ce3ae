"""The order in which the videos of a list are shown: pure functions of seed, epoch and position, whatever the ranks.

An order maps positions of an epoch, int64 (N,), to the videos there and to their occurrences, int64 (N,) each: 0 where
the epoch shows a video for the first time, 1 for the second. Nothing is kept between calls, so an order can be resumed
at any position.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from .permutation import KeyedPermutation

_ORDER_STREAM, _CLASS_STREAM = 1, 2  # last words of the keys; samples have (seed, epoch, index, repeat)


class Order(ABC):
    """An order of the videos of a list.

    Attributes:
        num_videos: in the list.
        length: positions of an epoch.
        seed: of the run; at least 0.
        is_balanced: whether all classes come equally often.
    """

    is_balanced = False

    def __init__(self, num_videos: int, *, length: int | None = None, seed: int = 0) -> None:
        self.num_videos, self.length, self.seed = num_videos, length or num_videos, seed

    @abstractmethod
    def __call__(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The videos at positions of an epoch, and their occurrences."""


class ShuffledOrder(Order):
    """Pass after pass over the list, each in another random order.

    Epochs follow one another in this sequence: one that is shorter than the list goes on where the last one ended, and
    one that is longer shows videos again. With the length of the list an epoch is a pass.
    """

    def __call__(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = epoch * self.length
        passes, places = np.divmod(first + positions, self.num_videos)
        videos = np.empty_like(places)
        for number in np.unique(passes).tolist():
            here = passes == number
            videos[here] = KeyedPermutation(self.num_videos, [self.seed, number, 0, 0, _ORDER_STREAM])(places[here])
        return videos, passes - first // self.num_videos


class BalancedOrder(Order):
    """All classes of a list equally often, up to one video; within each class pass after pass over its videos.

    The videos of a class are shown in another random order in every pass, and a pass goes on from epoch to epoch: no
    video of a class comes a second time before all others of it have come.

    Args:
        labels: class of every video.
    """

    is_balanced = True

    def __init__(self, labels: Sequence[int], *, length: int | None = None, seed: int = 0) -> None:
        super().__init__(len(labels), length=length, seed=seed)
        by_class = np.asarray(labels, np.int64)
        self._videos = by_class.argsort(kind="stable")  # those of the first class, then those of the next
        self._classes, self._starts, self._sizes = np.unique(
            by_class[self._videos], return_index=True, return_counts=True
        )

    def __call__(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The sequence of the draws deals the classes out in turn; each epoch shuffles its part of it.
        shuffled = KeyedPermutation(self.length, [self.seed, epoch, 0, 0, _ORDER_STREAM])(positions)
        num_classes = len(self._classes)
        draws, groups = np.divmod(epoch * self.length + shuffled, num_classes)  # how many of its class came before
        passes, places = np.divmod(draws, self._sizes[groups])
        first_draws = -((groups - epoch * self.length) // num_classes)  # of the class in this epoch
        found = np.empty_like(places)
        for group, number in np.unique(np.stack([groups, passes]), axis=1).T.tolist():
            here = (groups == group) & (passes == number)
            key = [self.seed, int(self._classes[group]), number, 0, _CLASS_STREAM]
            found[here] = KeyedPermutation(int(self._sizes[group]), key)(places[here])
        return self._videos[self._starts[groups] + found], passes - first_draws // self._sizes[groups]
