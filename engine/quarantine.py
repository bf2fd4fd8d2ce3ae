"""Undecodable videos in training: counted, listed with their reasons, limited."""

import logging
from collections.abc import Iterable
from pathlib import Path

from engine.errors import BadVideosError

logger = logging.getLogger(__name__)

ALLOWED_ANYWAY = 3  # a tiny data set is not given up for its first bad file


class Quarantine:
    """The bad videos this rank met; each one is written to `bad_videos.txt` (path, reason, epoch) once."""

    def __init__(self, output_dir: str, *, num_videos: int, max_bad_fraction: float) -> None:
        self.file = Path(output_dir) / "bad_videos.txt" if output_dir else None
        self.num_videos = num_videos
        self.limit = max(int(max_bad_fraction * num_videos), ALLOWED_ANYWAY)
        self.reasons: dict[str, str] = {}

    def record(self, failures: Iterable[tuple[str, str]], *, epoch: int) -> None:
        """Take note of (path, reason) pairs.

        Raises:
            BadVideosError: more different videos than the limit.
        """
        for path, reason in failures:
            if path in self.reasons:
                continue
            self.reasons[path] = reason
            logger.warning("undecodable video, another one takes its place: %s: %s", path, reason)
            if self.file is not None:
                with self.file.open("a") as file:
                    file.write(f"{path}\t{reason}\tepoch {epoch}\n")
        if len(self.reasons) > self.limit:
            examples = "; ".join(f"{path}: {reason}" for path, reason in list(self.reasons.items())[:3])
            listed = f" All are listed in {self.file}." if self.file else ""
            raise BadVideosError(
                f"{len(self.reasons)} of {self.num_videos} videos cannot be decoded, more than the {self.limit} that "
                f"--max_bad_fraction allows: {examples}.{listed}"
            )
