"""A random permutation of any size in constant memory: elements are computed when they are looked up."""

from collections.abc import Sequence

import numpy as np

_ROUNDS = 12  # a pair of positions must look independent also in lists of a few videos
_WEYL, _MIX_1, _MIX_2 = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class KeyedPermutation:
    """A permutation of 0..size-1 that a key chooses: the element at any positions, in constant memory.

    A Feistel network on pairs (a, b), a < A, b < B, with A and B near the root of the size: rounds add a keyed hash of
    one half to the other, modulo A or B, and each is undone by subtracting it, so the whole is one to one (Luby and
    Rackoff 1988; Black and Rogaway 2002 for the moduli and for walking on where A x B exceeds the size).

    Args:
        size: number of elements; at least 1.
        key: integers of at least 0; another key gives another permutation.
    """

    def __init__(self, size: int, key: Sequence[int]) -> None:
        if size < 1:
            raise ValueError(f"a permutation of {size} elements")
        root = int(np.ceil(np.sqrt(size)))
        self.size = size
        self._moduli = np.uint64(root), np.uint64(-(-size // root))
        self._keys = np.random.SeedSequence(list(key)).generate_state(_ROUNDS, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """int64 (N,), each in 0..size-1 -> the elements there, int64 (N,)."""
        found = self._encipher(positions.astype(np.uint64))
        outside = np.flatnonzero(found >= self.size)
        while outside.size:  # a walk inside a cycle, which ends at the latest where it began: inside
            found[outside] = self._encipher(found[outside])
            outside = outside[found[outside] >= self.size]
        return found.astype(np.int64)

    def _encipher(self, values: np.ndarray) -> np.ndarray:
        """uint64 below A x B -> uint64 below A x B, one to one."""
        rows, columns = self._moduli
        a, b = values // columns, values % columns
        for number, key in enumerate(self._keys):
            if number % 2:
                b = (b + _hash(a, key) % columns) % columns
            else:
                a = (a + _hash(b, key) % rows) % rows
        return a * columns + b


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Keyed 64-bit words: the finalizer of SplitMix64 (Steele, Lea and Flood 2014), twice."""
    mixed = values * _WEYL + key
    for _ in range(2):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        mixed = (mixed ^ (mixed >> np.uint64(31))) ^ key
    return mixed
