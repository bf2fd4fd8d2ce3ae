"""Scores of predictions, for numbers on the host. Letters: V videos, K classes."""

import numpy as np


def top_k(probabilities_VK: np.ndarray, labels_V: np.ndarray, k: int) -> float:
    """Percentage of videos whose class is among the k most probable ones (k at most K)."""
    k = min(k, probabilities_VK.shape[1])
    best = np.argpartition(-probabilities_VK, k - 1, axis=1)[:, :k]
    return 100 * float((best == labels_V[:, None]).any(axis=1).mean())


def mean_per_class(probabilities_VK: np.ndarray, labels_V: np.ndarray) -> float:
    """Top-1 accuracy of every class that occurs, averaged over classes; percent."""
    correct = probabilities_VK.argmax(axis=1) == labels_V
    return 100 * float(np.mean([correct[labels_V == label].mean() for label in np.unique(labels_V)]))


def legacy_cumulative(probabilities_VK: np.ndarray, labels_V: np.ndarray) -> float:
    """Top-1 accuracy over all videos of the classes up to c, averaged over the classes c that occur; percent.

    It is what the released code gives as mean per class (github.com/QUVA-Lab/SIGMA, commit 9876f09,
    engine_for_finetuning.py: the list of videos grows from class to class). Published values may be of this kind.
    """
    correct = probabilities_VK.argmax(axis=1) == labels_V
    return 100 * float(np.mean([correct[labels_V <= label].mean() for label in np.unique(labels_V)]))


def confusion_matrix(labels_V: np.ndarray, predicted_V: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 (K, K): videos of the class of the row for which the class of the column is predicted."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels_V, predicted_V), 1)
    return matrix


def average_precision(scores_V: np.ndarray, is_positive_V: np.ndarray) -> float:
    """Area under the steps of precision over recall, sum over n of (R_n - R_n-1) P_n; equal scores are one step.

    The definition is that of scikit-learn's `average_precision_score`. At least one video has to be positive.
    """
    order = np.argsort(-scores_V, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores_V[order])), len(order) - 1)  # of the videos with the same score
    hits = is_positive_V[order].cumsum()[last]
    recall = hits / hits[-1]
    return float((np.diff(recall, prepend=0.0) * hits / (last + 1)).sum())


def ranks(values_V: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values_V, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[places]


def spearman(predicted_V: np.ndarray, targets_V: np.ndarray) -> float | None:
    """Pearson's correlation of the ranks; None where all values on one side are equal."""
    both = np.stack([ranks(predicted_V), ranks(targets_V)])
    centred = both - both.mean(axis=1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(axis=1))
    return float(centred[0] @ centred[1] / lengths.prod()) if lengths.all() else None


def r_squared(predicted_V: np.ndarray, targets_V: np.ndarray) -> float | None:
    """1 - squared error / squared deviation from the mean of the targets; None where all targets are equal."""
    deviation = ((targets_V - targets_V.mean()) ** 2).sum()
    return float(1 - ((targets_V - predicted_V) ** 2).sum() / deviation) if np.ptp(targets_V) > 0 else None
