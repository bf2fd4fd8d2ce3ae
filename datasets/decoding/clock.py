"""When the frames of a video are shown: the times in the file, made to rise as a player makes them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_EQUAL = 0.01  # between two rates: times are rounded, to milliseconds in Matroska
_USUAL = Fraction(25)  # frames per second, where nothing tells


@dataclass(frozen=True, eq=False)
class Clock:
    """When each frame of a video is shown.

    Attributes:
        num_frames: at least one.
        ticks: int64 (num_frames,), rising, by the clock of the file; None where the format has no times.
        time_base: seconds a tick.
        header_rate: frames per second, as the header has it; None if it does not say.
    """

    num_frames: int
    ticks: np.ndarray | None
    time_base: Fraction
    header_rate: Fraction | None

    @property
    def start(self) -> float:
        """When the first frame is shown, in seconds; 0 without times."""
        return 0.0 if self.ticks is None else float(int(self.ticks[0]) * self.time_base)

    def seconds(self) -> np.ndarray | None:
        """From the first frame to each one: float64 (num_frames,); None without times and without a frame rate.

        Frames that have no times of their own are as far from one another as the rate of the header says.
        """
        if self.ticks is None:
            return None if self.header_rate is None else np.arange(self.num_frames) / float(self.header_rate)
        return (self.ticks - self.ticks[0]) * self.time_base.numerator / self.time_base.denominator

    def of_copy(self) -> tuple[np.ndarray, Fraction, Fraction]:
        """For another file with the same frames: ticks int64 (num_frames,) from 0 on, seconds a tick, rate."""
        rate = self.header_rate or _USUAL
        if self.ticks is None:
            return np.arange(self.num_frames), 1 / rate, rate
        return self.ticks - self.ticks[0], self.time_base, rate

    def rate(self) -> float | None:
        """Frames per second: what the header says, unless the times of the frames contradict it."""
        said = None if self.header_rate is None else float(self.header_rate)
        if self.ticks is None or self.num_frames < 2:
            return said
        measured = float((self.num_frames - 1) / (int(self.ticks[-1] - self.ticks[0]) * self.time_base))
        return said if said and abs(measured / said - 1) < _EQUAL else measured


def rises(times: Sequence[int | None]) -> bool:
    """Whether all times are known, and each is later than the one before."""
    return None not in times and bool((np.diff(np.asarray(times, np.int64)) > 0).all())


def mend_times(times: Sequence[int | None], step: int) -> np.ndarray:
    """Times of frames in the order they are shown -> times that rise: int64 (F,).

    What is right stays as it is. A frame that comes no later than the one before is shown one tick after that; if one
    time sticks out, so that the next one comes before it but after the frame before, it is the one that is mended. A
    clock that is set back, and runs on from there over several frames, goes on one `step` after the last frame. A
    frame without a time comes one `step` after the last.

    Args:
        times: in ticks; None where the file does not say.
        step: ticks from frame to frame where nothing says otherwise; at least one.
    """
    if rises(times):
        return np.asarray(times, np.int64)
    mended: list[int] = []
    shift = 0  # of the clock, since it was last set back
    for place, time in enumerate(times):
        last = mended[-1] if mended else None
        if time is None:
            mended.append(0 if last is None else last + step)
            if last is None:
                mended[0] = _first_known(times, step)
            continue
        shown = time + shift
        if last is not None and shown <= last:
            if len(mended) > 1 and mended[-2] + 1 < shown and not _exceeds(times, place + 1, last - shift):
                mended[-1] = mended[-2] + 1  # the frame before was the odd one
            elif _was_set_back(times, place, last - shift):
                shift = last + step - time
                shown = time + shift
            else:
                shown = last + 1
        mended.append(shown)
    return np.asarray(mended, np.int64)


def _first_known(times: Sequence[int | None], step: int) -> int:
    """The time of the first frame by that of the first one that has one."""
    known = next(((place, time) for place, time in enumerate(times) if time is not None), (0, 0))
    return known[1] - known[0] * step


def _exceeds(times: Sequence[int | None], place: int, bound: int) -> bool:
    """Whether there is a frame at a place that comes after `bound`."""
    time = times[place] if place < len(times) else None
    return time is not None and time > bound


_RUN = 3  # frames that make a clock that runs


def _was_set_back(times: Sequence[int | None], place: int, last: int) -> bool:
    """Whether the frames from a place on come no later than `last`, each after the one before, and the first goes back.

    Times that repeat because their ticks are coarse do not: after some that were mended they are behind as well.
    """
    run, before = [time for time in times[place : place + _RUN] if time is not None], times[place - 1]
    if before is not None and run[0] >= before:
        return False
    rises = all(one < other for one, other in itertools.pairwise(run))
    return len(run) == _RUN and rises and run[-1] <= last
