"""Which tokens of a clip are hidden from the encoder.

A clip is a grid of t x h x w tokens, flattened with w fastest: N = t*h*w. A mask is bool (N,), True = masked.
The number of masked tokens depends on the grid and the ratio alone, never on the draw, so masks stack to a batch.

Masks that follow the motion of a clip start from a tube mask drawn here; `flow_guided.py` propagates it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sigma_video.options import AT_LEAST_ONE, BETWEEN_0_AND_1, OptionError, Options, option

Grid = tuple[int, int, int]


def num_masked_per_slot(grid: Grid, mask_ratio: float) -> int:
    """How many of the h*w tokens of one temporal slot are masked: `mask_ratio * h * w`, without its fraction.

    The product counts as whole when it is less than a billionth short of it: 0.29 * 100 is 28.999999999999996 in
    floating point and means 29.

    Raises:
        ValueError: the ratio is not between 0 and 1, or masks nothing or everything.
    """
    _check_ratio(mask_ratio)
    _, height, width = grid
    return _checked_count(int(mask_ratio * height * width + 1e-9), grid, mask_ratio)


def num_masked_by_motion(grid: Grid, mask_ratio: float) -> int:
    """How many of the h*w tokens of one temporal slot are masked where masks follow the motion (MGMAE).

    Here the visible ones are counted, `(1 - mask_ratio) * h * w` without its fraction: of 196 tokens at 0.9, tube
    masks leave 20 visible, these 19. Whole numbers and errors as in `num_masked_per_slot`.
    """
    _check_ratio(mask_ratio)
    _, height, width = grid
    return _checked_count(height * width - int((1 - mask_ratio) * height * width + 1e-9), grid, mask_ratio)


def _check_ratio(mask_ratio: float) -> None:
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask ratio must lie between 0 and 1, not {mask_ratio}")


def _checked_count(num_masked: int, grid: Grid, mask_ratio: float) -> int:
    _, height, width = grid
    if num_masked in (0, height * width):
        raise ValueError(
            f"mask ratio {mask_ratio} masks {num_masked} of {height} x {width} tokens: "
            "at least one must be masked and one visible"
        )
    return num_masked


def tube_mask(grid: Grid, mask_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Masks the same random places in every temporal slot; see `num_masked_per_slot` for how many and for errors."""
    return _tube(grid, num_masked_per_slot(grid, mask_ratio), rng)


def random_mask(grid: Grid, mask_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Masks as many tokens as `tube_mask`, anywhere in the clip; see `num_masked_per_slot` for errors."""
    num_slots, height, width = grid
    return _shuffled(num_slots * height * width, num_slots * num_masked_per_slot(grid, mask_ratio), rng)


def motion_base_mask(grid: Grid, mask_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """The tube mask that a mask which follows the motion starts from; see `num_masked_by_motion` for how many."""
    return _tube(grid, num_masked_by_motion(grid, mask_ratio), rng)


def _tube(grid: Grid, num_masked: int, rng: np.random.Generator) -> np.ndarray:
    num_slots, height, width = grid
    return np.tile(_shuffled(height * width, num_masked, rng), num_slots)


def _shuffled(num_tokens: int, num_masked: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.arange(num_tokens) < num_masked)


# By --mask_type: what draws the mask of a sample, with as many tokens masked as are in the end. For "motion" it is made
# to follow the clip on the training device (`flow_guided.MotionGuide`), for "motion_vectors" in the data set.
MASKS: dict[str, Callable[[Grid, float, np.random.Generator], np.ndarray]] = {
    "tube": tube_mask,
    "random": random_mask,
    "motion": motion_base_mask,
    "motion_vectors": motion_base_mask,
}


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Options):
    """Which tokens of a clip are masked."""

    mask_type: str = option(
        "tube",
        "motion: guided by optical flow; motion_vectors: by the motion vectors of the video's codec",
        choices=tuple(MASKS),
    )
    mask_ratio: float = option(0.9, "part of the tokens that is masked", rule=BETWEEN_0_AND_1)
    num_masks: int = option(1, "masks of each clip, which share a pass of the image teacher", rule=AT_LEAST_ONE)
    flow_weights: str = option(
        "", "RAFT-small's weights, for --mask_type motion; default: torchvision's", metavar="FILE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow_weights and self.mask_type != "motion":
            raise OptionError(
                f"--flow_weights {self.flow_weights} is for --mask_type motion, not {self.mask_type}: "
                "leave one of them out"
            )

    def num_masked(self, grid: Grid) -> int:
        """How many of a clip's N tokens are masked.

        Raises:
            ValueError: none would be, or all.
        """
        return int(self.draw(grid, np.random.default_rng(0)).sum())

    def draw(self, grid: Grid, rng: np.random.Generator) -> np.ndarray:
        """A mask, bool (N,), True = masked.

        Raises:
            ValueError: the ratio masks nothing, or everything, of this grid.
        """
        return MASKS[self.mask_type](grid, self.mask_ratio, rng)
