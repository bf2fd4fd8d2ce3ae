"""Scores of whole clips and sequences whose tokens say what they show: void pixels count for nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation.segmentation.clips import HUNGARIAN, ClipJob, score_clip
from evaluation.segmentation.clustering import ClusteringConfig
from evaluation.segmentation.propagation import PropagationConfig
from evaluation.segmentation.sequences import SequenceJob, evaluate_sequence

PATCH, FRAMES, SIZE = 4, 6, (32, 32)


@dataclass(frozen=True)
class InMemory:
    """Masks as a video of whose pictures nothing is asked."""

    labels: np.ndarray
    name: str = "dog"

    @property
    def masks(self):
        return [Path(f"{frame}.png") for frame in range(len(self.labels))]

    def image_size(self):
        return self.labels.shape[1:]

    def read_masks(self, frames, size=None):
        chosen = self.labels[list(frames)]
        return chosen if size is None else chosen[:, :: chosen.shape[1] // size[0], :: chosen.shape[2] // size[1]]


def squares():
    """Two squares that move by a token a frame."""
    labels = np.zeros((FRAMES, *SIZE), np.uint8)
    for frame in range(FRAMES):
        labels[frame, 4:16, 4 * frame : 4 * frame + 12] = 1
        labels[frame, 20:32, 20 - 4 * frame : 32 - 4 * frame] = 2
    return labels


def job(shown, *, void=255):
    """Tokens of the labels that are shown."""
    tokens = F.one_hot(torch.from_numpy(shown[:, ::PATCH, ::PATCH]).long(), 3).float()
    config = PropagationConfig(context=3)
    return SequenceJob(config=config, patch=PATCH, void=void, tokens=lambda video, size: tokens, size=SIZE)


def test_a_sequence_that_is_followed_has_all_recall_and_no_decay():
    found = evaluate_sequence(InMemory(squares()), job(squares()))
    assert list(found) == ["j_and_f", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay"]
    for metric, of_clips in found.items():
        assert of_clips[""].keys() == {"dog:1", "dog:2"}
        expected = 0 if metric.endswith("decay") else 100
        assert list(of_clips[""].values()) == pytest.approx([expected] * 2, abs=5)


def test_void_is_no_object_and_counts_as_background():
    labels = squares()
    labels[:, 16:20] = 255
    found = evaluate_sequence(InMemory(labels), job(squares()))
    without = evaluate_sequence(InMemory(np.where(labels == 255, 0, labels)), job(squares()))
    assert found == without and found["j_mean"][""].keys() == {"dog:1", "dog:2"}


def test_there_are_as_many_clusters_as_labels_and_void_is_none():
    """Three kinds of tokens, of which two are much alike; a third cluster would part them."""
    kinds = np.zeros((1, 4, 4), int)
    kinds[:, :, 2], kinds[:, :, 3] = 1, 2
    features = np.array([[0.0, 0.0], [1.0, 0.0], [40.0, 40.0]], np.float32)[kinds]
    masks = np.where(kinds == 2, 2, 1).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    masks[:, :2] = 255
    config = ClusteringConfig(upsample="labels", kmeans_restarts=1, overclusters=3)
    of = ClipJob(config=config, num_frames=1, tubelet=1, size=(16, 16), void=255, tokens=np.asarray)
    clip = np.zeros((1, 16, 16, 3), np.uint8)
    assert score_clip(clip, masks, features, of, name="dog", seed=0)[HUNGARIAN] == 100
