"""DAVIS's measures of a mask: region similarity J and boundary accuracy F (arXiv 1704.00675; CVPR 2016, Perazzi).

The numbers equal those of github.com/davisvideochallenge/davis2017-evaluation (commit ac7c43f), semi-supervised task.
Letters: T frames, H W pixels.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt

TOLERANCE = 0.008  # of the image's diagonal
PARTS = 4  # of a sequence, for the decay


@dataclass(frozen=True)
class ObjectScores:
    """(T,) J and F of one object, frame by frame."""

    j: np.ndarray
    f: np.ndarray


def score_objects(predicted: np.ndarray, truth: np.ndarray, objects: tuple[int, ...]) -> dict[int, ObjectScores]:
    """Scores of each object over a sequence, whose first and last frame do not count.

    Args:
        predicted, truth: (T, H, W) labels, T at least 3.

    Raises:
        ValueError: different shapes, or too few frames.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predictions are {predicted.shape}, masks {truth.shape}")
    if len(truth) < 3:
        raise ValueError(f"{len(truth)} frames; the first and the last do not count, so at least 3 are needed")
    scores = {}
    for label in objects:
        pairs = [(p == label, t == label) for p, t in zip(predicted[1:-1], truth[1:-1], strict=True)]
        scores[label] = ObjectScores(np.array([region(*p) for p in pairs]), np.array([boundary(*p) for p in pairs]))
    return scores


def region(predicted: np.ndarray, truth: np.ndarray) -> float:
    """J of two (H, W) bool masks: intersection over union, 1 where both are empty."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def boundary(predicted: np.ndarray, truth: np.ndarray) -> float:
    """F of two (H, W) bool masks: F1 of contour pixels that lie near the other mask's contour."""
    radius = np.ceil(TOLERANCE * np.linalg.norm(truth.shape))
    contours = contour(predicted), contour(truth)
    if not contours[0].any() or not contours[1].any():
        return float(not contours[0].any() and not contours[1].any())
    # The distance to the nearest contour pixel says which a disk of this radius around them would cover.
    near = [distance_transform_edt(~line) <= radius for line in contours]
    precision, recall = near[1][contours[0]].mean(), near[0][contours[1]].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that differ from the one to the right, below or diagonally below (Berkeley's seg2bmap)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall (share above 0.5) and decay (first minus last quarter) of an object's values."""
    ends = np.round(np.linspace(1, len(values), PARTS + 1) + 1e-10).astype(int) - 1
    quarters = [values[start : end + 1] for start, end in pairwise(ends)]
    return float(values.mean()), float((values > 0.5).mean()), float(quarters[0].mean() - quarters[-1].mean())
