"""Undecodable videos in training: counted over all ranks, listed with their reasons, limited."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from ..distributed.world import World, all_reduce_sum, gather_objects
from ..errors import BadVideosError

logger = logging.getLogger(__name__)

MIN_LIMIT = 3  # a tiny data set is not given up for its first bad file


class BadVideoLog:
    """The bad videos of all ranks; each goes once to `bad_videos.txt`: path, reason, worker, epoch, with tabs between.

    A rank writes what it meets at once; at log steps the ranks tell each other.
    """

    def __init__(self, output_dir: str, *, num_videos: int, max_bad_fraction: float, world: World) -> None:
        self.file = Path(output_dir) / "bad_videos.txt" if output_dir else None
        self.num_videos = num_videos
        self.limit = max(int(max_bad_fraction * num_videos), MIN_LIMIT)
        self.world = world
        self.reasons: dict[str, str] = {}  # of all ranks, as far as they have told
        self.unsynced: dict[str, str] = {}  # of this rank

    def record(self, failures: Iterable[tuple[str, str, int]], *, epoch: int) -> None:
        """Take note of what this rank met: (path, reason, number of the worker, -1 for none)."""
        for path, reason, worker in failures:
            if path in self.reasons or path in self.unsynced:
                continue
            self.unsynced[path] = reason
            logger.warning("undecodable video, another one takes its place: %s: %s", path, reason)
            if self.file is not None:
                place = f"rank {self.world.rank}" + (f" worker {worker}" if worker >= 0 else "")
                _append(self.file, f"{_one_field(path)}\t{_one_field(reason)}\t{place}\tepoch {epoch}\n")

    def check(self) -> None:
        """Tell the other ranks. Every rank must call this, at log steps: it waits for the device.

        Raises:
            BadVideosError: on all ranks, if they know more different videos than the limit together.
        """
        if not int(all_reduce_sum(torch.tensor(len(self.unsynced), device=self.world.device))):
            return
        for told in gather_objects(self.unsynced):
            self.reasons |= told
        self.unsynced = {}
        if len(self.reasons) > self.limit:
            examples = "; ".join(f"{path}: {reason}" for path, reason in list(self.reasons.items())[:3])
            listed = f" All are listed in {self.file}." if self.file else ""
            raise BadVideosError(
                f"{len(self.reasons)} of {self.num_videos} videos cannot be decoded, more than the {self.limit} that "
                f"--max_bad_fraction allows: {examples}.{listed}"
            )


def _append(file: Path, line: str) -> None:
    """Write a line in one call to the end of the file, so that lines of several ranks do not mix."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode(errors="surrogateescape"))
    finally:
        os.close(descriptor)


def _one_field(text: str) -> str:
    return " ".join(text.split()) if any(mark in text for mark in "\t\n\r") else text
