"""Which frames make a clip, and which crop makes a view: pure functions of lengths and counts.

Words: a video has `num_frames` frames, numbered from 0; a clip is a list of frame indices, int64; the *window* of a
dense clip is `clip_len * stride` frames. Randomness comes only from the `numpy.random.Generator` handed in.

* *pretrain* and *dense*: consecutive frames a stride apart (Kinetics and most other data sets).
* *strided*: frames exactly a stride apart, the window is `(clip_len - 1) * stride + 1` frames (Charades).
* *uniform*: the video is cut into as many segments as the clip has frames, one frame from each (Something-Something).

The functions give the frames of the released code, which published numbers were measured with; its faults that only
crash or freeze a clip are not kept, and each docstring says so.
"""

from dataclasses import dataclass, replace

import numpy as np

from sigma_video.options import AT_LEAST_ONE, OptionError, Options, Rule, option

HIGHEST_FPS = 10_000  # a second: beyond what cameras of such data sets record
PRETRAINING_RATE = 2  # --sampling_rate of pre-training; in fine-tuning it is the data set's


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Options):
    """Which frames make a clip, and its size."""

    num_frames: int = option(16, "frames of a clip", rule=AT_LEAST_ONE)
    sampling_rate: int | None = option(
        None,
        f"every n-th frame of a video is in the clip; default: {PRETRAINING_RATE} in pre-training, the data set's in "
        "fine-tuning",
        rule=AT_LEAST_ONE,
    )
    fps: float | None = option(
        None,
        "frames a second in the clip, by the times of the video's frames; in place of --sampling_rate",
        rule=Rule(lambda fps: 0 < fps <= HIGHEST_FPS, f"must be a positive number, at most {HIGHEST_FPS}"),
        metavar="RATE",
    )
    input_size: int = option(
        224, "height and width of a clip in pixels; default: what the model's name says", rule=AT_LEAST_ONE
    )
    num_sample: int = option(1, "augmented clips of each decoded training clip", rule=AT_LEAST_ONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fps is not None and self.sampling_rate is not None:
            raise OptionError(
                f"--fps {self.fps:g} and --sampling_rate {self.sampling_rate} both say how far apart frames are: give "
                "one of them"
            )

    def with_rate(self, sampling_rate: int) -> "ClipConfig":
        """The options with this distance between frames where none is given."""
        return self if self.sampling_rate or self.fps else replace(self, sampling_rate=sampling_rate)

    @property
    def distance(self) -> str:
        """How far apart frames are, in words."""
        return f"stride {self.sampling_rate}" if self.fps is None else f"{self.fps:g} a second"

    @property
    def bytes_per_clip(self) -> int:
        """Memory of a clip: as uint8, and as the float32 that the model takes."""
        return 5 * 3 * self.num_frames * self.input_size**2

    def describe(self) -> str:
        """In words, for logs."""
        return f"{self.num_frames} frames at {self.distance}, {self.input_size}x{self.input_size}"


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


# ------------------------------------------------------------------------------------------------- pre-training


def pretrain_indices(num_frames: int, length: int, stride: int, offset: int) -> np.ndarray:
    """`length` frames from `offset` on, `stride` apart; a video that ends early repeats its last reached frame.

    As in the released code, a step is taken only when one more frame follows it, so the very last frame of a video
    is never reached.

    Raises:
        ValueError: a count below 1, or an offset outside the video.
    """
    _check_counts(num_frames=num_frames, length=length, stride=stride)
    if not 0 <= offset < num_frames:
        raise ValueError(f"offset {offset} is outside a video of {num_frames} frames")
    num_steps = max(num_frames - 2 - offset, 0) // stride  # steps that end before the last frame
    return offset + stride * np.minimum(np.arange(length), num_steps)


def draw_pretrain_clip(num_frames: int, length: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """A pre-training clip that starts anywhere its window fits; at frame 0 in a video shorter than the window."""
    offset = rng.integers(max(num_frames - length * stride, 0) + 1)
    return pretrain_indices(num_frames, length, stride, int(offset))


# ------------------------------------------------------------------------------------------------- dense


def dense_train_indices(num_frames: int, clip_len: int, stride: int, end: int | None) -> np.ndarray:
    """`clip_len` frames spread over the window that ends before frame `end`.

    The first and the last frame of the window are both taken, so the spacing is window / (clip_len - 1): 4.27 frames
    for 16 frames at stride 4. A video no longer than the window (`end` is ignored) is spread over
    `num_frames // stride` frames, followed by copies of its last one.

    Raises:
        ValueError: a count below 1; in a longer video an `end` that is None or outside window..num_frames.
    """
    _check_counts(num_frames=num_frames, clip_len=clip_len, stride=stride)
    window = clip_len * stride
    if num_frames <= window:
        spread = np.linspace(0, num_frames, num_frames // stride)
        padding = np.full(clip_len - len(spread), num_frames)
        return np.concatenate((spread, padding)).clip(0, num_frames - 1).astype(np.int64)
    if end is None or not window <= end <= num_frames:
        raise ValueError(f"end must lie in {window}..{num_frames}, not {end}")
    return np.linspace(end - window, end, clip_len).clip(end - window, end - 1).astype(np.int64)


def draw_dense_train_clip(num_frames: int, clip_len: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """A dense clip at a random place. As in the released code, a long video's last frame is never drawn."""
    window = clip_len * stride
    end = int(rng.integers(window, num_frames)) if num_frames > window else None
    return dense_train_indices(num_frames, clip_len, stride, end)


def middle_dense_clip(num_frames: int, clip_len: int, stride: int) -> np.ndarray:
    """The dense training clip whose window lies in the middle of the video; for validation, which must not be noisy."""
    window = clip_len * stride
    return dense_train_indices(num_frames, clip_len, stride, window + max(num_frames - window, 0) // 2)


def dense_test_indices(num_frames: int, clip_len: int, stride: int, num_clips: int) -> list[np.ndarray]:
    """`num_clips` clips, evenly placed from the start to the end of the video; one clip lies in the middle.

    Every `stride`-th frame of the video is a candidate; a video with fewer than `clip_len` candidates repeats the
    last one, and then all clips are the same.
    """
    _check_counts(num_frames=num_frames, clip_len=clip_len, stride=stride, num_clips=num_clips)
    candidates = np.arange(0, num_frames, stride)
    candidates = np.pad(candidates, (0, max(clip_len - len(candidates), 0)), mode="edge")
    slack = len(candidates) - clip_len
    starts = [slack // 2] if num_clips == 1 else [clip * slack // (num_clips - 1) for clip in range(num_clips)]
    return [candidates[start : start + clip_len] for start in starts]


# ------------------------------------------------------------------------------------------------- strided


def strided_indices(num_frames: int, clip_len: int, stride: int, start: int) -> np.ndarray:
    """`clip_len` frames `stride` apart from `start` on; those before the first or behind the last frame repeat it."""
    _check_counts(num_frames=num_frames, clip_len=clip_len, stride=stride)
    return (start + stride * np.arange(clip_len)).clip(0, num_frames - 1)


def _strided_slack(num_frames: int, clip_len: int, stride: int) -> int:
    """Frames of a video beyond the window of a strided clip; negative in one that is shorter."""
    return num_frames - ((clip_len - 1) * stride + 1)


def draw_strided_clip(num_frames: int, clip_len: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """A strided clip at a random place; that of a shorter video may begin before it, and then repeats the first frame.

    So does PySlowFast for Charades (github.com/facebookresearch/SlowFast, slowfast/datasets/charades.py).
    """
    slack = _strided_slack(num_frames, clip_len, stride)
    return strided_indices(num_frames, clip_len, stride, int(rng.integers(min(slack, 0), max(slack, 0) + 1)))


def strided_test_indices(num_frames: int, clip_len: int, stride: int, num_clips: int) -> list[np.ndarray]:
    """`num_clips` strided clips from the start to the end of the video, starts rounded half to even; one lies in the
    middle."""
    _check_counts(num_clips=num_clips)
    slack = max(_strided_slack(num_frames, clip_len, stride), 0)
    starts = [slack // 2] if num_clips == 1 else [round(slack * clip / (num_clips - 1)) for clip in range(num_clips)]
    return [strided_indices(num_frames, clip_len, stride, start) for start in starts]


# ------------------------------------------------------------------------------------------------- uniform


def uniform_train_indices(num_frames: int, num_segments: int, rng: np.random.Generator) -> np.ndarray:
    """One random frame from each of `num_segments` equal segments.

    The segments are `num_frames // num_segments` long; as in the released code the frames left over at the end are
    never drawn. A video with fewer frames than segments repeats frames evenly (the released code freezes such a clip
    at frame 0).
    """
    _check_counts(num_frames=num_frames, num_segments=num_segments)
    segment = np.arange(num_segments)
    segment_len = num_frames // num_segments
    if segment_len == 0:
        return segment * num_frames // num_segments
    return segment * segment_len + rng.integers(segment_len, size=num_segments)


def middle_uniform_clip(num_frames: int, num_segments: int) -> np.ndarray:
    """The middle frame of each segment; for validation, which must not be noisy."""
    return uniform_test_indices(num_frames, num_segments, 1)[0]


def uniform_test_indices(num_frames: int, num_segments: int, num_clips: int) -> list[np.ndarray]:
    """`num_clips` clips that share the video: clip c takes the frame at c / num_clips of each segment.

    One clip takes the middle of each segment. In a video with fewer frames than the clips ask for together, the
    sorted frames are dealt out to the clips in turn, as the released code does for its two clips.
    """
    _check_counts(num_frames=num_frames, num_segments=num_segments, num_clips=num_clips)
    if num_clips == 1:
        return [(2 * np.arange(num_segments) + 1) * num_frames // (2 * num_segments)]
    num_points = num_segments * num_clips  # in whole numbers: k * (num_frames / num_points) can fall short of a frame
    frames = np.arange(num_points) * num_frames // num_points
    return [frames[clip::num_clips] for clip in range(num_clips)]


# ------------------------------------------------------------------------------------------------- crops


def crop_offsets(height: int, width: int, short_side: int, num_crops: int) -> tuple[list[int], str]:
    """Where square crops of `short_side` pixels lie along the longer side of a resized video.

    Args:
        height, width: size of the video before its short side is resized to `short_side`.
        num_crops: evenly placed crops; one crop lies in the centre.

    Returns:
        The offsets in pixels of the resized video, and the axis they run along: "height" (also when square) or "width".
    """
    _check_counts(height=height, width=width, short_side=short_side, num_crops=num_crops)
    slack = short_side * max(height, width) // min(height, width) - short_side
    offsets = [slack // 2] if num_crops == 1 else [crop * slack // (num_crops - 1) for crop in range(num_crops)]
    return offsets, "height" if height >= width else "width"
