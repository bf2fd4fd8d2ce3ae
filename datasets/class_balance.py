"""What is done about classes of unequal size: weights in the loss, or as many clips of each (`--balanced_sampling`)."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigma_video.options import OptionError, Options, option

from .errors import AnnotationError
from .lists.text_files import at, numbered_lines

BALANCED = "balanced"


@dataclass(frozen=True, kw_only=True)
class BalanceConfig(Options):
    """How training makes up for classes of unequal size."""

    class_weights: str = option(
        "",
        "weights of the classes in the loss: a file, or balanced: videos / (classes x videos of the class)",
        metavar="FILE|balanced",
    )
    balanced_sampling: bool = option(False, "train on as many clips of one class as of another")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weights == BALANCED and self.balanced_sampling:
            raise OptionError(
                "--class_weights balanced and --balanced_sampling each make up for the sizes of the classes, both "
                "would do it twice: leave one out"
            )

    @property
    def flag(self) -> str:
        """The flag that needs a class of every video; "" if there is none."""
        return "--class_weights" if self.class_weights else "--balanced_sampling" if self.balanced_sampling else ""

    def weights(self, labels: Sequence[int], class_names: Sequence[str]) -> np.ndarray | None:
        """float64 (K,): factors on the loss of each class; None for none.

        Args:
            labels: classes of the training videos.
            class_names: of all K classes, in label order.

        Raises:
            AnnotationError: the file cannot be read, or has not a weight for every class.
        """
        if not self.class_weights:
            return None
        if self.class_weights == BALANCED:
            return balanced_weights(labels, len(class_names))
        return read_weights(Path(self.class_weights), class_names)


def balanced_weights(labels: Sequence[int], num_classes: int) -> np.ndarray:
    """V / (C * n_k) for class k with n_k of the V videos, C the number of classes with videos: float64 (num_classes,).

    A class without videos gets 0. The mean over the videos is 1. The rule is that of scikit-learn's
    `compute_class_weight("balanced")` (King and Zeng, Logistic regression in rare events data, 2001).
    """
    counts = np.bincount(np.asarray(labels, np.int64), minlength=num_classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def read_weights(file: Path, class_names: Sequence[str]) -> np.ndarray:
    """The weights in a file: one a line in label order, or `class,weight` lines with the names of the classes.

    Returns:
        float64 (K,).

    Raises:
        AnnotationError: there is no such file; a line that is none of these; not one weight of at least 0 for every
            class.
    """
    if not file.is_file():
        raise AnnotationError(f"--class_weights {file}: no such file; give a file of weights, or `{BALANCED}`")
    numbers = {name: number for number, name in enumerate(class_names)}
    found: dict[int, float] = {}
    for place, (line_number, line) in enumerate(numbered_lines(file)):
        name, comma, text = _name_and_weight(line)
        label = numbers.get(name, -1) if comma else place
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if place == 0 and comma and math.isnan(weight):
            raise AnnotationError(f"{at(file, 1)}: '{line:.60}' is a header; leave it out, every line is a class")
        if not 0 <= weight < math.inf:
            raise AnnotationError(f"{at(file, line_number)}: '{text:.60}' is not a weight: give a number of at least 0")
        if comma and label < 0:
            raise AnnotationError(f"{at(file, line_number)}: '{name:.60}' is none of the {len(class_names)} classes")
        if label in found:
            raise AnnotationError(f"{at(file, line_number)}: a second weight for class '{name:.60}'")
        found[label] = weight
    missing = [name for number, name in enumerate(class_names) if number not in found]
    if missing or len(found) > len(class_names):
        example = f", none for '{missing[0]}'" if missing else ""
        raise AnnotationError(
            f"{file}: {len(found)} weights for {len(class_names)} classes{example}: give one for each"
        )
    weights = np.array([found[number] for number in range(len(class_names))])
    if not weights.astype(np.float32).any():
        raise AnnotationError(f"{file}: all weights are 0, or too small for float32: nothing would be learnt")
    return weights


def _name_and_weight(line: str) -> tuple[str, str, str]:
    """The name of the class, quoted as csv quotes it or as it is, the comma, and the weight."""
    quoted = next(csv.reader([line], skipinitialspace=True)) if line.lstrip().startswith('"') else []
    if len(quoted) == 2:
        return quoted[0], ",", quoted[1]
    name, comma, text = line.rpartition(",")
    return name.strip(), comma, text
