"""Values of tokens as colours over the frames of a video.

Letters: T H W frames and pixels, t h w token grid.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from evaluation.segmentation.clustering import ClusteringConfig, cluster_clip, reduce_tokens
from evaluation.segmentation.pictures import COLOURS, overlay

from .sheets import Colour, nearest

HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)  # low to high
MASKED = np.array((223, 228, 234), float)  # what masked tubelets are blended with
MOST_COLOURS = len(COLOURS)


def clusters_of(tokens_thwD: np.ndarray, number: int, *, seed: int) -> np.ndarray:
    """(t, h, w) clusters of a video's tokens, the largest first: as of TimeTuning, on tubelets in the place of pixels.

    The tokens are standardised and reduced together, each is one point of k-means.

    Raises:
        ValueError: fewer tokens than clusters.
    """
    t, h, w, _ = tokens_thwD.shape
    if number > t * h * w:
        raise ValueError(f"--clusters {number}: the clips have {t * h * w} tokens")
    config = ClusteringConfig(upsample="labels", kmeans_points=0)
    reduced = reduce_tokens([tokens_thwD], config.pca_dim)[0]
    clusters = cluster_clip(reduced, number, (h, w), config, seed=seed)
    order = np.bincount(clusters.ravel(), minlength=number).argsort()[::-1]
    return order.argsort()[clusters]


def colour_of(place: int) -> Colour:
    """The colour of a cluster or prototype, from 0 on."""
    red, green, blue = (int(value) for value in COLOURS[place % MOST_COLOURS])
    return red, green, blue


def show_labels(frames: np.ndarray, labels_thw: np.ndarray) -> np.ndarray:
    """Frames (T, S, S, 3), the tubelets of each label blended with its colour; those of -1 are left as they are."""
    side = frames.shape[1]
    return overlay(frames, nearest(in_time(labels_thw, len(frames)), side) + 1)


def show_colours(colours_thw3: np.ndarray, side: int, num_frames: int) -> np.ndarray:
    """(T, S, S, 3) uint8: a colour in [0, 1] for each tubelet."""
    planes = [nearest(in_time(colours_thw3[..., channel], num_frames), side) for channel in range(3)]
    return (255 * np.stack(planes, axis=-1)).round().astype(np.uint8)


def show_heat(frames: np.ndarray, values_thw: np.ndarray, *, low: float, high: float) -> np.ndarray:
    """Frames (T, S, S, 3) in grey under colours from `low`, dark, to `high`, bright; values between tokens bilinear."""
    spread = torch.from_numpy((values_thw - low) / max(high - low, 1e-12)).float()[:, None]
    smooth = F.interpolate(spread, size=frames.shape[1:3], mode="bilinear", align_corners=False)[:, 0].numpy()
    grey = frames.mean(axis=-1, keepdims=True)
    return (0.4 * grey + 0.6 * heat(in_time(smooth, len(frames)))).round().astype(np.uint8)


def heat(values: np.ndarray) -> np.ndarray:
    """(..., 3) float colours of values from 0 to 1."""
    places = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, places, HEAT[:, channel]) for channel in range(3)], axis=-1)


def show_visible(frames: np.ndarray, mask_thw: np.ndarray) -> np.ndarray:
    """Frames (T, S, S, 3) whose masked tubelets are faded."""
    masked = nearest(in_time(mask_thw, len(frames)), frames.shape[1])[..., None]
    faded = 0.2 * frames.mean(axis=-1, keepdims=True) + 0.8 * MASKED
    return np.where(masked, faded, frames).round().astype(np.uint8)


def in_time(values_t: np.ndarray, num_frames: int) -> np.ndarray:
    """(t, ...) -> (T, ...): a value for every frame of its tubelet."""
    return values_t.repeat(num_frames // len(values_t), axis=0)


def shares(labels: np.ndarray, shown: Sequence[int]) -> list[float]:
    """Parts of the labels that the shown ones are, in percent."""
    return [100 * float((labels == label).mean()) for label in shown]
