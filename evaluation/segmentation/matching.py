"""Scores of clusters against labels: each cluster is given a label, then the IoU of the labels is averaged.

Letters: P predicted clusters, G labels that occur.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

BACKGROUND = 0


@dataclass(frozen=True)
class Matched:
    """A clip's score, the IoU of each of its labels, and the label that each cluster was given."""

    miou: float
    ious: dict[int, float]
    label_of: dict[int, int]


def overlaps(clusters: np.ndarray, labels: np.ndarray, *, void: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that cluster and label share, (P, G), and their ids; void pixels are dropped before anything else.

    Raises:
        ValueError: different shapes, or every pixel is void.
    """
    if clusters.shape != labels.shape:
        raise ValueError(f"clusters are {clusters.shape}, labels {labels.shape}")
    counted = labels != void
    if not counted.any():
        raise ValueError("every pixel is void")
    ids_P, p = np.unique(clusters[counted], return_inverse=True)
    ids_G, g = np.unique(labels[counted], return_inverse=True)
    shared = np.bincount(p.ravel() * len(ids_G) + g.ravel(), minlength=len(ids_P) * len(ids_G))
    return shared.reshape(len(ids_P), len(ids_G)), ids_P, ids_G


def match_hungarian(clusters: np.ndarray, labels: np.ndarray, *, void: int = 255) -> Matched:
    """One cluster a label, so that the sum of IoUs is largest; clusters that are left over become background."""
    shared_PG, ids_P, ids_G = overlaps(clusters, labels, void=void)
    rows, columns = linear_sum_assignment(1 - _iou(shared_PG))
    label_of = {int(cluster): BACKGROUND for cluster in ids_P}
    label_of |= {int(ids_P[row]): int(ids_G[column]) for row, column in zip(rows, columns, strict=True)}
    return _score(shared_PG, ids_P, ids_G, label_of)


def match_many_to_one(clusters: np.ndarray, labels: np.ndarray, *, by: str = "precision", void: int = 255) -> Matched:
    """Every cluster goes to the label where it scores best, on a tie to the smallest; many may share a label.

    Args:
        by: "precision", |cluster and label| / |cluster|, or "iou" (greedy).
    """
    shared_PG, ids_P, ids_G = overlaps(clusters, labels, void=void)
    scores_PG = {"precision": lambda: shared_PG / shared_PG.sum(1, keepdims=True), "iou": lambda: _iou(shared_PG)}[by]()
    best_P = scores_PG.argmax(1)  # the first of equals, and the ids are sorted
    label_of = {int(cluster): int(ids_G[best]) for cluster, best in zip(ids_P, best_P, strict=True)}
    return _score(shared_PG, ids_P, ids_G, label_of)


def _iou(shared_PG: np.ndarray) -> np.ndarray:
    union_PG = shared_PG.sum(1, keepdims=True) + shared_PG.sum(0, keepdims=True) - shared_PG
    return shared_PG / union_PG  # no id without a pixel, so no empty union


def _score(shared_PG: np.ndarray, ids_P: np.ndarray, ids_G: np.ndarray, label_of: dict[int, int]) -> Matched:
    """IoU of every label that occurs, background among them, and their unweighted mean."""
    given_P = np.array([label_of[int(cluster)] for cluster in ids_P])
    ious = {}
    for column, label in enumerate(ids_G):
        rows = given_P == label
        hit = shared_PG[rows, column].sum()
        ious[int(label)] = float(hit / (shared_PG[rows].sum() + shared_PG[:, column].sum() - hit))
    return Matched(float(np.mean(list(ious.values()))), ious, label_of)
