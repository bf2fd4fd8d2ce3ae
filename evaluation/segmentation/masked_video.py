"""What the evaluations need of a video with masks, and the error for masks that they cannot use.

Letters: T frames, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class MaskError(ValueError):
    """Masks that an evaluation cannot use; the message names the file and the remedy."""


class MaskedVideo(Protocol):
    """A sequence with a mask for every frame."""

    @property
    def name(self) -> str:
        """Of the sequence."""

    @property
    def masks(self) -> Sequence[Path]:
        """The mask files, a frame each."""

    def read_images(self, frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """(T, H, W, 3) uint8."""

    def read_masks(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """(T, H, W) uint8 labels."""

    def image_size(self) -> tuple[int, int]:
        """Height and width."""


def check_void(labels: Sequence[int], where: Path, *, void: int) -> None:
    """Raise MaskError where all but the background would be dropped as void."""
    if void in labels and not set(labels) - {0, void}:
        raise MaskError(
            f"{where}: labels 0 and {void} only, and {void} is void, so nothing would be left of the object; if it is "
            "the object's label, as in DAVIS 2016, give --void_label -1"
        )
