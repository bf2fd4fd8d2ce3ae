"""Counting the videos of a list, and which targets the states of a training step have."""

import contextlib
from types import SimpleNamespace

import numpy as np
import torch

from engine.distributed.world import World
from evaluation.repetition import counting
from evaluation.repetition.anchors import NUM_OUTPUTS, anchor_targets
from evaluation.repetition.counting import Counter
from evaluation.repetition.cycles import State
from evaluation.repetition.segments import SegmentBatch
from evaluation.repetition.training import CountingTask


class Watched(torch.nn.Module):
    """Notes in which mode it is asked; its weight would keep a graph."""

    def __init__(self):
        super().__init__()
        self.weight, self.modes = torch.nn.Parameter(torch.zeros(NUM_OUTPUTS)), set()

    def forward(self, clips):
        self.modes.add((self.training, torch.is_grad_enabled()))
        return self.weight.expand(len(clips), -1)


def test_any_number_of_videos_is_counted_without_gradients(monkeypatch):
    """In the list's order, and more than 150, where the released code's table of results ends; the mode comes back."""
    monkeypatch.setattr(counting, "count_cycles", lambda frames, ask: frames + int(ask([State(0, 3, 7)]).sum()))
    videos = [SimpleNamespace(clip=torch.zeros(1, 9 + n, 3, 2, 2, dtype=torch.uint8), index=[n]) for n in range(151)]
    counter = Counter(
        World(0, 1, 0, torch.device("cpu")),
        loader=videos[::-1],
        names=[f"v{n}" for n in range(151)],
        num_frames=4,
        clips_at_once=64,
        autocast=contextlib.nullcontext(),
    )
    model = Watched().train()
    assert counter(model).tolist() == list(range(9, 160))
    assert model.modes == {(False, False)} and model.training and torch.is_grad_enabled()


def test_states_have_the_targets_of_their_own_frame_and_of_the_one_after():
    """Whatever number stands for no target, such a branch is left out of the loss; so is a future past the end."""
    batch = SegmentBatch(
        frames=torch.zeros(50, 3, 2, 2, dtype=torch.uint8),
        following=torch.arange(50) % 19 + 5,
        previous=torch.arange(50) % 23 + 4,
        lengths=[20, 30],
        counts=[2.0, 3.0],
        keys=[(0, 0), (0, 1)],
        index=torch.arange(2),
        states=[State(3, 9, 16), State(20, 29, 41)],  # the second one in the last frame of its segment
    )
    batch.previous[9] = -1
    classes, logs = CountingTask(num_frames=4, regression_mean="all", seed=0)._targets(batch)
    expected = [
        [anchor_targets(-1, 7), anchor_targets(15, 7)],  # frame 9 of the first segment, and 10
        [anchor_targets(7, 10), anchor_targets(-1, 12)],  # frame 29 of the second, which is 49 of all
    ]
    assert classes.tolist() == [[branch[0].tolist() for branch in row] for row in expected]
    np.testing.assert_allclose(logs, [[branch[1] for branch in row] for row in expected], rtol=1e-6)
    assert classes[0, 0].eq(-1).all() and classes[1, 1].eq(-1).all() and classes[0, 1].ne(-1).all()
