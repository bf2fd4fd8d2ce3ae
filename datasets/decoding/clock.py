"""When the frames of a video are shown: the times in the file, made to rise as a player makes them."""

import itertools
from collections.abc import Sequence

import numpy as np


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
    if None not in times:
        plain = np.asarray(times, np.int64)
        if (np.diff(plain) > 0).all():
            return plain
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
    """Whether the frames from a place on come no later than `last`, each after the one before."""
    run = [time for time in times[place : place + _RUN] if time is not None]
    rises = all(one < other for one, other in itertools.pairwise(run))
    return len(run) == _RUN and rises and run[-1] <= last
