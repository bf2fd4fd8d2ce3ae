"""Pictures whose colour tags FFmpeg's conversion refuses: read as a picture without the tag, with a warning.

The matrix of a stream (ITU-T H.273, 8.3) says how YCbCr becomes RGB. FFmpeg knows those of the common standards. Of
others (YCgCo, ICtCp, constant luminance, reserved numbers; most often a wrong tag) it converts nothing at all, and
programs that play such files fall back on the matrix of pictures that have no tag.
"""

import logging

import av

_CONVERTED = frozenset((0, 1, 2, 4, 5, 6, 7, 9))  # RGB, BT.709, none, FCC, BT.601 (two), SMPTE 240M, BT.2020
UNSPECIFIED = 2  # of matrix, primaries and transfer characteristics alike
_warned: set[int] = set()

logger = logging.getLogger(__name__)


def is_converted(matrix: int) -> bool:
    """Whether a matrix is one that FFmpeg converts."""
    return matrix in _CONVERTED


def without_odd_matrix(frame: av.VideoFrame, path: str) -> av.VideoFrame:
    """The same frame, its matrix now "unspecified" if it was one that FFmpeg does not convert; warns once of each."""
    matrix = int(frame.colorspace)
    if matrix not in _CONVERTED:
        if matrix not in _warned:
            _warned.add(matrix)
            logger.warning(
                "%s: colour matrix %d is not one that FFmpeg converts: decoded as if the file did not name any, as "
                "players do; other files with it are not reported",
                path,
                matrix,
            )
        frame.colorspace = UNSPECIFIED
    return frame
