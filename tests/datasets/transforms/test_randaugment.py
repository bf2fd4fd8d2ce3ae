"""RandAugment on clips against PIL (the reference, one frame at a time, as timm applies it)."""

import numpy as np
import pytest
import torch
from PIL import Image

import sigma_video.compat  # noqa: F401  (before timm, which imports torchvision)

# isort: split
from timm.data import auto_augment as timm_ops

from datasets.transforms.randaugment import OPS, RandAugment, RandAugmentConfig, level_value, parse_config

TIMM_INCREASING = {
    name: {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}.get(name, name) for name in OPS
} | {name: f"{name}Increasing" for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")}
TIMM_PLAIN = {name: timm_name.removesuffix("Increasing") for name, timm_name in TIMM_INCREASING.items()}
SIGNED = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}


def smooth_frames(num_frames: int = 2, height: int = 60, width: int = 83) -> torch.Tensor:
    """Smooth, colourful frames that differ from each other: uint8 (T, 3, H, W)."""
    t, c, y, x = np.meshgrid(np.arange(num_frames), np.arange(3), np.arange(height), np.arange(width), indexing="ij")
    waves = 120 + 60 * np.sin(x / 9 + c + t) + 50 * np.cos(y / 7 - c + 2 * t)
    return torch.from_numpy(waves.clip(3, 250).astype(np.uint8))


def per_frame_pil(frames: torch.Tensor, timm_name: str, args: tuple, resample: int) -> torch.Tensor:
    """timm's function on every frame by itself."""
    function = timm_ops.NAME_TO_OP[timm_name]
    done = [
        function(Image.fromarray(frame.permute(1, 2, 0).numpy()), *args, fillcolor=(128, 128, 128), resample=resample)
        for frame in frames
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in done])).permute(0, 3, 1, 2)


def timm_args(timm_name: str, level: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> tuple:
    monkeypatch.setattr(timm_ops, "_randomly_negate", lambda value: sign * value)
    level_fn = timm_ops.LEVEL_TO_ARG[timm_name]
    return () if level_fn is None else level_fn(level, {})


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", OPS)
def test_levels_equal_timm(name, increasing, monkeypatch):
    timm_name = (TIMM_INCREASING if increasing else TIMM_PLAIN)[name]
    for level in (0.0, 0.3, 2.5, 7.0, 7.49, 9.99, 10.0):
        for sign in (1, -1):
            expected = timm_args(timm_name, level, sign, monkeypatch)
            value = level_value(name, level, sign=sign, increasing=increasing)
            assert value == pytest.approx(expected[0] if expected else 0)


def test_values_of_the_published_recipe():
    """Magnitude 7 of the increasing set, by the tables of timm.data.auto_augment."""
    values = {name: level_value(name, 7, sign=1, increasing=True) for name in OPS}
    assert values["Rotate"] == pytest.approx(21)
    assert (values["Posterize"], values["Solarize"], values["SolarizeAdd"]) == (2, 77, 77)
    assert values["Color"] == pytest.approx(1.63)
    assert values["ShearX"] == pytest.approx(0.21)
    assert values["TranslateY"] == pytest.approx(0.315)


MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
OFF_BY_ONE = {"Color": 0.5, "Contrast": 0.25, "AutoContrast": 0.02}  # largest share of values; else equal


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPS)
def test_operations_equal_pil(name, sign, interpolation, monkeypatch):
    frames = smooth_frames()
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    for level in (0.0, 3.0, 7.0, 9.9):
        args = timm_args(TIMM_INCREASING[name], level, sign, monkeypatch)
        expected = per_frame_pil(frames, TIMM_INCREASING[name], args, resample)
        value = level_value(name, level, sign=sign, increasing=True)
        difference = OPS[name](frames, value, interpolation).int() - expected.int()
        # a pixel whose source lies on the very border may fall on either side of it
        assert (difference.abs() > 1).float().mean() < 1e-3
        if name in MOVES:  # PIL cuts fractions off, which are rounded here
            assert (difference < 0).float().mean() < 1e-3 and difference.clamp(0, 1).float().mean() < 0.5
        else:
            assert difference.abs().float().mean() <= OFF_BY_ONE.get(name, 0)


