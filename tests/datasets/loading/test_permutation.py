"""The computed order is a permutation, looks drawn evenly, and costs the same for any size."""

import itertools
import math
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from datasets.loading.permutation import KeyedPermutation

SIZES = [1, 2, 3, 5, 9, 16, 17, 99, 10_007, 65_536]


def whole(size, *key):
    return KeyedPermutation(size, key)(np.arange(size))


def chi_square_limit(degrees):
    """Exceeded by chance once in about 30,000 (four standard deviations; Wilson and Hilferty 1931)."""
    return degrees * (1 - 2 / (9 * degrees) + 4 * math.sqrt(2 / (9 * degrees))) ** 3


def chi_square(counts, expected):
    return float(((np.asarray(counts) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("size", SIZES)
def test_every_element_comes_once(size):
    assert np.sort(whole(size, 3, 1)).tolist() == list(range(size))


@pytest.mark.parametrize("size", SIZES)
def test_any_positions_can_be_looked_up(size):
    positions = np.random.default_rng(0).integers(size, size=50)
    assert (KeyedPermutation(size, (7,))(positions) == whole(size, 7)[positions]).all()


def test_the_order_is_pinned():
    """Changing it would change the order of every run that is gone on with."""
    assert whole(12, 0, 5).tolist() == [3, 1, 0, 5, 10, 8, 7, 4, 6, 9, 11, 2]


def test_keys_give_other_orders():
    orders = {tuple(whole(100, seed, epoch).tolist()) for seed in range(5) for epoch in range(20)}
    assert len(orders) == 100


@pytest.mark.parametrize("size", [3, 4, pytest.param(5, marks=pytest.mark.slow)])
def test_all_orders_of_a_small_list_are_equally_likely(size):
    drawn = Counter(tuple(whole(size, 1, key).tolist()) for key in range(20 * math.factorial(size)))
    counts = [drawn[order] for order in itertools.permutations(range(size))]
    assert chi_square(counts, 20) < chi_square_limit(len(counts) - 1)


def test_every_element_comes_equally_often_at_every_position():
    size, keys = 23, 1150
    counts = np.zeros((size, size))
    for key in range(keys):
        counts[np.arange(size), whole(size, 0, key)] += 1
    assert chi_square(counts, keys / size) < chi_square_limit((size - 1) ** 2)


def test_neighbours_are_not_related():
    """Differences of elements that follow one another are as evenly spread as those of independent draws."""
    size = 10_007
    steps = np.diff(whole(size, 2)) % size
    counts = np.histogram(steps, bins=50, range=(0, size))[0]
    assert chi_square(counts, len(steps) / 50) < chi_square_limit(49)


@pytest.mark.parametrize("keys", [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 1), (1, 0))])
def test_epochs_and_seeds_are_not_related(keys):
    size = 20_000
    first, second = (whole(size, *key) for key in keys)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(size)
    table = np.histogram2d(first, second, bins=10)[0]
    assert chi_square(table, size / 100) < chi_square_limit(81)
    assert (first == second).sum() < 10  # one on average


def test_a_batch_of_a_billion_costs_no_more_than_one_of_ten_thousand():
    """Memory, and the number of elements that are touched; time with a wide margin only."""
    peaks, seconds = [], []
    for size in (10**4, 10**9):
        start = time.process_time()
        tracemalloc.start()
        found = KeyedPermutation(size, (0, 0))(np.arange(size - 64, size))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        seconds.append(time.process_time() - start)
        assert len(set(found.tolist())) == 64 and found.min() >= 0 and found.max() < size
    assert peaks[1] < 2 * peaks[0] and peaks[1] < 100_000
    assert seconds[1] < 1


def test_empty_permutation_is_refused():
    with pytest.raises(ValueError, match="0 elements"):
        KeyedPermutation(0, (0,))
