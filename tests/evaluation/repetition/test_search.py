"""The search for cycles: the counts of the released code with a made-up network, and of perfect ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from evaluation.repetition.anchors import ANCHORS
from evaluation.repetition.counting import metrics
from evaluation.repetition.cycles import State, context_frames, scale_lengths
from evaluation.repetition.search import LEVELS, count_cycles, first_length, refine

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "repetition.json").read_text())


def made_up(frames, seed, cycle):
    """What a network might say that sees the numbers of 32 frames, -1 for those outside: an estimate with faults."""
    out = np.zeros((2, 7, 3))
    for branch, half in enumerate((frames[:16], frames[16:])):
        seen = half[half >= 0]
        distance = (seen[-1] - seen[0]) / max(len(seen) - 1, 1) if len(seen) > 1 else 1.0
        length, centre = max(distance * 15 / 2, 1.0), seen.mean() if len(seen) else 0.0
        true = cycle * (1 + 0.3 * math.sin(centre / 17 + seed))
        for k, anchor in enumerate(ANCHORS):
            q = math.log(true / (anchor * length))
            out[branch, k, 1] = -abs(q) * 2 + 0.3 * math.sin(seed * 7 + k * 3 + centre)
            out[branch, k, 2] = q * 0.8 + 0.1 * math.cos(seed + k + centre * 0.3)
    return out


def asker(num_frames, seed, cycle):
    def ask(states):
        frames = np.stack([context_frames(state, 32) for state in states]).astype(float)
        frames[(frames < 0) | (frames >= num_frames)] = -1
        return np.stack([made_up(row, seed, cycle) for row in frames])

    return ask


def test_counts_are_those_of_the_released_code():
    found = [count_cycles(frames, asker(frames, seed, cycle)) for frames, cycle, seed, _ in GOLDEN["searches"]]
    assert found == [count for *_, count in GOLDEN["searches"]]
    assert len(found) == 24 and min(found) == 2 and max(found) == 64


def perfect(cycle):
    """Knows the length of every cycle, and moves to it by the best anchor."""

    def ask(states):
        out = np.zeros((len(states), 2, 7, 3))
        for state, of_state in zip(states, out, strict=True):
            for length, of_branch in zip((state.past, state.future), of_state, strict=True):
                logs = np.log(cycle / (np.array(ANCHORS) * length))
                of_branch[:, 1], of_branch[:, 2] = -np.abs(logs), logs
        return out

    return ask


@pytest.mark.parametrize(("cycles", "length"), [(2, 40), (3, 33), (7, 24), (20, 14), (32, 17)])
def test_a_perfect_network_counts_right(cycles, length):
    assert count_cycles(cycles * length + 1, perfect(length)) == cycles


def test_the_first_length_is_the_most_confident_one():
    """100 frames: the scales go from 3 to 35; those that end under 4 or above half of the video do not count."""
    assert scale_lengths(100)[[0, -1]].tolist() == pytest.approx([3, 35])

    def ask(states):
        out = np.zeros((len(states), 2, 7, 3))
        out[:, 0, 3, 1] = [state.past for state in states]  # the longer, the more confident
        out[:, 0, :3, 1] = 99  # other anchors and the other branch do not count
        out[:, 1, :, 1] = 99
        out[:, 0, 3, 2] = 9.0  # is limited to a half
        return out

    longest = max(length for length in scale_lengths(100) * math.exp(0.5) if length < 50)
    expected = int(longest)
    for _ in range(4):
        better = expected * math.exp(0.5)
        expected = round(0.5 * expected + 0.5 * better) if better < 50 else expected
    assert first_length(100, ask) == expected
    assert first_length(8, lambda states: np.zeros((len(states), 2, 7, 3)) - np.array([0, 0, 9.0])) == 4  # nothing fits


def test_where_no_context_is_whole_the_first_length_counts():
    """A cycle of nearly half of the video: twice of it fits nowhere, so 100 / (N + 1) counts."""

    def ask(states):
        out = np.zeros((len(states), 2, 7, 3))
        out[:, :, 3, 1] = [[1 + state.past] * 2 for state in states]
        return out

    length = first_length(100, ask)
    assert count_cycles(100, ask) == round(100 / (length + 1)) and length > 33


def test_levels_ask_about_the_middles_of_groups():
    """2 points four times, 4 twice, 8, 16: and what is said of a middle holds for its group."""
    asked = []

    def ask(states):
        asked.append([int(state.middle) for state in states])
        return np.zeros((len(states), 2, 7, 3))  # the first anchor, a half

    points = [State(10 * k + 80, 10 * k + 100, 10 * k + 120) for k in range(32)]
    states = refine(points, 500, ask)
    assert [len(middles) for middles in asked] == [2] * 4 + [4] * 2 + [8, 16] and LEVELS == 5
    assert asked[0] == [180, 340] and asked[-1] == list(range(110, 420, 20))
    assert len({(state.middle - state.left, state.right - state.middle) for state in states}) == 1


def test_metrics_by_hand():
    """4 for 5, 12 for 10, 3 for 3: errors of a fifth, a fifth and none; two are off by at most one."""
    assert metrics(np.array([4, 12, 3]), np.array([5, 10, 3])) == pytest.approx({"MAE": 0.4 / 3, "OBO": 2 / 3})


@pytest.mark.parametrize(("part", "videos", "mae"), [("train", 421, 0.4295), ("val", 105, 0.4502)])
def test_always_three_has_the_known_error(part, videos, mae):
    """Of the published counts; a network above that has learnt nothing."""
    counts = np.array(GOLDEN["counts"][part])
    assert len(counts) == videos
    assert metrics(np.full(videos, 3), counts)["MAE"] == pytest.approx(mae, abs=5e-5)
