"""Which way up a picture is shown: the display matrix that cameras and phones write, in its eight cases.

A matrix that is neither a turn by a multiple of 90 degrees nor a mirror image of one is taken for the nearest of the
eight, as VLC does: a picture of another shape would need corners that nobody filmed. A matrix of zeros says nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import av
import numpy as np
from av.buffer import Buffer

from .containers import side_data


class Orientation(NamedTuple):
    """What is done to a stored picture before it is shown, in this order.

    Attributes:
        transposed: rows and columns change places.
        flip_x: left and right change places.
        flip_y: top and bottom change places.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A stored picture (H, W, ...) as it is shown, (W, H, ...) if it is transposed; a view."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def describe(self) -> str:
        """In words: "turned by 90 degrees clockwise", "mirrored left to right", ...; "as stored" if nothing is done."""
        return _WORDS[self]

    @property
    def is_mirrored(self) -> bool:
        """Whether writing would be in mirror writing."""
        return (self.transposed + self.flip_x + self.flip_y) % 2 == 1


UPRIGHT = Orientation()
_WORDS = {
    UPRIGHT: "as stored",
    (True, True, False): "turned by 90 degrees clockwise",
    (False, True, True): "turned by 180 degrees",
    (True, False, True): "turned by 270 degrees clockwise",
    (False, True, False): "mirrored left to right",
    (False, False, True): "mirrored top to bottom",
    (True, False, False): "rows and columns exchanged",
    (True, True, True): "rows and columns exchanged, then turned by 180 degrees",
}


def from_matrix(matrix: Sequence[int] | np.ndarray) -> Orientation:
    """The orientation of a display matrix (ISO/IEC 14496-12, 8.3.2): a b u, c d v, x y w, in any fixed point.

    The stored point (p, q) is shown at (a p + c q + x, b p + d q + y).
    """
    a, b, _, c, d = (int(value) for value in matrix[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def is_exact(matrix: Sequence[int] | np.ndarray) -> bool:
    """Whether a matrix is one of the eight cases, to a thousandth."""
    a, b, _, c, d = (int(value) for value in matrix[:5])
    small, large = sorted((abs(a) + abs(d), abs(b) + abs(c)))
    return 1000 * small <= large


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The display matrix of a decoded frame: int32 (9,); None if it has none."""
    data = side_data(frame, "DISPLAYMATRIX")
    return None if data is None else np.frombuffer(memoryview(cast(Buffer, data)), np.int32).copy()


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """How a decoded frame is shown."""
    matrix = display_matrix(frame)
    return UPRIGHT if matrix is None else from_matrix(matrix)
