"""The writer of real, tiny videos, as fixtures."""

import pytest
import videos


@pytest.fixture(scope="session")
def write_video():
    """`write_video(path, num_frames, ...)` -> path; see `videos.write_video`."""
    return videos.write_video


@pytest.fixture(scope="session")
def read_number():
    """`read_number(frame)` -> the number painted into a frame (3, H, W)."""
    return videos.read_number
