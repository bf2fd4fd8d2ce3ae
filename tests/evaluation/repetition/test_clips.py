"""What the network sees of hypotheses, against what it is to say of them: measured in the pixels."""

import numpy as np
import pytest
import torch
from replicas_severe import passing

from evaluation.repetition.anchors import WHOLE
from evaluation.repetition.annotations import RepetitionDataConfig, read_repetitions
from evaluation.repetition.cycles import draw_state
from evaluation.repetition.segments import SegmentDataset, collate_segments
from evaluation.repetition.training import CountingTask

VIDEOS, SEGMENTS, FRAMES = 15, 90, 16


def phases(clips):
    """Where the square is in each frame of (B, 3, T, S, S), as a share of the width; NaN in padding: (B, T)."""
    columns = clips.mean((1, 3))
    columns = columns - columns.amin(-1, keepdim=True)
    turn = torch.exp(2j * torch.pi * torch.arange(columns.shape[-1]) / columns.shape[-1])
    found = torch.angle((columns * turn).sum(-1)) / (2 * torch.pi)
    return np.where((clips == 0).all(4).all(3).all(1), np.nan, found.numpy())


@pytest.mark.slow
def test_the_square_moves_as_fast_as_the_target_says(tmp_path):
    """Eight frames lie evenly over two cycles of a hypothesis: by 2/7 of a cycle of its own from one to the next."""
    passing(tmp_path, train=VIDEOS, val=0)
    videos = read_repetitions(RepetitionDataConfig(data_root=str(tmp_path)), "train")
    options = {"max_frames": 300, "redrawn": True, "size": 16, "flip": False, "seed": 0}
    segments = SegmentDataset(videos, segments_per_video=SEGMENTS // VIDEOS, **options)
    batch = collate_segments([segments[0, place] for place in range(SEGMENTS)])
    task, random = CountingTask(num_frames=FRAMES, regression_mean="all", seed=0), np.random.default_rng(0)
    firsts = batch.following[batch.starts].tolist()
    batch.states = [draw_state(*facts, random) for facts in zip(firsts, batch.counts, batch.lengths, strict=True)]
    shown, (classes, logs) = phases(task.clips(batch)), task._targets(batch)
    for branch, half in enumerate((shown[:, : FRAMES // 2], shown[:, FRAMES // 2 :])):
        steps = np.mod(np.diff(half), 1)
        known = (classes[:, branch, WHOLE] == 1).numpy() & (np.isfinite(steps).sum(1) >= 4)
        factor = np.log(2 / 7 / np.nanmedian(steps[known], axis=1))  # of the cycle over the hypothesis
        target = logs[known, branch, WHOLE].numpy()
        assert known.sum() >= 15 and target.std() > 0.2
        assert np.corrcoef(factor, target)[0, 1] > 0.95 and np.median(np.abs(factor - target)) < 0.1
