"""Shared by all training samples: the random stream of a sample, and replacements for videos that cannot be decoded."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from .errors import DecodeError
from .lists.video_list import Span, VideoList, sample_name
from .loading.workers import reading, worker_number

MAX_REPLACEMENTS = 10

_NUM_EXAMPLES = 2  # that the error for a sample without any replacement names, beside the last video

T = TypeVar("T")


class Failure(NamedTuple):
    """A video that could not be decoded, and the one that took its place; paths have their spans."""

    path: str
    reason: str
    worker: int  # its number
    replacement: str


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
        What was read; the index of the video it comes from; the videos that could not be decoded, with the reason and
        the number of this worker (-1 outside of one).

    Raises:
        DecodeError: the video and its MAX_REPLACEMENTS replacements all failed; the error is that of the last, and
            names two others.
    """
    failed: dict[str, str] = {}  # by path, which may come again
    tries = 0
    while True:
        path, span = videos.paths[index], videos.span(index)
        name = sample_name(path, span)
        try:
            with reading(path):
                found = read(path, span)
            return found, index, [Failure(*failure, worker_number(), name) for failure in failed.items()]
        except DecodeError as error:
            failed[name] = error.reason
            tries += 1
            if tries > MAX_REPLACEMENTS:
                failed.pop(name)
                raise DecodeError(path, f"{error.reason}; {_nor_others(failed, videos)}") from error
        index = int(rng.integers(len(videos)))


def _nor_others(failed: Mapping[str, str], videos: VideoList) -> str:
    """Why a sample has no replacement: the reasons by path."""
    examples = "; ".join(f"{path}: {reason}" for path, reason in list(failed.items())[:_NUM_EXAMPLES])
    return (
        f"nor can {len(failed)} other videos of {videos.file} be decoded that were tried before it"
        f"{f' ({examples})' if examples else ''}. scripts/data/check.py tests all of them"
    )
