"""All back ends give the same frames, or none, of every kind of odd or broken file."""

import re

import numpy as np
import pytest
import torch
from odd_files import write_odd_files

from datasets.decoding.open import open_video
from datasets.errors import DecodeError


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_files(tmp_path_factory.mktemp("odd"))


def upright(frame, name):
    return torch.rot90(frame, dims=(1, 2)) if name == "turned.mp4" else frame  # the numbers were painted before


@pytest.mark.slow
def test_sixteen_frames_of_each(decoder, odd, read_number):
    """Spread over the file, as a clip of a test is; more than it has come again."""
    assert len(odd) == 19
    for name, file in odd.items():
        if file.numbers is not None:
            places = np.linspace(0, len(file.numbers) - 1, 16).astype(int)
            with open_video(file.path, decoder=decoder) as video:
                assert video.num_frames == len(file.numbers), name
                frames = video.get_frames(places)
            shown = [read_number(upright(frame, name)) for frame in frames]
            assert shown == [file.numbers[place] for place in places], name


def test_broken_ones_are_an_error_with_its_reason(decoder, odd):
    for name, file in odd.items():
        if file.numbers is None:
            with pytest.raises(DecodeError) as caught, open_video(file.path, decoder=decoder) as video:
                video.get_frames(range(0, 16, 4))
            assert caught.value.path == str(file.path)
            assert re.fullmatch(file.reason, caught.value.reason), name
