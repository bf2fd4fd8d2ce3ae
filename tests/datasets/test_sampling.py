"""Frame indices equal the released code's (tests/golden/frame_indices.json), and hold up outside its range."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets import sampling

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "frame_indices.json").read_text())


def test_dense_test_clips_equal_golden():
    for case in GOLDEN["kinetics_test"]:
        clips = sampling.dense_test_indices(
            case["num_frames"], case["clip_len"], case["sampling_rate"], case["test_num_segment"]
        )
        assert len(clips) == case["test_num_segment"]
        for view in case["views"]:
            assert clips[view["clip"]].tolist() == view["frames"], case["num_frames"]


def test_crop_offsets_equal_golden():
    for case in GOLDEN["kinetics_test"]:
        offsets, axis = sampling.crop_offsets(case["height"], case["width"], case["short_side"], case["test_num_crop"])
        assert len(offsets) == case["test_num_crop"]
        for view in case["views"]:
            assert axis == view["axis"]
            if view["offset"] is not None:  # the released code divides by zero for one crop
                assert offsets[view["crop"]] == view["offset"]


def test_one_crop_is_the_centre():
    assert sampling.crop_offsets(256, 340, 224, 1) == ([36], "width")
    assert sampling.crop_offsets(340, 256, 224, 1) == ([36], "height")
    assert sampling.crop_offsets(100, 100, 224, 1) == ([0], "height")


def test_uniform_test_clips_equal_golden():
    for case in GOLDEN["ssv2_test"]:
        clips = sampling.uniform_test_indices(case["num_frames"], case["num_segments"], 2)
        assert [clip.tolist() for clip in clips] == case["clips"]


def test_dense_train_clip_equals_golden():
    for case in GOLDEN["kinetics_train"]:
        frames = sampling.dense_train_indices(case["num_frames"], case["clip_len"], case["sampling_rate"], case["end"])
        assert frames.tolist() == case["frames"]


def test_pretrain_clip_equals_golden():
    for case in GOLDEN["pretrain"]:
        frames = sampling.pretrain_indices(case["num_frames"], case["length"], case["sampling_rate"], case["offset"])
        assert frames.tolist() == case["frames"]


def walk(num_frames, length, stride, offset):
    """The rule as a walk, as kinetics.py of the released code takes it (QUVA-Lab/SIGMA 9876f09)."""
    frames = []
    for _ in range(length):
        frames.append(offset)
        if offset + 1 + stride < num_frames:
            offset += stride
    return frames


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_pretrain_clip_is_the_walk(stride):
    for num_frames in range(1, 80):
        for offset in range(num_frames):
            frames = sampling.pretrain_indices(num_frames, 16, stride, offset)
            assert frames.tolist() == walk(num_frames, 16, stride, offset)


def test_uniform_train_takes_one_frame_from_each_segment():
    for case in GOLDEN["ssv2_train_example"]:
        num_frames, num_segments = case["num_frames"], case["num_segments"]
        segment_len = num_frames // num_segments
        for seed in range(20):
            frames = sampling.uniform_train_indices(num_frames, num_segments, np.random.default_rng(seed))
            if segment_len == 0:  # the released code repeats frame 0; ours spreads
                assert frames.tolist() == [k * num_frames // num_segments for k in range(num_segments)]
            else:
                assert (frames // segment_len).tolist() == list(range(num_segments))


def test_uniform_train_reaches_every_frame_of_a_segment():
    rng = np.random.default_rng(0)
    drawn = np.stack([sampling.uniform_train_indices(50, 16, rng) for _ in range(200)])
    assert set(drawn.ravel()) == set(range(48))  # 2 left over are never drawn


def test_one_test_clip_is_the_middle():
    assert sampling.dense_test_indices(300, 16, 4, 1)[0][[0, -1]].tolist() == [116, 176]
    assert sampling.uniform_test_indices(32, 16, 1)[0].tolist() == list(range(1, 32, 2))


@pytest.mark.parametrize("num_clips", [1, 2, 3, 5, 7])
def test_uniform_test_clips_share_the_video(num_clips):
    for num_frames in (1, 5, 16, 33, 200, 1000):
        clips = sampling.uniform_test_indices(num_frames, 16, num_clips)
        assert [len(clip) for clip in clips] == [16] * num_clips
        frames = np.concatenate(clips)
        assert frames.min() >= 0 and frames.max() < num_frames
        if num_frames >= 16 * num_clips:
            assert len(set(frames)) == 16 * num_clips
            edges = np.arange(17) * num_frames // 16
            for clip in clips:  # one frame in each segment
                assert (edges[:-1] <= clip).all() and (clip < edges[1:]).all()


def test_draws_stay_inside_and_follow_the_generator():
    for num_frames in (1, 2, 3, 17, 63, 64, 65, 66, 300):
        for draw in (sampling.draw_pretrain_clip, sampling.draw_dense_train_clip):
            clips = [draw(num_frames, 16, 4, np.random.default_rng(seed)) for seed in range(50)]
            assert np.array_equal(clips[7], draw(num_frames, 16, 4, np.random.default_rng(7)))
            for clip in clips:
                assert clip.dtype == np.int64 and len(clip) == 16
                assert clip.min() >= 0 and clip.max() < num_frames
                assert (np.diff(clip) >= 0).all()


def test_pretrain_draw_reaches_first_and_last_window():
    rng = np.random.default_rng(0)
    starts = {int(sampling.draw_pretrain_clip(66, 16, 4, rng)[0]) for _ in range(100)}
    assert starts == {0, 1, 2}


def test_dense_draw_ends_anywhere_but_after_the_last_frame():
    rng = np.random.default_rng(0)
    lasts = {int(sampling.draw_dense_train_clip(67, 16, 4, rng)[-1]) for _ in range(100)}
    assert lasts == {63, 64, 65}


def test_middle_clips():
    for num_frames in (1, 5, 63, 64, 65, 66, 100, 300):
        dense = sampling.middle_dense_clip(num_frames, 16, 4)
        assert dense.max() < num_frames and len(dense) == 16
    assert sampling.middle_dense_clip(300, 16, 4)[[0, -1]].tolist() == [118, 181]
    assert sampling.middle_uniform_clip(160, 16).tolist() == list(range(5, 160, 10))


@pytest.mark.parametrize(
    "call",
    [
        lambda: sampling.pretrain_indices(0, 16, 4, 0),
        lambda: sampling.pretrain_indices(10, 16, 4, 10),
        lambda: sampling.dense_train_indices(100, 16, 4, None),
        lambda: sampling.dense_train_indices(100, 16, 4, 63),
        lambda: sampling.dense_test_indices(10, 16, 4, 0),
        lambda: sampling.uniform_test_indices(10, 16, 0),
        lambda: sampling.uniform_train_indices(0, 16, np.random.default_rng(0)),
        lambda: sampling.crop_offsets(10, 10, 10, 0),
    ],
)
def test_invalid_counts_are_refused(call):
    with pytest.raises(ValueError, match=r"must|outside"):
        call()


def test_strided_clips_by_hand():
    """16 frames 16 apart span 241; ten starts over the 59 that are left of 300, 59 / 9 = 6.56 apart."""
    clips = sampling.strided_test_indices(300, 16, 16, 10)
    assert [clip[0] for clip in clips] == [0, 7, 13, 20, 26, 33, 39, 46, 52, 59]
    assert all((np.diff(clip) == 16).all() for clip in clips) and clips[-1][-1] == 299
    assert [clip[0] for clip in sampling.strided_test_indices(10, 2, 4, 3)] == [0, 2, 5]  # of 5: 2.5 to the even 2
    assert sampling.strided_test_indices(300, 16, 16, 1)[0][0] == 29
    assert [clip.tolist() for clip in sampling.strided_test_indices(5, 4, 2, 2)] == [[0, 2, 4, 4]] * 2


def test_strided_training_clips_start_anywhere():
    """Also before a video that is shorter than the window, whose first frame is then repeated."""
    rng = np.random.default_rng(0)
    long = [sampling.draw_strided_clip(12, 4, 3, rng).tolist() for _ in range(100)]
    assert {tuple(clip) for clip in long} == {tuple(range(start, start + 12, 3)) for start in (0, 1, 2)}
    short = {tuple(sampling.draw_strided_clip(8, 4, 3, rng).tolist()) for _ in range(100)}
    assert short == {(0, 3, 6, 7), (0, 2, 5, 7), (0, 1, 4, 7)}
