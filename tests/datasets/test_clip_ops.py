"""The quick operations on clips against torchvision's whole-clip ones and against the general warp."""

import pytest
import torch

import compat  # noqa: F401  (before torchvision)

# isort: split
from torchvision.transforms.v2 import functional as F

from datasets import clip_ops
from datasets.clip_ops import to_pixels, to_planes


def make_clip(kind, height=61, width=83):
    generator = torch.Generator().manual_seed(0)
    if kind == "noise":
        return torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=generator)
    if kind == "dull":  # few levels, and frames of a single one
        clip = torch.randint(90, 93, (3, 3, height, width), dtype=torch.uint8, generator=generator)
        clip[1, :2] = 200
        clip[2, :, 1:] = 0
        return clip
    coarse = torch.rand(3, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return (255 * smooth).clamp(0, 255).to(torch.uint8)


KINDS = ("noise", "dull", "smooth")
POINTWISE = {
    "auto_contrast": (F.autocontrast, [()]),
    "equalize": (F.equalize, [()]),
    "brightness": (F.adjust_brightness, [(0.1,), (0.37,), (1.63,), (1.9,)]),
    "contrast": (F.adjust_contrast, [(0.1,), (0.37,), (1.63,), (1.9,)]),
    "saturation": (F.adjust_saturation, [(0.1,), (0.37,), (1.63,), (1.9,)]),
    "sharpness": (F.adjust_sharpness, [(0.1,), (0.37,), (1.63,), (1.9,)]),
    "solarize": (F.solarize, [(0,), (77,), (255,)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", POINTWISE)
def test_equals_torchvision(name, kind):
    """To the bit, but for contrast: its mean over a frame may be summed in another order."""
    reference, values = POINTWISE[name]
    clip = make_clip(kind)
    for args in values:
        for frames in (clip, to_pixels(clip)):
            before = frames.clone()
            made = getattr(clip_ops, name)(frames, *args)
            off = (made.int() - reference(clip, *args).int()).abs()
            assert off.max() <= (name == "contrast") and (off > 0).float().mean() < 1e-3, args
            assert torch.equal(frames, before)


def test_frames_too_small_to_sharpen():
    clip = make_clip("noise", 2, 9)
    assert torch.equal(clip_ops.sharpness(clip, 1.9), clip)


@pytest.mark.parametrize("added", [0, 77, 110])
def test_solarize_add(added):
    clip = make_clip("noise")
    expected = torch.where(clip < 128, clip.int() + added, clip.int())
    assert torch.equal(clip_ops.solarize_add(clip, added).int(), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_lines_that_slide_equal_the_general_warp(kind, interpolation):
    """Moves along one axis are filtered, not gathered. Sums may round apart: by one level, in 1 of 1,000 values."""
    clip = make_clip(kind)
    for value in (0.0, 0.05, 0.21, -0.3, 1.7):
        for offset in (0.0, 4.0, -0.5, 26.1, -200.0):
            for matrix in ((1, value, offset, 0, 1, 0), (1, 0, 0, value, 1, offset)):
                made = clip_ops.warp(clip, matrix, interpolation)
                off = (made.int() - clip_ops._gather(clip, matrix, interpolation).int()).abs()
                assert off.max() <= 1 and (off > 0).float().mean() < 1e-3, matrix


def test_warp_in_several_blocks(monkeypatch):
    clip = make_clip("noise")
    matrix = (0.9, 0.3, -4.0, -0.2, 1.1, 6.0)
    whole = clip_ops.warp(clip, matrix, "bicubic")
    for block in (1, 83, 250, 900):
        monkeypatch.setattr(clip_ops, "_BLOCK", block)
        assert torch.equal(clip_ops.warp(clip, matrix, "bicubic"), whole)


def test_layouts():
    clip = make_clip("noise")
    pixels = to_pixels(clip)
    assert torch.equal(pixels, clip) and pixels.permute(0, 2, 3, 1).is_contiguous() and to_pixels(pixels) is pixels
    planes = to_planes(pixels)
    assert torch.equal(planes, clip) and planes.is_contiguous() and to_planes(planes) is planes
    part = pixels[..., 3:20, 5:]
    assert torch.equal(to_planes(part), part) and torch.equal(to_pixels(clip[..., 3:20, 5:]), part)
