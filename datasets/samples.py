"""Shared by all training samples: the random stream of a sample, and replacements for videos that cannot be decoded."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from .errors import DecodeError
from .lists.video_list import Span, VideoList, sample_name
from .loading.workers import reading, worker_number

MAX_REPLACEMENTS = 10

Failure = tuple[str, str, int]  # path (with its span), reason, number of the worker

T = TypeVar("T")


def sample_rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The random stream of one sample: no other state decides what a sample looks like."""
    return np.random.default_rng([seed, epoch, index, repeat])


def sample_rngs(seed: int, key: Sequence[int], num_repeats: int) -> list[np.random.Generator]:
    """A stream for each repeat of a sample, none of which another sample of the run has.

    Args:
        key: (epoch, index), and where the epoch shows the video again, its occurrence: see `loading.orders`.
    """
    epoch, index, *occurrence = key
    first = sum(occurrence) * num_repeats
    return [sample_rng(seed, epoch, index, repeat) for repeat in range(first, first + num_repeats)]


def read_or_replace(
    videos: VideoList, index: int, *, rng: np.random.Generator, read: Callable[[str, Span | None], T]
) -> tuple[T, int, list[Failure]]:
    """What `read` makes of a video; one that cannot be decoded is replaced by another, drawn from `rng`.

    Args:
        videos: the list.
        index: the video asked for.
        rng: the sample's own stream.
        read: path, and span or None -> frames, or what else is read of the video.

    Returns:
        What was read; the index of the video it comes from; the failures: of every video that could not be decoded its
        path, the reason, and the number of this worker (-1 outside of one).

    Raises:
        DecodeError: the video and its MAX_REPLACEMENTS replacements all failed; the error is that of the last.
    """
    failures: list[Failure] = []
    while True:
        path, span = videos.paths[index], videos.span(index)
        try:
            with reading(path):
                return read(path, span), index, failures
        except DecodeError as error:
            failures.append((sample_name(path, span), error.reason, worker_number()))
            if len(failures) > MAX_REPLACEMENTS:
                others = len({failed for failed, *_ in failures}) - 1
                raise DecodeError(
                    path,
                    f"{error.reason}; nor can {others} other videos of {videos.file} be decoded that were tried before "
                    "it. scripts/data/check.py tests all of them",
                ) from error
        index = int(rng.integers(len(videos)))
