"""Clip transforms: against PIL and the formulas of the protocol, and the same draw for all frames."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.transforms.presets import (
    AugmentConfig,
    PretrainTransform,
    RandomErasing,
    TrainTransform,
    ValTransform,
    ViewTransform,
    random_crop_box,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "frame_indices.json").read_text())


def position_frames(height: int, width: int, num_frames: int = 2) -> torch.Tensor:
    """Red = column, green = row: uint8 (T, 3, H, W) in the decoders' layout, the channels last in memory."""
    frames = torch.zeros(num_frames, height, width, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(width).to(torch.uint8)
    frames[..., 1] = torch.arange(height).to(torch.uint8)[:, None]
    return frames.permute(0, 3, 1, 2)


def smooth_frames(height: int, width: int, num_frames: int = 2) -> torch.Tensor:
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    planes = [120 + 60 * np.sin(x / (9 + c) + t) + 50 * np.cos(y / 7 - c) for t in range(num_frames) for c in range(3)]
    return torch.from_numpy(np.stack(planes).reshape(num_frames, 3, height, width).astype(np.uint8))


def pil_resize(frame: torch.Tensor, height: int, width: int) -> torch.Tensor:
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def owns_its_pixels(clip: torch.Tensor) -> bool:
    """The channels last in memory, and nothing of the frames it was cut from kept alive."""
    pixels = clip.permute(0, 2, 3, 1)
    return pixels.is_contiguous() and clip.untyped_storage().nbytes() == clip.numel()


class ScriptedRng:
    """Hands out chosen integers in turn."""

    def __init__(self, *integers: int) -> None:
        self._integers = iter(integers)

    def integers(self, high: int) -> int:
        value = next(self._integers)
        assert 0 <= value < high
        return value


# ---- pre-training ----


def test_ten_crop_sizes():
    sizes = PretrainTransform(224).crop_sizes(256, 340)
    sides = [256, 224, 192, 168]  # trunc(256 * .66) = 168
    expected = {(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1}
    assert len(sizes) == 10 and set(sizes) == expected


@pytest.mark.parametrize(
    ("base", "first"), [(226, 224), (225, 224), (224, 224), (227, 227), (223, 223), (222, 222), (100, 100)]
)
def test_snapping_to_the_output_size(base, first):
    """Within two pixels, unless the frame is smaller."""
    assert PretrainTransform(224).crop_sizes(base, 400)[0] == (first, first)


def test_thirteen_places():
    frames = position_frames(64, 100)
    transform = PretrainTransform(64)  # the first pair is 64 x 64 of a 64 x 100 frame; the last 42 x 42
    corners = set()
    for place in range(13):
        out = transform(frames, ScriptedRng(0, place))
        corners.add(int(out[0, 0, 0, 0]))
    assert corners == {0, 9, 18, 27, 36}  # quarters of 36 pixels of room; none upwards
    places = {tuple(crop_centre(transform, frames, place)) for place in range(13)}
    assert len(places) == 13


def crop_centre(transform: PretrainTransform, frames: torch.Tensor, place: int) -> list[float]:
    """The centre of the smallest crop at a place, read off the picture."""
    out = transform(frames, ScriptedRng(9, place)).float()
    return [out[0, 0].mean().round().item(), out[0, 1].mean().round().item()]


def test_pretrain_crop_equals_pil():
    frames = smooth_frames(90, 120)
    out = PretrainTransform(48)(frames, ScriptedRng(4, 10))
    crop_width, crop_height = PretrainTransform(48).crop_sizes(90, 120)[4]
    left, top = 3 * ((120 - crop_width) // 4), (90 - crop_height) // 4
    crop = frames[..., top : top + crop_height, left : left + crop_width]
    expected = torch.stack([pil_resize(frame, 48, 48) for frame in crop])
    assert (out.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("augmentation", PretrainTransform.AUGMENTATIONS)
def test_pretrain_box_is_what_the_transform_takes(augmentation):
    """The same draws in the same order, whether the box is asked for or not."""
    frames, transform = smooth_frames(90, 120), PretrainTransform(48, augmentation)
    for seed in range(5):
        alone, whole = np.random.default_rng(seed), np.random.default_rng(seed)
        top, left, height, width = box = transform.draw_box(90, 120, alone)
        out = transform(frames, whole)
        assert torch.equal(transform.crop(frames, box), out) and alone.random() == whole.random()
        crop = frames[..., top : top + height, left : left + width]
        expected = torch.stack([pil_resize(frame, 48, 48) for frame in crop])
        assert (out.int() - expected.int()).abs().max() <= 1
    assert augmentation != "resize" or box == (0, 0, 90, 120)


def test_pretrain_resize_takes_the_whole_frame():
    frames = smooth_frames(60, 90)
    out = PretrainTransform(32, "resize")(frames, np.random.default_rng(0))
    expected = torch.stack([pil_resize(frame, 32, 32) for frame in frames])
    assert (out.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(40, 50), (300, 20), (7, 9), (224, 224), (223, 400)])
def test_pretrain_any_frame_size_and_no_flip(height, width):
    frames = position_frames(height, min(width, 255))
    transform = PretrainTransform(32)
    for seed in range(20):
        out = transform(frames, np.random.default_rng(seed))
        assert out.shape == (2, 3, 32, 32) and out.dtype == torch.uint8 and owns_its_pixels(out)
        assert torch.equal(out[0], out[1])
        assert (out[0, 0, :, 1:].int() >= out[0, 0, :, :-1].int() - 1).all()  # columns still rise: not flipped


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="multi_scale_crop, resize"):
        PretrainTransform(224, "colour")


# ---- training ----


def test_crop_boxes_follow_the_protocol():
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(240, 320, rng, min_area=0.25) for _ in range(4000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 240).all() and (left + width <= 320).all()
    area, aspect = height * width / (240 * 320), width / height
    assert area.min() > 0.245 and area.max() <= 1.0
    assert 0.74 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.35
    assert np.log(aspect).mean() > 0  # tall boxes do not fit this wide frame as often
    assert (top + height == 240).any() and (top == 0).any()  # both ends are included


@pytest.mark.parametrize(
    ("height", "width", "box"), [(20, 400, (0, 186, 20, 27)), (400, 20, (186, 0, 27, 20)), (1, 1, (0, 0, 1, 1))]
)
def test_crop_fallback_is_the_largest_centred_box(height, width, box):
    assert random_crop_box(height, width, np.random.default_rng(0), min_area=0.9) == box


def test_flip_is_switched_by_the_flag_alone():
    frames = position_frames(60, 80)
    with_flip, without = TrainTransform(32, flip=True), TrainTransform(32, flip=False)
    flipped = 0
    for seed in range(60):
        out = with_flip(frames, np.random.default_rng(seed))
        reference = without(frames, np.random.default_rng(seed))
        assert reference[0, 0, 0, 0] < reference[0, 0, 0, -1]
        is_flipped = bool(out[0, 0, 0, 0] > out[0, 0, 0, -1])
        assert torch.equal(out, reference.flip(-1) if is_flipped else reference)
        rng = np.random.default_rng(seed)
        random_crop_box(60, 80, rng, min_area=0.25)
        assert is_flipped == (rng.random() < 0.5)
        flipped += is_flipped
    assert 15 < flipped < 45


def test_smallest_crops():
    """25 % of the area in SIGMA's fine-tuning, 8 % in VideoMAE's."""
    assert (AugmentConfig().min_area, AugmentConfig(finetuning_crops=False).min_area) == (0.25, 0.08)
    assert AugmentConfig(min_crop_area=0.5).min_area == 0.5
    assert TrainTransform.from_config(AugmentConfig(), size=32, flip=False).min_area == 0.25


def test_training_erases_last():
    """With the draws that follow those of crop and flip."""
    frames = smooth_frames(60, 80)
    rng = np.random.default_rng(3)
    random_crop_box(60, 80, rng, min_area=0.25)
    flipped = TrainTransform(32, flip=True)(frames, np.random.default_rng(3))
    rng.random()  # for the flip
    erased = RandomErasing(1.0, mode="const", count=2)(flipped, rng)
    out = TrainTransform(32, flip=True, erase_prob=1.0, erase_mode="const", erase_count=2)(
        frames, np.random.default_rng(3)
    )
    assert torch.equal(out, erased) and not torch.equal(out, flipped)


def test_train_resize_has_no_antialias_filter():
    """Half-pixel bilinear, as on floats."""
    frames = smooth_frames(90, 90)
    out = TrainTransform(32, min_area=1.0)(frames[:, :, :, :], np.random.default_rng(1))
    top, left, height, width = random_crop_box(90, 90, np.random.default_rng(1), min_area=1.0)
    crop = frames[..., top : top + height, left : left + width].float()
    expected = torch.nn.functional.interpolate(crop, size=(32, 32), mode="bilinear", align_corners=False)
    assert (out.float() - expected).abs().max() < 1.5


def test_whole_training_recipe():
    frames = smooth_frames(60, 80, num_frames=4)
    transform = TrainTransform(32, aa="rand-m7-n4-mstd0.5-inc1", flip=True, erase_prob=1.0, interpolation="bicubic")
    first = transform(frames, np.random.default_rng(5))
    assert first.shape == (4, 3, 32, 32) and first.dtype == torch.uint8 and owns_its_pixels(first)
    assert torch.equal(first, transform(frames, np.random.default_rng(5)))
    assert not torch.equal(first, transform(frames, np.random.default_rng(6)))
    assert torch.equal(frames, smooth_frames(60, 80, num_frames=4))


@pytest.mark.parametrize("aa", ["", "none"])
def test_randaugment_can_be_switched_off(aa):
    assert TrainTransform(32, aa=aa).augment is None


# ---- random erasing ----


def erased_box(frames: torch.Tensor, out: torch.Tensor) -> tuple[slice, slice, torch.Tensor]:
    changed = (frames != out).any(dim=0).any(dim=0)
    rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
    box = slice(rows.min().item(), rows.max().item() + 1), slice(columns.min().item(), columns.max().item() + 1)
    return *box, changed


def test_erasing_pixel_noise():
    frames = torch.full((6, 3, 96, 96), 7, dtype=torch.uint8)
    areas = []
    for seed in range(40):
        out = RandomErasing(1.0)(frames, np.random.default_rng(seed))
        rows, columns, changed = erased_box(frames, out)
        noise = out[..., rows, columns]
        assert changed[rows, columns].float().mean() > 0.9  # one rectangle
        assert not torch.equal(noise[0], noise[1])  # fresh in every frame
        areas.append(noise[0, 0].numel() / 96**2)
        if noise[0, 0].numel() > 1500:
            # levels of N(0, 1) after normalisation, where they are not cut off
            median = noise.float().median(dim=-1).values.median(dim=-1).values.mean(dim=0) / 255
            torch.testing.assert_close(median, torch.tensor([0.485, 0.456, 0.406]), atol=0.02, rtol=0)
    assert 0.015 < min(areas) < 0.1 and 0.2 < max(areas) < 0.35


def test_erasing_probability_and_input_untouched():
    frames = torch.full((2, 3, 32, 32), 7, dtype=torch.uint8)
    rng = np.random.default_rng(0)
    hits = sum(not torch.equal(RandomErasing(0.25)(frames, rng), frames) for _ in range(400))
    assert 70 < hits < 130
    assert (frames == 7).all()


def test_erasing_modes():
    frames = torch.full((3, 3, 64, 64), 7, dtype=torch.uint8)
    for mode in ("const", "rand"):
        out = RandomErasing(1.0, mode=mode)(frames, np.random.default_rng(1))
        rows, columns, _ = erased_box(frames, out)
        colour = out[..., rows, columns]
        assert (colour == colour[:1, :, :1, :1]).all()
        if mode == "const":
            assert colour[0, :, 0, 0].tolist() == [124, 116, 104]  # 255 x (0.485, 0.456, 0.406)


def test_erasing_several_boxes_share_the_area():
    frames = torch.full((1, 3, 128, 128), 7, dtype=torch.uint8)
    erase = RandomErasing(1.0, mode="const", count=4)
    shares = [(erase(frames, np.random.default_rng(s)) != 7).any(dim=1).float().mean().item() for s in range(60)]
    assert max(shares) < 0.36


@pytest.mark.parametrize(
    ("options", "flag"), [({"mode": "noise"}, "--remode"), ({"count": 0}, "--recount"), ({"prob": 2.0}, "--reprob")]
)
def test_erasing_bad_options(options, flag):
    with pytest.raises(ValueError, match=flag):
        RandomErasing(**{"prob": 0.5} | options)


# ---- validation and test ----


@pytest.mark.parametrize(("height", "width"), [(48, 101), (101, 48), (64, 64), (20, 31)])
def test_validation_crop(height, width):
    frames = smooth_frames(height, width)
    out = ValTransform(32, 40)(frames)
    long = 40 * max(height, width) // min(height, width)
    size = (40, long) if height <= width else (long, 40)
    resized = torch.nn.functional.interpolate(frames.float(), size=size, mode="bilinear", align_corners=False)
    top, left = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    expected = resized[..., top : top + 32, left : left + 32]
    assert out.shape == (2, 3, 32, 32) and owns_its_pixels(out)
    assert (out.float() - expected).abs().max() < 1.5


def test_view_offsets_equal_the_released_ones():
    cases = [case for case in GOLDEN["kinetics_test"] if case["test_num_crop"] > 1]  # one crop: it divided by zero
    for case in cases[::5]:
        height, width, side, crops = (case[key] for key in ("height", "width", "short_side", "test_num_crop"))
        frames = smooth_frames(height, width, num_frames=1)
        views = ViewTransform(side, side, crops)(frames)
        assert views.shape == (crops, 1, 3, side, side)
        long = math.floor(side * max(height, width) / min(height, width))
        size = (long, side) if height >= width else (side, long)
        resized = torch.nn.functional.interpolate(frames.float(), size=size, mode="bilinear", align_corners=False)
        for view in case["views"][:crops]:
            start = slice(view["offset"], view["offset"] + side)
            expected = resized[..., start, :] if view["axis"] == "height" else resized[..., start]
            assert (views[view["crop"]].float() - expected).abs().max() < 1.5


def test_one_view_is_the_validation_crop():
    frames = smooth_frames(60, 80)
    assert torch.equal(ViewTransform(32, 48, 1)(frames)[0], ValTransform(32, 48)(frames))


@pytest.mark.parametrize("build", [lambda: ValTransform(224, 160), lambda: ViewTransform(224, 160, 3)])
def test_short_side_below_input_size(build):
    with pytest.raises(ValueError, match=r"--short_side_size 160.*--input_size 224"):
        build()
