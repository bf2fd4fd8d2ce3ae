"""What a file says of its clips and of its scores, against values by hand, in one process."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.errors import AnnotationError
from datasets.loading.batch import Batch
from datasets.transforms.normalization import normalize_clips
from inference import views as own
from inference.load import made
from inference.predict import Prediction, Predictor
from inference.sources import Sample, find_samples, windows_of
from inference.video_model import VideoModel
from inference.views import Views, views_of_frames, with_sampling_rate
from models.registry import create_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"img_size": 32, "num_frames": 4, "num_classes": 3, "init_scale": 1.0}
    return create_model("vit_mini_patch8_32", **sizes)


def loaded(model, **args):
    return made(model, args, classifies=True, has_final_norm=False)


def test_a_short_side_holds_the_crop(model):
    """Also where the clip is larger than in training."""
    assert [loaded(model, short_side_size=side).clip.short_side_size for side in (24, 40)] == [32, 40]


def test_frames_are_as_far_apart_as_the_run_had_them(model):
    """Frames a second are not the stride of the data set; a stride that is asked for is in their place."""
    timed = loaded(model, fps=7.5, data_set="Kinetics-400")
    assert (timed.clip.fps, timed.clip.sampling_rate) == (7.5, None)
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    with pytest.raises(ValueError, match=r"7\.5 frames a second"):
        views_of_frames(frames, timed.clip, Views(1, 1))
    for of, stride in ((with_sampling_rate(timed, 3), 3), (loaded(model, data_set="Kinetics-400"), 4)):
        numbers = views_of_frames(frames, of.clip, Views(1, 1))[0, :, 0, 0, 0]
        assert np.diff(numbers.numpy().astype(int)).tolist() == [stride] * 3


@pytest.mark.parametrize(
    ("args", "views"),
    [
        ({}, "5x3"),
        ({"sampling": "uniform"}, "2x3"),
        ({"data_set": "SSV2"}, "2x3"),
        ({"data_set": "ImageNet-1K"}, "1x1"),
        ({"data_set": "SSV2", "test_num_segment": 7}, "7x3"),
        ({"sampling": "uniform", "test_num_crop": 1}, "2x1"),
    ],
)
def test_views_are_those_of_the_run_else_of_its_data_set(model, args, views):
    assert str(own.tested_views(loaded(model, **args))) == views


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, lambda outputs: outputs.softmax(1).mean(0)),
        ({"task": "multilabel"}, lambda outputs: outputs.sigmoid().mean(0)),
        ({"task": "multilabel", "view_pooling": "max"}, lambda outputs: outputs.sigmoid().amax(0)),
        ({"task": "regression", "target_scale": [10.0, 2.0]}, lambda outputs: 10 + 2 * outputs.double().mean(0)),
    ],
)
def test_scores_of_views_are_pooled_as_in_the_test(model, args, expected):
    of = loaded(model, **args)
    clips = torch.randint(256, (6, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = Predictor.of(of, nullcontext()).predict_batch(Batch(clips, torch.arange(2), views=3).to("cpu"))
    with torch.no_grad():
        rows = [expected(of.model(normalize_clips(video))) for video in clips.split(3)]
    np.testing.assert_allclose(found, torch.stack(rows).numpy(), rtol=1e-5)


def test_of_equal_scores_the_first_class_comes_first():
    assert Prediction(Sample("v"), np.array([0.2, 0.4, 0.4, 0.0])).labels(3) == [1, 2, 0]


def test_a_folder_is_several_videos_also_with_one(model, data, tmp_path):
    (tmp_path / "a.mp4").symlink_to(data.videos[0])
    of = VideoModel(loaded(model), torch.device("cpu"), "none")
    alone, several = of.features(tmp_path / "a.mp4"), of.features(tmp_path)
    assert alone.shape == (128,) and several.shape == (1, 128) and np.array_equal(alone, several[0])


def test_lists_of_any_task(tmp_path):
    """Of numbers, and of several classes; what cannot be read is said as for classes."""
    (tmp_path / "a.mp4").touch()
    listed = tmp_path / "list.csv"
    for label in ("1.5", "1;3"):
        listed.write_text(f"path,label\na.mp4,0\na.mp4,{label}\n")
        assert find_samples([listed], data_root=str(tmp_path)) == [Sample(str(tmp_path / "a.mp4"))] * 2
    listed.write_text("path,label\na.mp4,1.5\nb.mp4\n")
    with pytest.raises(AnnotationError, match=r"list\.csv"):
        find_samples([listed], data_root=str(tmp_path))


def test_folders_of_frames_are_videos(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    assert find_samples([tmp_path]) == [Sample(str(tmp_path / name)) for name in ("a", "b")]
    assert find_samples([tmp_path / "a"]) == [Sample(str(tmp_path / "a"))]


def test_windows_of_a_part_of_a_video(data):
    """30 frames a second: from 0.2 s to 0.8 s there are two windows of 0.3 s, and five that start 0.1 s apart."""
    part = Sample(str(data.videos[11]), (0.2, 0.8))
    assert [window.span for window in windows_of(part, 0.3, 0.3)] == [(0.2, 0.5), (0.5, 0.8)]
    starts = [window.span[0] for window in windows_of(part, 0.2, 0.1)]
    assert starts == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
