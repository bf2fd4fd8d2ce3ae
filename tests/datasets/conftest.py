"""The writer of real, tiny videos, as fixtures."""

import pytest
import videos

from datasets.decoding.alternatives import why_missing
from datasets.decoding.open import BACKENDS


@pytest.fixture(scope="session")
def write_video():
    """`write_video(path, num_frames, ...)` -> path; see `videos.write_video`."""
    return videos.write_video


@pytest.fixture(scope="session")
def read_number():
    """`read_number(frame)` -> the number painted into a frame (3, H, W)."""
    return videos.read_number


@pytest.fixture(params=sorted(BACKENDS))
def decoder(request):
    """Every back end; one that is not installed is skipped, with the reason."""
    if request.param != "pyav" and (reason := why_missing(request.param)):
        pytest.skip(reason)
    return request.param
