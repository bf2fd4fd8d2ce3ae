"""Clips in frames a second: every n-th frame where the rate is constant, the nearest frame where it is not."""

import numpy as np
import pytest
import torch
from videos import read_number, write_video

from datasets.classification import TrainDataset, ValDataset, ViewDataset
from datasets.clip_check import check_clips
from datasets.errors import DecodeError
from datasets.lists.read import read_list
from datasets.masks.masks import MaskConfig
from datasets.pretraining import PretrainDataset
from datasets.sampling import ClipConfig, draw_pretrain_clip
from datasets.sampling_by_time import draw_timed_clip, timed_clips
from datasets.transforms.presets import PretrainTransform
from sigma_video.options import OptionError


def constant(num_frames, rate):
    return np.arange(num_frames) / rate


@pytest.mark.parametrize("rate", [30.0, 30000 / 1001, 25.0, 8.0])
@pytest.mark.parametrize(
    ("num_frames", "length", "stride"), [(300, 16, 4), (64, 16, 4), (50, 4, 3), (7, 8, 2), (1, 4, 2)]
)
def test_constant_rates_give_every_nth_frame(rate, num_frames, length, stride):
    times = constant(num_frames, rate).round(4)  # as in a file that counts tenths of milliseconds
    for seed in range(20):
        clip = draw_timed_clip(times, length, rate / stride, np.random.default_rng(seed))
        start = clip[0]
        assert clip.tolist() == np.minimum(start + stride * np.arange(length), num_frames - 1).tolist()
        assert start == draw_pretrain_clip(num_frames, length, stride, np.random.default_rng(seed))[0]
    clips = timed_clips(times, length, rate / stride, 3)
    last = max(num_frames - length * stride, 0)
    assert [clip[0] for clip in clips] == [0, pytest.approx(last / 2, abs=0.5), last]
    (middle,) = timed_clips(times, length, rate / stride, 1)
    assert middle.tolist() == clips[1].tolist()


def test_a_rate_that_is_nearly_the_video_s_repeats_no_frame():
    times = constant(100, 30000 / 1001)
    assert timed_clips(times, 16, 30, 1)[0].tolist() == list(range(42, 58))


def test_variable_rates_take_the_nearest_frames():
    rng = np.random.default_rng(0)
    times = np.concatenate([[0], rng.exponential(0.04, size=400).cumsum()])
    for fps in (5.0, 12.5, 40.0):
        clip = draw_timed_clip(times, 16, fps, rng)
        moments = times[clip[0]] + np.arange(16) / fps
        nearest = np.abs(times[:, None] - moments).min(axis=0)
        np.testing.assert_allclose(np.abs(times[clip] - moments), nearest)


