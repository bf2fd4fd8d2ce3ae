"""Anchors: what the network says of a cycle's length, what it learns, and how much a hypothesis changes by it.

The method is that of Zhang et al., Context-Aware and Scale-Insensitive Temporal Repetition Counting, CVPR 2020; numbers
from its code (github.com/Xiaodomgdomg/Deep-Temporal-Repetition-Counting, commit f7011d3).

Letters: S states, 2 branches (the past cycle, the future one), A anchors.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

ANCHORS = (0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0)  # lengths of a cycle over that of the hypothesis
WHOLE = ANCHORS.index(1.0)
NUM_OUTPUTS = 2 * len(ANCHORS) * 3  # of a state and an anchor: logits of no and of yes, logarithm of a factor
LEAST_RATIO = 0.5  # of the lengths of an anchor and of the cycle, the shorter over the longer, for a yes
OFFSET_WEIGHT = 50.0  # of the loss of factors, beside that of classes
IGNORED = -1
REGRESSION_MEANS = ("all", "positive")


def split_outputs(outputs: torch.Tensor) -> torch.Tensor:
    """(S, NUM_OUTPUTS) of the network -> float32 (S, 2, A, 3)."""
    return outputs.float().unflatten(1, (2, len(ANCHORS), 3))


def anchor_targets(offset: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """What a branch is to say of its anchors.

    Args:
        offset: frames from the state's frame to the same phase of the neighbouring cycle; IGNORED if it has none.
        length: frames of the hypothesised cycle.

    Returns:
        int64 (A,): 1 yes, 0 no, IGNORED; float64 (A,): the logarithm of the factor for a yes, else 0.
    """
    if offset == IGNORED:
        return np.full(len(ANCHORS), IGNORED), np.zeros(len(ANCHORS))
    true, anchors = offset + 1, length * np.array(ANCHORS)
    fits = np.minimum(true, anchors) / np.maximum(true, anchors) >= LEAST_RATIO
    return fits.astype(np.int64), np.where(fits, np.log(true / anchors), 0.0)


def best_factors(outputs: np.ndarray, *, limit: float) -> np.ndarray:
    """By what the past and the future cycle of each state are to be multiplied: float64 (S, 2).

    Args:
        outputs: (S, 2, A, 3).
        limit: of the logarithms of factors.
    """
    best = confidence(outputs).argmax(axis=2)
    logs = np.take_along_axis(outputs[..., 2], best[..., None], axis=2)[..., 0].astype(np.float64)
    return np.array(ANCHORS)[best] * np.exp(logs.clip(-limit, limit))


def confidence(outputs: np.ndarray) -> np.ndarray:
    """(S, 2, A, 3) -> (S, 2, A): the higher, the more probable is the anchor (the log-odds of a yes)."""
    return outputs[..., 1].astype(np.float64) - outputs[..., 0]


def anchor_loss(
    outputs: torch.Tensor,
    classes: torch.Tensor,
    logs: torch.Tensor,
    *,
    regression_mean: str = "all",
    all_reduce: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
    num_ranks: int = 1,
) -> dict[str, torch.Tensor]:
    """Cross-entropy of the classes, plus OFFSET_WEIGHT times the smooth L1 of the factors, summed over both branches.

    A mean goes over the states of all ranks, so that the gradients do not depend on how states are split over them. A
    branch without any anchor to learn has no loss (in the released code it is NaN).

    Args:
        outputs: float32 (S, 2, A, 3) with gradients.
        classes: int64 (S, 2, A); IGNORED ones are in no mean of classes.
        logs: float32 (S, 2, A), logarithms of factors, of anchors whose class is 1.
        regression_mean: "all": of the factors over all anchors, those without target as an error of 0; "positive":
            over those with one.
        all_reduce: sum over the ranks, in place.

    Returns:
        `loss`, and its parts `class_loss` and `offset_loss`, the latter with its weight.
    """
    known, yes = classes != IGNORED, classes == 1
    entropy = F.cross_entropy(outputs[..., :2].movedim(-1, 1), classes, ignore_index=IGNORED, reduction="none")
    errors = F.smooth_l1_loss(outputs[..., 2], logs, reduction="none") * yes
    counted = torch.ones_like(yes) if regression_mean == "all" else yes
    counts = torch.stack([known.sum(dim=(0, 2)), counted.sum(dim=(0, 2))]).float()  # (2, branch)
    per_rank = all_reduce(counts).clamp(min=1) / num_ranks
    class_loss = (entropy.sum(dim=(0, 2)) / per_rank[0]).sum()
    offset_loss = OFFSET_WEIGHT * (errors.sum(dim=(0, 2)) / per_rank[1]).sum()
    return {"loss": class_loss + offset_loss, "class_loss": class_loss, "offset_loss": offset_loss}
