"""Cycles of a video and hypotheses about them: pure functions of frame numbers.

A state (l, m, r) says that a cycle ends in frame m, that it began in frame l, and that the next one ends in frame r.
Frames count from 0, and a state may reach beyond a segment on both sides.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .anchors import IGNORED

LEAST_LENGTH = 4  # frames of a cycle
SCALES = (0.03, 0.35)  # shortest and longest cycle that is looked for, over the length of the segment
NUM_SCALES = 30
_TOLERATED, _TOLERATED_RATIO = 2, 1.3  # between neighbouring cycles: frames, and the longer over the shorter


class State(NamedTuple):
    """A hypothesis: first and last frame of the past cycle, last frame of the future one."""

    left: float
    middle: float
    right: float

    @property
    def past(self) -> float:
        """Frames of the past cycle."""
        return self.middle - self.left + 1

    @property
    def future(self) -> float:
        """Frames of the future cycle."""
        return self.right - self.middle


def neighbour_offsets(bounds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of every frame from the first to the last boundary: frames to the same phase of the next and the previous cycle.

    IGNORED where there is none, or where it is more than 2 frames and more than 1.3 times longer or shorter. A boundary
    belongs to the cycle that begins there. So are the targets of UCFRep made (label_interpolation_v1.m).

    Args:
        bounds: frames at which cycles begin, and the last one ends, in ascending order.

    Returns:
        Two int64 arrays.
    """
    edges, first = np.asarray(bounds, np.int64), bounds[0]
    lengths = np.diff(edges)
    following = np.full(edges[-1] - first + 1, IGNORED)
    previous = following.copy()
    for k, length in enumerate(lengths.tolist()):
        frames = np.arange(edges[k], edges[k + 1] + 1)
        phase = (frames - edges[k]) / length
        for offsets, other in ((following, k + 1), (previous, k - 1)):
            offsets[frames - first] = IGNORED  # the boundary was the last frame of the cycle before
            if not 0 <= other < len(lengths) or not _alike(length, int(lengths[other])):
                continue
            moved = edges[other] + phase * lengths[other]
            offsets[frames - first] = np.floor(np.abs(moved - frames) + 0.5)
    return following, previous


def _alike(one: int, other: int) -> bool:
    longer, shorter = max(one, other), min(one, other)
    return longer - shorter <= _TOLERATED or longer / shorter <= _TOLERATED_RATIO


def scale_lengths(num_frames: int) -> np.ndarray:
    """The cycle lengths that are looked for in a segment, evenly spaced in their logarithms: float64 (NUM_SCALES,)."""
    return num_frames * _scale(np.arange(NUM_SCALES))


def _scale(step: np.ndarray | int) -> np.ndarray:
    shortest, longest = SCALES
    return shortest * (longest / shortest) ** (np.asarray(step) / (NUM_SCALES - 1))


def context_frames(state: State, num_frames: int) -> np.ndarray:
    """The frames that the network sees of a state, int64: half of them evenly over the past cycle and as much before
    it, half over the future cycle and as much behind it. They may lie outside the segment."""
    past = int(state.left - state.past), int(state.middle)
    begin = int(state.middle + 1)
    future = begin, int(state.right + (state.right - begin + 1))
    return np.concatenate([_evenly(*past, num_frames // 2), _evenly(*future, num_frames // 2)])


def _evenly(first: int, last: int, number: int) -> np.ndarray:
    step = (last - first + 1) / (number - 1)
    return np.rint(first - 0.5 + np.arange(number) * step).clip(first, last).astype(np.int64)


def draw_segment(bounds: Sequence[int], rng: np.random.Generator, *, most: int) -> tuple[int, int]:
    """First and last frame, both included, of a part of a video with two cycles or more around its boundaries.

    Args:
        bounds: as for `neighbour_offsets`, three or more.
        most: frames of a segment: a longer one is cut off.
    """
    begin = int(rng.integers(len(bounds) - 2))
    end = int(rng.integers(begin + 2, len(bounds) + 1))
    first = bounds[0] if begin == 0 else int(rng.integers(bounds[begin - 1], bounds[begin] + 1))
    last = bounds[-1] if end == len(bounds) else int(rng.integers(bounds[end - 1], bounds[end] + 1))
    return first, min(last, first + most - 1)


def cycles_within(bounds: Sequence[int], first: int, last: int) -> float:
    """How many cycles lie between two frames, both included."""
    places = np.interp([first - 0.5, last + 0.5], np.asarray(bounds), np.arange(len(bounds)))
    return float(places[1] - places[0])


def draw_state(offset: int, count: float, num_frames: int, rng: np.random.Generator) -> State:
    """A first hypothesis, near the beginning of a segment: its cycle has a length around the true one, or any.

    A quarter of the lengths are the true one times 2 to a power from -1 to 1; a quarter that times a half, 1 or 2, give
    or take a twentieth; and half of them one of the scales that are looked for.

    Args:
        offset: frames from the first frame to the same phase of the next cycle; IGNORED if there is none.
        count: cycles in the segment.
        num_frames: of the segment.
    """
    common = max(int(num_frames / count), LEAST_LENGTH)
    true = common if offset == IGNORED else offset
    left, kind = int(rng.random() * true), rng.random()
    if kind < 0.25:
        length = true * 2 ** rng.uniform(-1, 1)
    elif kind < 0.5:
        length = true * (2.0 ** rng.integers(-1, 2) + rng.uniform(-0.05, 0.05))
    else:
        length = num_frames * float(_scale(int(rng.integers(NUM_SCALES + 1))))
    middle = max(left + int(length - 1), left)
    if middle >= num_frames:
        left, middle = 0, common - 1
    if 2 * middle + 1 >= num_frames:
        left, middle = 0, num_frames // 2 - 1
    return State(left, middle, middle + (middle - left + 1))


def moved(state: State, factors: Sequence[float], *, step: int = 0, most: float = np.inf) -> State | None:
    """A state `step` frames later, with its cycles multiplied by factors; None if one becomes shorter than 4 frames.

    Args:
        factors: of the past and of the future cycle.
        most: frames of a cycle; with a limit one shorter than 4 frames is made that long.
    """
    past, future = state.past * factors[0], state.future * factors[1]
    if most < np.inf:
        past, future = (min(max(LEAST_LENGTH, length), most) for length in (past, future))
    middle = int(state.middle + step)
    new = State(int(middle - past + 1), middle, int(middle + future))
    return None if min(new.past, new.future) < LEAST_LENGTH else new
