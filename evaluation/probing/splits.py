"""Which training samples choose, and which samples must not be in two lists."""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from .heads import ProbeError


def hold_out(labels: Sequence[int], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the samples that are trained on, and of those held out of each class, both rising.

    A class keeps at least one sample for training.

    Raises:
        ProbeError: nothing is held out.
    """
    classes, random = np.asarray(labels), np.random.default_rng(seed)
    held = []
    for label in np.unique(classes):
        places = random.permutation(np.flatnonzero(classes == label))
        held.append(places[: min(round(fraction * len(places)), len(places) - 1)])
    chosen = np.sort(np.concatenate(held))
    if not len(chosen):
        raise ProbeError(
            f"--holdout {fraction:g} of {len(classes)} training samples holds none out to choose on: give more, or a "
            "single value of --lrs and --weight_decays"
        )
    return np.setdiff1d(np.arange(len(classes)), chosen), chosen


def refuse_overlap(
    train: Iterable[tuple[str, object]], test: Iterable[tuple[str, object]], *, files: tuple[str, str]
) -> None:
    """Refuse lists that share samples, by path and span: a classifier would be asked for what it was shown.

    Args:
        files: of both lists, for the message.

    Raises:
        ProbeError: they do.
    """
    known = {(os.path.abspath(path), span) for path, span in train}
    common = [path for path, span in test if (os.path.abspath(path), span) in known]
    if common:
        raise ProbeError(
            f"{files[1]}: {len(common)} of its samples are in {files[0]} as well, first {common[0]}: train and test "
            "have to be disjoint"
        )
