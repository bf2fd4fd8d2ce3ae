"""When each class of a video is seen, in lists with actions that begin and end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Moment = tuple[float, float, int]  # first and last frame or second, both included, and the class seen there
UNITS = ("frames", "seconds")


@dataclass(frozen=True)
class Moments:
    """The moments of all videos of a list.

    Attributes:
        unit: one of UNITS; frames are numbered from 0.
        by_video: of each video, in the list's order; empty where no class is seen.
        picture_rate: pictures a second of a folder of frames, which has no times of its own.
    """

    unit: str
    by_video: Sequence[Sequence[Moment]]
    picture_rate: float

    def of(self, places: Sequence[int]) -> "Moments":
        """Those of the videos at these places of the list."""
        return replace(self, by_video=tuple(self.by_video[place] for place in places))

    def classes(self, index: int, shown: np.ndarray) -> tuple[int, ...]:
        """The classes, sorted, of a video that are seen in one or more of some frames.

        Args:
            shown: numbers of the frames, or the seconds at which they are shown, in ascending order.
        """
        moments = self.by_video[index]
        begun = np.searchsorted(shown, [first for first, _, _ in moments])
        ended = np.searchsorted(shown, [last for _, last, _ in moments], side="right")
        return tuple(sorted({moments[i][2] for i in np.flatnonzero(begun < ended).tolist()}))
