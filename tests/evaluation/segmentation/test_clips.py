"""Clips against their masks: how many clusters are asked for."""

import numpy as np

from evaluation.segmentation import clips
from evaluation.segmentation.clips import ClipJob, evaluate_clips
from evaluation.segmentation.clustering import ClusteringConfig

VOID = 255


class Video:
    """Squares of three labels and void; every pixel of an image says its label, and a video has its own brightness."""

    def __init__(self, name, brightness, labels):
        self.name, self.brightness = name, brightness
        self.mask = np.array(labels, np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        self.masks = [None] * 2

    def read_images(self, frames, size):
        shown = np.where(self.mask == VOID, 3, self.mask) * 20 + self.brightness
        return np.stack([np.stack([shown] * 3, axis=-1)] * len(frames)).astype(np.uint8)

    def read_masks(self, frames, size=None):
        return np.stack([self.mask] * len(frames))


def tokens(clip):
    """(2, 16, 16, 3) -> (1, 2, 2, 4): of each square its label as a vector, and the brightness."""
    values = clip[:1, ::8, ::8, 0].astype(float)
    return np.concatenate([np.eye(4)[(values // 20 % 4).astype(int)], values[..., None] // 80], axis=-1).astype("f4")


def job():
    config = ClusteringConfig(overclusters=4, kmeans_restarts=1, upsample="labels")
    return ClipJob(config, num_frames=2, tubelet=2, size=(16, 16), void=VOID, tokens=tokens)


def test_a_clip_is_put_into_as_many_clusters_as_it_has_labels(monkeypatch):
    """Void is no label."""
    asked, real = [], clips.cluster_clip
    monkeypatch.setattr(clips, "cluster_clip", lambda f, k, *args, **how: asked.append(k) or real(f, k, *args, **how))
    pair = [Video("a", 0, [[0, 1], [2, VOID]]), Video("b", 160, [[0, 1], [0, 1]])]
    alone = [evaluate_clips([video], job()) for video in pair]
    assert asked == [3, 4, 2, 4]
    assert alone[0]["miou_overclustering_precision"]["1"]["a"] == alone[1]["miou_hungarian"]["1"]["b"] == 100
    assert ClusteringConfig().fit_clips == 1  # one standardisation and PCA for each clip
