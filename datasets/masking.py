"""Which tokens of a clip are hidden from the encoder.

A clip is a grid of t x h x w tokens, flattened with w fastest: N = t*h*w. A mask is bool (N,), True = masked.
The number of masked tokens depends on the grid and the ratio alone, never on the draw, so masks stack to a batch.
"""

from collections.abc import Callable

import numpy as np

Grid = tuple[int, int, int]


def num_masked_per_slot(grid: Grid, mask_ratio: float) -> int:
    """How many of the h*w tokens of one temporal slot are masked: `mask_ratio * h * w`, without its fraction.

    The product counts as whole when it is less than a billionth short of it: 0.29 * 100 is 28.999999999999996 in
    floating point and means 29.

    Raises:
        ValueError: the ratio is not between 0 and 1, or masks nothing or everything.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask ratio must lie between 0 and 1, not {mask_ratio}")
    _, height, width = grid
    num_masked = int(mask_ratio * height * width + 1e-9)
    if num_masked in (0, height * width):
        raise ValueError(
            f"mask ratio {mask_ratio} masks {num_masked} of {height} x {width} tokens: "
            "at least one must be masked and one visible"
        )
    return num_masked


def tube_mask(grid: Grid, mask_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Masks the same random places in every temporal slot; see `num_masked_per_slot` for how many and for errors."""
    num_slots, height, width = grid
    return np.tile(_shuffled(height * width, num_masked_per_slot(grid, mask_ratio), rng), num_slots)


def random_mask(grid: Grid, mask_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Masks as many tokens as `tube_mask`, anywhere in the clip; see `num_masked_per_slot` for errors."""
    num_slots, height, width = grid
    return _shuffled(num_slots * height * width, num_slots * num_masked_per_slot(grid, mask_ratio), rng)


def _shuffled(num_tokens: int, num_masked: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.arange(num_tokens) < num_masked)


MASKS: dict[str, Callable[[Grid, float, np.random.Generator], np.ndarray]] = {"tube": tube_mask, "random": random_mask}