# a second at 30 frames a second, then a still picture every half second, as phones and screen recorders write
TIMES = [round(1000 * i / 30) for i in range(30)] + [1000 + 500 * i for i in range(12)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variable")
    write_video(folder / "a.mkv", len(TIMES), times=TIMES)
    (folder / "list.csv").write_text(f"{folder}/a.mkv 0\n")
    return read_list(folder / "list.csv")


def numbers(clip):
    return [read_number(frame) for frame in clip]


def test_real_videos_of_variable_rate(videos):
    """What is seen at half seconds, by the times of the frames; by counting, seconds would last as long as minutes."""
    options = {"sampler": "dense", "num_frames": 4, "fps": 2.0, "transform": lambda frames, *_: frames[None]}
    item = ViewDataset(videos, num_clips=3, **options)[0]
    seen = [numbers(clip) for clip in item["clip"]]
    assert seen == [[0, 15, 30, 31], [32, 33, 34, 35], [37, 38, 39, 40]]  # the last frame counts for 0.16 s
    options["transform"] = lambda frames, *_: frames
    assert numbers(ValDataset(videos, **options)[0]["clip"][0]) == seen[1]
    clip = numbers(TrainDataset(videos, seed=0, **options)[0, 0]["clip"][0])
    moments = np.array(TIMES)[clip] / 1000
    np.testing.assert_allclose(np.diff(moments), 0.5, atol=0.02)
    pretrain = PretrainDataset(
        videos,
        ClipConfig(num_frames=4, fps=2.0, input_size=32),
        MaskConfig(mask_ratio=0.5),
        transform=PretrainTransform(32),
        grid=(2, 2, 2),
        seed=0,
    )
    pretrain.transform = type("Whole", (), {"draw_box": lambda *_: None, "crop": lambda self, frames, box: frames})()
    clip = numbers(pretrain[0, 0]["clip"])
    np.testing.assert_allclose(np.diff(np.array(TIMES)[clip]) / 1000, 0.5, atol=0.02)


def test_parts_of_videos_have_times_of_their_own(videos, tmp_path):
    (tmp_path / "list.csv").write_text(f"path,label,start,end\n{videos.paths[0]},0,1.0,4.0\n")
    part = read_list(tmp_path / "list.csv")
    options = {"sampler": "dense", "num_frames": 3, "fps": 1.0, "transform": lambda frames: frames[None]}
    assert numbers(ViewDataset(part, num_clips=1, **options)[0]["clip"][0]) == [30, 32, 34]


def test_pictures_have_no_times(tmp_path):
    from PIL import Image

    (tmp_path / "v").mkdir()
    for i in range(4):
        Image.new("RGB", (32, 32)).save(tmp_path / "v" / f"{i}.png")
    (tmp_path / "list.csv").write_text(f"{tmp_path}/v 0\n")
    dataset = ViewDataset(
        read_list(tmp_path / "list.csv"), transform=torch.clone, sampler="dense", num_frames=2, fps=1.0, num_clips=1
    )
    with pytest.raises(DecodeError, match="--fps: pictures have no times; give --sampling_rate instead"):
        dataset[0]


def test_one_of_both_says_how_far_apart_frames_are():
    with pytest.raises(OptionError, match=r"--fps 7\.5 and --sampling_rate 4"):
        ClipConfig(fps=7.5, sampling_rate=4)
    assert ClipConfig(fps=7.5).with_rate(4).sampling_rate is None and ClipConfig().with_rate(4).sampling_rate == 4
    for wrong in (0.0, -1.0, 1e9, float("inf"), float("nan")):
        with pytest.raises(OptionError, match=r"--fps \S+: must be a"):
            ClipConfig(fps=wrong)


def test_rates_at_which_clips_stand_still_are_refused(tmp_path, caplog):
    """Thirty frames a second; one video of a single frame and a broken one prove nothing."""
    videos = [write_video(tmp_path / f"{i}.mp4", 1 if i == 1 else 60) for i in range(4)]
    (tmp_path / "broken.mp4").write_bytes(b"x" * 100)
    (tmp_path / "list.csv").write_text("".join(f"{video} 0\n" for video in [*videos, tmp_path / "broken.mp4"]))
    listed = read_list(tmp_path / "list.csv")

    def check(training, **rate):
        clip = ClipConfig(num_frames=8, input_size=32, **rate)
        if training:
            options = {"sampler": "dense", "num_frames": 8, "transform": lambda frames, rng: frames}
            dataset = TrainDataset(listed, seed=0, **options, **rate)
        else:
            options = {"transform": PretrainTransform(32), "grid": (4, 2, 2), "seed": 0}
            dataset = PretrainDataset(listed, clip, MaskConfig(mask_ratio=0.5), **options)
        check_clips(dataset, clip)

    for training in (False, True):
        for fps, number in ((5000, 1), (0.01, 2)):
            with pytest.raises(OptionError, match=rf"--fps {fps}: a clip of 8 frames would show {number} of a video"):
                check(training, fps=float(fps))
        for fps in (0.6, 3.0, 33.0):
            check(training, fps=fps)
        assert not caplog.records
        check(training, fps=60.0)
        assert "--fps 60: the videos looked at have 30 frames a second at most: frames repeat" in caplog.text
        caplog.clear()
        with pytest.raises(OptionError, match="--sampling_rate 500: a clip of 8 frames would show 1 of a video"):
            check(training, sampling_rate=500)
        check(training, sampling_rate=2)
