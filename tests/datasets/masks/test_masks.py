"""Masks have exact counts, the right layout, and follow the generator."""

import numpy as np
import pytest

from datasets.masks.masks import MASKS, num_masked_by_motion, num_masked_per_slot, random_mask, tube_mask

GRID = (8, 14, 14)
VISIBLE = {"tube": 20, "random": 20, "motion": 19, "motion_vectors": 19}  # in a slot, or on average, at 0.9


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("side", "ratio", "expected"),
    [
        ((14, 14), 0.9, 176),  # 176.4
        ((14, 14), 0.75, 147),
        ((1, 10), 0.7, 7),
        ((10, 10), 0.29, 29),  # 28.999999999999996 in floating point
        ((10, 10), 0.57, 56 + 1),  # 56.99999999999999
        ((2, 2), 0.9, 3),
    ],
)
def test_number_of_masked_places(side, ratio, expected):
    assert num_masked_per_slot((8, *side), ratio) == expected


@pytest.mark.parametrize(
    ("side", "ratio", "expected"),
    [
        ((14, 14), 0.9, 177),  # 19.6 are visible, hence 19
        ((14, 14), 0.75, 147),
        ((1, 10), 0.9, 9),  # 1 - 0.9 is 0.09999999999999998 in floating point
        ((2, 2), 0.2, 1),
    ],
)
def test_number_of_masked_places_that_follow_motion(side, ratio, expected):
    assert num_masked_by_motion((8, *side), ratio) == expected


@pytest.mark.parametrize("ratio", [k / 100 for k in range(1, 100)])
def test_hundredths_are_exact(ratio):
    assert num_masked_per_slot((1, 10, 10), ratio) == round(ratio * 100)
    assert num_masked_by_motion((1, 10, 10), ratio) == round(ratio * 100)


@pytest.mark.parametrize("name", MASKS)
def test_count_type_and_shape(name):
    for seed in range(5):
        mask = MASKS[name](GRID, 0.9, rng(seed))
        assert mask.shape == (1568,) and mask.dtype == bool
        assert mask.sum() == 1568 - 8 * VISIBLE[name]


@pytest.mark.parametrize("name", ["tube", "motion", "motion_vectors"])
def test_tube_is_the_same_in_every_slot(name):
    mask = MASKS[name](GRID, 0.9, rng()).reshape(GRID)
    assert (mask == mask[0]).all()


def test_tubes_have_not_changed():
    """What seeded runs drew before masks could follow motion."""
    assert np.array_equal(tube_mask(GRID, 0.9, rng(3)), np.tile(rng(3).permutation(np.arange(196) < 176), 8))


def test_random_is_not():
    mask = random_mask(GRID, 0.9, rng()).reshape(GRID)
    assert len(set(mask.sum((1, 2)))) > 1


@pytest.mark.parametrize("name", MASKS)
def test_follows_the_generator(name):
    assert np.array_equal(MASKS[name](GRID, 0.9, rng(1)), MASKS[name](GRID, 0.9, rng(1)))
    assert not np.array_equal(MASKS[name](GRID, 0.9, rng(1)), MASKS[name](GRID, 0.9, rng(2)))


@pytest.mark.parametrize("name", MASKS)
def test_every_place_is_masked_equally_often(name):
    generator = rng()
    share = np.mean([MASKS[name]((2, 4, 4), 0.75, generator) for _ in range(2000)], axis=0)
    assert np.abs(share - 0.75).max() < 0.05  # five standard deviations


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("ratio", [-0.1, 0.0, 1.0, 90, float("nan")])
def test_ratio_outside_0_to_1_is_refused(name, ratio):
    with pytest.raises(ValueError, match="between 0 and 1"):
        MASKS[name](GRID, ratio, rng())


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("grid", "ratio"), [((8, 2, 2), 1e-12), ((8, 1, 1), 0.9), ((1, 2, 2), 1 - 1e-12)])
def test_nothing_masked_or_nothing_visible_is_refused(name, grid, ratio):
    with pytest.raises(ValueError, match="at least one must be masked and one visible"):
        MASKS[name](grid, ratio, rng())
