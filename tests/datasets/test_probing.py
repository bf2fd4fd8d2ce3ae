"""What a frozen encoder sees of a list: by the numbers painted into the frames."""

import numpy as np
import pytest
from videos import read_number, write_video

from datasets.catalogue import get_dataset_spec
from datasets.classification import ViewConfig
from datasets.lists.read import read_list
from datasets.probing import Chosen, FirstEpoch, Sight
from datasets.sampling import ClipConfig


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sight")
    for number in range(3):
        write_video(folder / f"{number}.mp4", 60, first=100 * number, width=64, height=64)
    (folder / "list.csv").write_text("".join(f"{folder}/{number}.mp4 {number}\n" for number in range(3)))
    return read_list(folder / "list.csv")


def sight(*, seed=0, **clip):
    """Whole frames in training."""
    spec, options = get_dataset_spec("Kinetics-400"), ClipConfig(num_frames=4, input_size=64, num_sample=2, **clip)
    options, views = ViewConfig(short_side_size=64).for_data_set(options, spec)
    return Sight(spec, options, views, lambda size, flip: lambda frames, rng: frames, 0.25, seed, "pyav")


def numbers(item):
    return [[read_number(frame) for frame in clip] for clip in item["clip"]]


def test_views_of_the_test_are_those_of_the_options_or_those_asked_for(listed):
    assert sight().test(listed)[1]["views"] == 5 * 3
    single = sight().test(listed, clips=1, crops=1)[1]
    assert single["views"] == 1 and numbers(single) == [[120, 124, 128, 132]]  # 6th to 9th of 15 that are 4 apart
    assert sight().test(listed, crops=1)[1]["views"] == 5


@pytest.mark.parametrize(
    ("clip", "stride", "trained"), [({}, 4, 15), ({"sampling_rate": 3}, 3, 11), ({"fps": 15.0}, 2, 6)]
)
def test_frames_are_as_far_apart_as_the_options_say(listed, clip, stride, trained):
    """In the test, and in training, where dense clips take both ends of their window; 30 frames a second are there."""
    of = sight(**clip)
    (tested,) = numbers(of.test(listed, clips=1, crops=1)[2])
    assert np.diff(tested).tolist() == [stride] * 3 and 200 <= tested[0] < 260
    first, again = numbers(of.train(listed)[0, 2])
    assert first[-1] - first[0] == trained and first == again


def test_training_clips_are_drawn_by_the_seed_and_by_the_sample(listed):
    drawn = [[numbers(sight(seed=seed).train(listed)[0, place]) for place in range(3)] for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    dataset = sight().train(listed)
    assert numbers(FirstEpoch(dataset)[2]) == drawn[0][2] and FirstEpoch(dataset)[2]["views"] == 2
    assert numbers(Chosen(dataset, [2, 0])[0, 1]) == drawn[0][0] and len(Chosen(dataset, [2, 0])) == 2
