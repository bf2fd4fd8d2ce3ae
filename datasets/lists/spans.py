"""Part of a video, from one second to another, as a video of its own: which of its frames are meant."""

import numpy as np

from ..decoding.pyav import PyAVReader
from ..decoding.reader import VideoReader
from ..errors import DecodeError
from ..moments import Moments
from .video_list import Span, describe_span


def frames_within(video: VideoReader, path: str, span: Span | None) -> range:
    """The numbers of the frames that are shown at or after the start of a span, in seconds, and before its end.

    Second 0 is when the first frame is shown, whatever the file's clock says then.

    Args:
        video: the open video.
        path: its path.
        span: (start, end); None for the whole video.

    Raises:
        DecodeError: no frame is shown then; or nothing tells when frames are shown, as of pictures.
    """
    if span is None:
        return range(video.num_frames)
    times = _times(video, path, span)
    first, last = np.searchsorted(times, span).tolist()
    if first == last:
        last_time = f"the last of {len(times)} comes at {times[-1]:g} s"
        raise DecodeError(path, f"no frame is shown {describe_span(span)}: {last_time}")
    return range(first, last)


def times_within(video: VideoReader, path: str, frames: range) -> np.ndarray:
    """Seconds from the first frame of the video to each of these; for `--fps`.

    Raises:
        DecodeError: nothing tells when frames are shown, as of pictures.
    """
    return _times(video, path)[frames.start : frames.stop]


def shown_between(video: VideoReader, moments: Moments, first: int, last: int) -> np.ndarray:
    """What moments count of the frames from `first` to `last`, both included: their numbers, or their seconds.

    Raises:
        DecodeError: seconds are asked for, and the video does not say when its frames are shown.
    """
    numbers = np.arange(first, last + 1)
    if moments.unit == "frames":
        return numbers
    if video.decoder == "frames":
        return numbers / moments.picture_rate
    return _times(video, video.path)[first : last + 1]


def _times(video: VideoReader, path: str, span: Span | None = None) -> np.ndarray:
    """Seconds from the first frame to each one; those of PyAV, which the other back ends agree with."""
    why = "--fps" if span is None else describe_span(span)
    if video.decoder == "frames":
        remedy = "give --sampling_rate instead" if span is None else "leave out start and end"
        raise DecodeError(path, f"{why}: pictures have no times; {remedy}")
    if isinstance(video, PyAVReader):
        times = video.clock.seconds()
    else:
        with PyAVReader(path) as reader:
            times = reader.clock.seconds()
    if times is None:
        raise DecodeError(path, f"{why}: the file does not say when its frames are shown")
    if len(times) != video.num_frames:
        raise DecodeError(path, f"{video.decoder} counts {video.num_frames} frames, PyAV {len(times)}")
    return times
