"""Which frames make a clip of so many frames a second (`--fps`): pure functions of the times of the frames.

Words: `times` are the seconds at which the frames of a video are shown, rising; a clip shows its T frames 1 / fps
seconds apart and so lasts T / fps seconds, its window. Of each moment the nearest frame is taken, so that times that
are rounded to a tick, or rates that are nearly the same (29.97 and 30), neither skip nor repeat a frame. A clip that
goes beyond the end of the video repeats the last frame.

In a video of constant rate r, `fps` r / n gives every n-th frame.
"""

import numpy as np

_TICK = 1e-3  # seconds: some files round times to it
_MARGIN = 1e-6  # seconds: sums of times are not exact


def draw_timed_clip(times: np.ndarray, clip_len: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """A clip that starts at any frame from which its window fits; at frame 0 in a video shorter than the window."""
    return _clip_from(times, times[rng.integers(_num_starts(times, clip_len, fps))], clip_len, fps)


def timed_clips(times: np.ndarray, clip_len: int, fps: float, num_clips: int) -> list[np.ndarray]:
    """`num_clips` clips, evenly placed from the start to the end of the video; one clip lies in the middle."""
    last = times[_num_starts(times, clip_len, fps) - 1]
    first = times[0]
    places = [0.5] if num_clips == 1 else [clip / (num_clips - 1) for clip in range(num_clips)]
    starts = [times[_nearest(times, first + place * (last - first))] for place in places]
    return [_clip_from(times, start, clip_len, fps) for start in starts]


def _num_starts(times: np.ndarray, clip_len: int, fps: float) -> int:
    """The frames from which a whole window fits, at least one; a frame is shown until the next one, the last one as
    long as the frames are on average."""
    if len(times) == 1:
        return 1
    end = times[-1] + (times[-1] - times[0]) / (len(times) - 1)
    return max(int(np.searchsorted(times, end - clip_len / fps + _TICK, side="right")), 1)


def _clip_from(times: np.ndarray, start: float, clip_len: int, fps: float) -> np.ndarray:
    return _nearest(times, start + np.arange(clip_len) / fps)


def _nearest(times: np.ndarray, moments: np.ndarray | float) -> np.ndarray:
    """The frames that are shown nearest to some moments, the earlier one of two that are as near."""
    after = np.searchsorted(times, moments).clip(1, len(times) - 1) if len(times) > 1 else np.zeros_like(moments, int)
    before = np.maximum(after - 1, 0)
    return np.where(moments - times[before] <= times[after] - moments + _MARGIN, before, after).astype(np.int64)
