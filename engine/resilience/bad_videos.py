"""Undecodable videos in training: logged with the reason, counted over all ranks, limited in number."""

import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sigma_video.terminal import printable

from ..distributed.collectives import gather_objects
from ..distributed.world import World
from ..errors import BadVideosError, naming

logger = logging.getLogger(__name__)

MIN_LIMIT = 3  # so that one bad file does not stop training on a tiny data set
_DEVIATIONS = 5.0  # of a Poisson distribution: by chance no run meets so many more than its share


class BadVideoLog:
    """Undecodable videos of all ranks, each once in `bad_videos.txt`: see `record`.

    A rank writes its own at once; the ranks synchronize at log steps.

    Args:
        output_dir: gets the file; "": there is none.
        num_videos: of the list.
        max_bad_fraction: of them, which are allowed.
        batch_size: videos of a batch of one rank.
    """

    def __init__(
        self, output_dir: str, *, num_videos: int, max_bad_fraction: float, batch_size: int, world: World
    ) -> None:
        self.file = Path(output_dir) / "bad_videos.txt" if output_dir else None
        self.num_videos, self.fraction = num_videos, max_bad_fraction
        self.batch_size, self.num_batches = batch_size * world.size, 0
        self.limit = max(int(max_bad_fraction * num_videos), MIN_LIMIT)
        self.world = world
        self.reasons: dict[str, str] = {}  # of all ranks, as of the last synchronization
        self.unsynced: dict[str, str] = {}  # of this rank, since then

    def record(self, failures: Iterable[tuple[Any, ...]], *, epoch: int) -> None:
        """Record the failures of a batch of this rank, (path, reason, worker id or -1, path of the replacement).

        A line of the file: path, reason, worker, epoch, and what took its place in that epoch, separated by tabs.
        """
        self.num_batches += 1
        for path, reason, worker, replacement in failures:
            if path in self.reasons or path in self.unsynced:
                continue
            self.unsynced[path] = reason
            logger.warning("undecodable video, replaced by another one: %s: %s", path, reason)
            if self.file is not None:
                place = f"rank {self.world.rank}" + (f" worker {worker}" if worker >= 0 else "")
                fields = path, reason, place, f"epoch {epoch}", f"replaced by {replacement}"
                _append(self.file, "\t".join(map(_one_field, fields)) + "\n")

    def num_unsynced(self) -> torch.Tensor:
        """() float on the device: failures of this rank that the others have not heard of; for `check`."""
        return torch.full((), float(len(self.unsynced)), device=self.world.device)

    def check(self, num_unsynced: int) -> None:
        """Synchronize over ranks if there is anything new. Every rank must call this.

        Args:
            num_unsynced: the sum over all ranks, or 0.

        Raises:
            BadVideosError: on all ranks, if there are more distinct videos than the limit, or so many among the first
                ones that there must be.
        """
        if not num_unsynced:
            return
        for reasons in gather_objects(self.unsynced):
            self.reasons |= reasons
        self.unsynced = {}
        tried = min(self.num_batches * self.batch_size, self.num_videos)
        expected = self.fraction * tried
        if len(self.reasons) > self.limit:
            tried, allowed = self.num_videos, f"more than the {self.limit} that --max_bad_fraction allows"
        elif len(self.reasons) > MIN_LIMIT + expected + _DEVIATIONS * math.sqrt(expected):
            allowed = f"far more than their share by --max_bad_fraction {self.fraction:g}, which is {expected:.3g}"
        else:
            return
        examples = "; ".join(f"{path}: {reason}" for path, reason in list(self.reasons.items())[:3])
        listed = f" All are listed in {self.file}." if self.file else ""
        first = "" if tried == self.num_videos else "the first "
        raise BadVideosError(
            f"{len(self.reasons)} of {first}{tried} videos cannot be decoded, {allowed}: {examples}.{listed}"
        )


def _append(file: Path, line: str) -> None:
    """Append a line in a single write call, so that lines of several ranks do not interleave."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        with naming(file):
            os.write(descriptor, line.encode(errors="surrogateescape"))
    finally:
        os.close(descriptor)


def _one_field(text: str) -> str:
    one_line = " ".join(text.split()) if any(mark in text for mark in "\t\n\r") else text
    return printable(one_line, keep_bytes=True)
