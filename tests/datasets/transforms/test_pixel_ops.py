"""The quick operations on clips against torchvision's whole-clip ones; the warp against its definition."""

import pytest
import torch

import sigma_video.compat  # noqa: F401  (before torchvision)

# isort: split
from torchvision.transforms.v2 import functional as F

from datasets.transforms import affine as clip_warp
from datasets.transforms import pixel_ops as clip_ops
from datasets.transforms.pixel_ops import to_pixels, to_planes


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


def exact_warp(clip, matrix, interpolation):
    """The levels of `warp` before rounding, in float64, written down pixel by pixel and tap by tap."""
    height, width = clip.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    a, b, c, d, e, f = torch.tensor(matrix, dtype=torch.float64)
    source_x, source_y = a * x + b * y + c, d * x + e * y + f

    def taps(position, size):
        first = position.floor()
        for k in range(-1, 3):
            t = (position - first - k).abs()
            if interpolation == "bilinear":
                weight = (1 - t).clamp(min=0)
            else:  # Keys's kernel with a = -1, as PIL's
                weight = torch.where(t <= 1, t**3 - 2 * t**2 + 1, -(t**3) + 5 * t**2 - 8 * t + 4)
                weight = torch.where(t < 2, weight, 0)
            yield (first.long() + k).clamp(0, size - 1), weight

    across, down = list(taps(source_x - 0.5, width)), list(taps(source_y - 0.5, height))
    levels = sum(clip[..., row, column] * (v * w) for row, v in down for column, w in across)
    outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
    return torch.where(outside, clip_warp.FILL, levels.clamp(0, 255))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_warp_equals_the_exact_sum(kind, interpolation):
    """Moves of whole lines, which are filtered, and others, which are gathered. Either neighbour is right at a half."""
    clip = make_clip(kind)
    moves = [
        matrix
        for value in (0.0, 0.05, 0.21, -0.3, 1.7)
        for offset in (0.0, 4.0, -0.5, 26.1, -200.0)
        for matrix in ((1, value, offset, 0, 1, 0), (1, 0, 0, value, 1, offset))
    ]
    for matrix in [*moves, (0.9, 0.3, -4.0, -0.2, 1.1, 6.0)]:
        off = (clip_warp.warp(clip, matrix, interpolation) - exact_warp(clip, matrix, interpolation)).abs()
        assert (off > 0.502).float().mean() < 1e-3, matrix  # a source on the border may fall on either side of it


def test_warp_in_several_blocks(monkeypatch):
    clip = make_clip("noise")
    matrix = (0.9, 0.3, -4.0, -0.2, 1.1, 6.0)
    whole = clip_warp.warp(clip, matrix, "bicubic")
    for block in (1, 83, 250, 900):
        monkeypatch.setattr(clip_warp, "_BLOCK", block)
        assert torch.equal(clip_warp.warp(clip, matrix, "bicubic"), whole)


def test_layouts():
    clip = make_clip("noise")
    pixels = to_pixels(clip)
    assert torch.equal(pixels, clip) and pixels.permute(0, 2, 3, 1).is_contiguous() and to_pixels(pixels) is pixels
    planes = to_planes(pixels)
    assert torch.equal(planes, clip) and planes.is_contiguous() and to_planes(planes) is planes
    part = pixels[..., 3:20, 5:]
    assert torch.equal(to_planes(part), part) and torch.equal(to_pixels(clip[..., 3:20, 5:]), part)
