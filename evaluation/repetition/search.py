"""The count of a video from what the network says of hypotheses: the same every time, nothing is drawn.

First the length of a cycle in the middle of the video, then of the cycles around 32 frames from its start to its end,
from coarse to fine; the count is the length of the video over the mean cycle. After val_2stream.py of the released code
(github.com/Xiaodomgdomg/Deep-Temporal-Repetition-Counting, commit f7011d3).
"""

from collections.abc import Callable, Sequence

import numpy as np

from .anchors import WHOLE, best_factors, confidence
from .cycles import LEAST_LENGTH, State, moved, scale_lengths

LEVELS = 5
NUM_POINTS = 2**LEVELS
LIMIT = 0.5  # of the logarithm of a factor
REFINEMENTS = 4
PASSES = (4, 2, 1, 1)  # of the levels after the first
LEAST_CYCLES = 2

Ask = Callable[[Sequence[State]], np.ndarray]  # states -> outputs (S, 2, A, 3)


def count_cycles(num_frames: int, ask: Ask) -> int:
    """Cycles in a video of so many frames, rounded half to even."""
    length = first_length(num_frames, ask)
    points = [State(middle - length, middle, middle + length + 1) for middle in _middles(num_frames)]
    rates = [_rate(state) for state in refine(points, num_frames, ask) if _is_seen(state, num_frames)]
    return round(num_frames * float(np.mean(rates))) if rates else round(num_frames / (length + 1))


def _middles(num_frames: int) -> list[int]:
    return [int(num_frames / (NUM_POINTS + 1) * (point + 0.5)) for point in range(NUM_POINTS)]


def _rate(state: State) -> float:
    """Cycles in a frame."""
    return 0.5 / state.past + 0.5 / state.future


def _is_seen(state: State, num_frames: int) -> bool:
    """Whether the video has all that the network is shown of a state."""
    return int(state.left - state.past) >= 0 and int(state.right + state.future) < num_frames


def first_length(num_frames: int, ask: Ask) -> int:
    """Frames of a cycle in the middle of the video, by the past branch alone and the anchor of the length itself.

    The most confident of 30 lengths, then refined four times, each time half of the way. Lengths are from 4 frames to
    below half of the video; where none of them stays there, which takes a video of under 33 frames, it is 4.
    """
    middle = num_frames / 2

    def asked(lengths: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = ask([State(middle - length, middle, middle + length + 1) for length in lengths])[:, 0, WHOLE]
        refined = np.asarray(lengths) * np.exp(outputs[:, 2].astype(np.float64).clip(-LIMIT, LIMIT))
        return confidence(outputs), np.where(
            (refined >= LEAST_LENGTH) & (refined < num_frames / LEAST_CYCLES), refined, np.nan
        )

    scores, refined = asked(scale_lengths(num_frames).tolist())
    if np.isnan(refined).all():
        return LEAST_LENGTH
    length = int(refined[np.where(np.isnan(refined), -np.inf, scores).argmax()])
    for _ in range(REFINEMENTS):
        better = asked([length])[1][0]
        length = length if np.isnan(better) else round(0.5 * length + 0.5 * float(better))
    return length


def refine(points: Sequence[State], num_frames: int, ask: Ask) -> list[State]:
    """The states of the points after all levels. At each level the points in the middle of 2, 4, 8 and 16 equal groups
    are asked about, and the others of a group take over what becomes of theirs.

    Left and right of a state are kept twice, as the group to the left and that to the right of a point say: at the
    third level a group decides only about the inner one, and the mean of both holds.
    """
    middles = np.array([point.middle for point in points], np.int64)
    sides = np.array([[(point.left, point.right)] * 2 for point in points]).astype(np.int64)  # (point, said by, l or r)
    for level in range(1, LEVELS):
        before, half = sides.copy(), NUM_POINTS >> (level + 1)
        centres = np.arange(half, NUM_POINTS, 2 * half)
        asked = [_mean_state(before[centre], int(middles[centre])) for centre in centres]
        found = _reestimate(asked, num_frames, ask, passes=PASSES[level - 1])
        for group, (centre, new) in enumerate(zip(centres.tolist(), found, strict=True)):
            relative = np.array(new) - middles[centre]
            for point in range(centre - half, centre + half):
                said = (middles[point] + relative).astype(np.int64)
                inner = int(point < centre)  # a point to the left of its group's centre has it to its right
                is_edge = (group == 0 and inner) or (group == len(centres) - 1 and not inner)
                sides[point, inner] = said
                sides[point, 1 - inner] = (
                    said if level <= 2 or level == LEVELS - 1 or is_edge else before[point][1 - inner]
                )
    return [_mean_state(side, int(middle)) for side, middle in zip(sides, middles, strict=True)]


def _mean_state(side: np.ndarray, middle: int) -> State:
    left, right = (round(float(both.sum()) / 2) for both in side.T)
    return State(left, middle, right)


def _reestimate(states: Sequence[State], num_frames: int, ask: Ask, *, passes: int) -> list[tuple[float, float]]:
    """Left and right of each state, half of the way to what the network makes of it, after some passes of that."""
    current, found = list(states), list(states)
    for number in range(passes):
        if number:
            current = [
                State(round(_halfway(old.left, new.left)), old.middle, round(_halfway(old.right, new.right)))
                for old, new in zip(current, found, strict=True)
            ]
        factors = best_factors(ask(current), limit=LIMIT)
        most = num_frames / LEAST_CYCLES
        found = [moved(state, pair, most=most) or state for state, pair in zip(current, factors, strict=True)]
    pairs = zip(current, found, strict=True)
    return [(_halfway(old.left, new.left), _halfway(old.right, new.right)) for old, new in pairs]


def _halfway(one: float, other: float) -> float:
    return 0.5 * one + 0.5 * other