@pytest.mark.parametrize("name", sorted(set(OPS) - SIGNED))
def test_plain_set_equals_pil(name, monkeypatch):
    frames = smooth_frames()
    for level in (3.0, 4.0, 10.0):
        args = timm_args(TIMM_PLAIN[name], level, 1, monkeypatch)
        expected = per_frame_pil(frames, TIMM_PLAIN[name], args, Image.Resampling.BICUBIC)
        actual = OPS[name](frames, level_value(name, level, sign=1, increasing=False), "bicubic")
        assert (actual.int() - expected.int()).abs().max() <= 2


def test_no_bits_left_is_black():
    """What PIL did before it refused 0 bits; timm still asks for them at either end of the scale."""
    assert not OPS["Posterize"](smooth_frames(), 0, "bicubic").any()


def test_fill_is_grey_and_outside_is_not_blended():
    frames = torch.full((2, 3, 20, 20), 255, dtype=torch.uint8)
    moved = OPS["TranslateX"](frames, 0.225, "bilinear")  # 4.5 pixels
    assert set(moved.unique().tolist()) == {128, 255}
    assert (moved[..., -4:] == 128).all()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_all_frames_of_a_clip_get_the_same(interpolation):
    frames = smooth_frames(1).expand(5, -1, -1, -1)
    augment = RandAugment("rand-m7-n4-mstd0.5-inc1", interpolation=interpolation)
    changed = 0
    for seed in range(12):
        augmented = augment(frames, np.random.default_rng(seed))
        assert augmented.shape == frames.shape and augmented.dtype == torch.uint8
        assert (augmented == augmented[:1]).all()
        changed += not torch.equal(augmented, frames)
    assert changed > 6


def test_one_frame_alone_equals_the_frame_in_its_clip():
    """Statistics (AutoContrast, Equalize, Contrast) are per frame: the neighbours do not matter."""
    frames = smooth_frames(3)
    for name in OPS:
        value = level_value(name, 7, sign=1, increasing=True)
        whole = OPS[name](frames, value, "bilinear")
        alone = torch.cat([OPS[name](frame[None], value, "bilinear") for frame in frames])
        assert (whole.int() - alone.int()).abs().max() <= 1, name


def test_draws_come_from_the_generator_only():
    frames = smooth_frames()
    augment = RandAugment("rand-m7-n4-mstd0.5-inc1")
    before = frames.clone()
    first = augment(frames, np.random.default_rng(3))
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(first, augment(frames, np.random.default_rng(3)))
    assert torch.equal(frames, before)


def test_prob_and_magnitude_statistics(monkeypatch):
    seen: list[tuple[str, float]] = []

    def record(name):
        return lambda frames, value, interpolation: (seen.append((name, value)), frames)[1]

    for name in OPS:
        monkeypatch.setitem(OPS, name, record(name))
    augment = RandAugment("rand-m7-n4-mstd0.5-inc1")
    rng = np.random.default_rng(0)
    for _ in range(3000):
        augment(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), rng)
    assert len(seen) == pytest.approx(3000 * 4 * 0.5, rel=0.05)
    counts = [sum(1 for name, _ in seen if name == wanted) for wanted in OPS]
    assert min(counts) > 0.8 * len(seen) / len(OPS)
    degrees = np.array([value for name, value in seen if name == "Rotate"])
    assert np.abs(degrees).mean() == pytest.approx(21, abs=0.3) and np.abs(degrees).max() <= 30
    assert np.abs(degrees).std() == pytest.approx(1.5, abs=0.3)
    assert abs((degrees > 0).mean() - 0.5) < 0.1


def test_parse_config():
    assert parse_config("rand-m7-n4-mstd0.5-inc1") == RandAugmentConfig(7, 4, 0.5, 0.5, True)
    assert parse_config("rand-n3-p0.7") == RandAugmentConfig(10, 3, 0.7, 0, False)
    assert parse_config("rand") == RandAugmentConfig()
    assert not parse_config("rand-m9-inc0").increasing  # the released parser takes any inc as on


@pytest.mark.parametrize(
    "text",
    ["augmix-m3", "rand-x3", "rand-m", "rand-minc", "rand-m11", "rand-p1.5", "rand-inc2", "rand-n2.5", "rand-m1-m2"]
    + ["rand-mmax20", "rand-tweights", "rand--m3", "v0"],
)
def test_unreadable_config_names_flag_and_text(text):
    with pytest.raises(ValueError, match="--aa " + text):
        parse_config(text)


def test_unknown_interpolation():
    with pytest.raises(ValueError, match="--train_interpolation nearest"):
        RandAugment("rand-m7", interpolation="nearest")
