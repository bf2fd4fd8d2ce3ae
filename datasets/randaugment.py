"""RandAugment on whole clips: timm's configuration strings and levels, drawn once per clip, on uint8 tensors.

timm's own RandAugment works on one PIL image and draws anew for each; a clip needs the same operation, sign and level
on every frame. Geometry follows PIL: pixels whose source lies outside the frame get the fill colour, with no blending
along the border. Operations that look at the picture (AutoContrast, Equalize, Contrast) take their statistics per
frame, and the first two per channel, as PIL does when it is given one frame at a time.

Shapes: T frames, C = 3 channels, H W pixels.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding_bag
from torchvision.transforms.v2 import functional as F

FILL = 128  # grey level of pixels that come from outside the frame
MAX_LEVEL = 10.0  # levels run from 0 to 10
INTERPOLATIONS = ("bicubic", "bilinear", "random")
_PART = re.compile(r"([a-z]+)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RandAugmentConfig:
    """What a string such as `rand-m7-n4-mstd0.5-inc1` says; the defaults are timm's."""

    magnitude: float = 10.0
    num_ops: int = 2
    prob: float = 0.5
    magnitude_std: float = 0.0
    increasing: bool = False


_KEYS: dict[str, tuple[str, Callable[[str], float]]] = {
    "m": ("magnitude", float),
    "n": ("num_ops", int),
    "p": ("prob", float),
    "mstd": ("magnitude_std", float),
    "inc": ("increasing", int),
}


def parse_config(text: str) -> RandAugmentConfig:
    """Read a RandAugment string: `rand` and any of m (0-10), n, p (0-1), mstd, inc (0 or 1), joined by `-`.

    `inc0` is off, as its number says. Raises ValueError for anything else, timm's `w`, `t` and `mmax` included.
    """
    name, *parts = text.split("-")
    if name != "rand":
        raise ValueError(f"--aa {text}: only RandAugment strings such as rand-m7-n4-mstd0.5-inc1, or none, are known")
    values: dict[str, float] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None or match[1] not in _KEYS:
            raise ValueError(f"--aa {text}: cannot read '{part}'; known are m, n, p, mstd and inc, each with a number")
        field, kind = _KEYS[match[1]]
        if field in values:
            raise ValueError(f"--aa {text}: {match[1]} is given twice")
        try:
            values[field] = kind(match[2])
        except ValueError:
            raise ValueError(f"--aa {text}: {match[1]} takes a whole number, not {match[2]}") from None
    if values.get("increasing", 0) not in (0, 1):
        raise ValueError(f"--aa {text}: inc is 0 or 1")
    if not 0 <= values.get("magnitude", 0) <= MAX_LEVEL:
        raise ValueError(f"--aa {text}: m lies between 0 and {MAX_LEVEL:g}")
    if not 0 <= values.get("prob", 0) <= 1:
        raise ValueError(f"--aa {text}: p lies between 0 and 1")
    increasing = bool(values.pop("increasing", 0))
    num_ops = int(values.pop("num_ops", RandAugmentConfig.num_ops))
    return RandAugmentConfig(num_ops=num_ops, increasing=increasing, **values)


# ---- operations: (frames (T, C, H, W) uint8, value, interpolation) -> frames of the same shape ----
#
# Decoders give frames with the channels last in memory. Some kernels are several times faster in that layout, some
# with one plane after another: each operation below asks for its own.


def _planes(frames: torch.Tensor) -> torch.Tensor:
    return frames.contiguous()


def _pixels(frames: torch.Tensor) -> torch.Tensor:
    return frames.contiguous(memory_format=torch.channels_last)


def _taps(position: torch.Tensor, size: int, interpolation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbours along one axis, cut off at the edge, and their weights: each (2 or 4, H, W).

    The cubic is PIL's in affine transforms (a = -1); torch's own has a = -0.75.
    """
    first = position.floor()
    d = position - first
    if interpolation == "bilinear":
        weights = torch.stack((1 - d, d))
        offsets = torch.arange(0, 2)
    else:
        e = 1 - d
        weights = torch.stack((-d * e * e, 1 - d * d * (1 + e), 1 - e * e * (1 + d), -d * d * e))
        offsets = torch.arange(-1, 3)
    return (first.int() + offsets.int()[:, None, None]).clamp_(0, size - 1), weights


def warp(frames: torch.Tensor, matrix: tuple[float, ...], interpolation: str) -> torch.Tensor:
    """PIL's affine transform of every frame.

    Every frame and channel takes the same weighted sum of neighbours, so the clip is laid out as one row of T * C
    values for each pixel, and a bag of rows is summed for each output pixel.

    Args:
        frames: uint8 (T, C, H, W).
        matrix: (a, b, c, d, e, f): the output point (x, y) shows the input point (ax + by + c, dx + ey + f), in
            pixels from the outer corner of the frame.
        interpolation: "bilinear" or "bicubic".
    """
    num_frames, channels, height, width = frames.shape
    a, b, c, d, e, f = matrix
    y = torch.arange(height).add(0.5)[:, None]
    x = torch.arange(width).add(0.5)[None, :]
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
    columns, weights_x = _taps(source_x - 0.5, width, interpolation)
    rows, weights_y = _taps(source_y - 0.5, height, interpolation)
    neighbours = (rows[:, None] * width + columns).flatten(0, 1).flatten(1).t().contiguous()  # (H * W, 4 or 16)
    weights = (weights_y[:, None] * weights_x).flatten(0, 1).flatten(1).t().contiguous()

    pixels = [frame.permute(1, 2, 0).reshape(-1, channels) for frame in frames]
    table = torch.cat(pixels, dim=1).float()  # (H * W, T * C)
    warped = embedding_bag(neighbours, table, per_sample_weights=weights, mode="sum")
    levels = warped.round_().clamp_(0, 255).to(torch.uint8)
    levels[outside.flatten()] = FILL
    return levels.view(height, width, num_frames, channels).permute(2, 0, 1, 3).contiguous().permute(0, 3, 1, 2)


def _rotate(frames: torch.Tensor, degrees: float, interpolation: str) -> torch.Tensor:
    angle = math.radians(degrees)  # counter-clockwise, about the centre
    cos, sin = math.cos(angle), math.sin(angle)
    cx, cy = frames.shape[-1] / 2, frames.shape[-2] / 2
    return warp(frames, (cos, -sin, cx - cos * cx + sin * cy, sin, cos, cy - sin * cx - cos * cy), interpolation)


def _shear_x(frames: torch.Tensor, factor: float, interpolation: str) -> torch.Tensor:
    return warp(frames, (1, factor, 0, 0, 1, 0), interpolation)


def _shear_y(frames: torch.Tensor, factor: float, interpolation: str) -> torch.Tensor:
    return warp(frames, (1, 0, 0, factor, 1, 0), interpolation)


def _translate_x(frames: torch.Tensor, fraction: float, interpolation: str) -> torch.Tensor:
    return warp(frames, (1, 0, fraction * frames.shape[-1], 0, 1, 0), interpolation)


def _translate_y(frames: torch.Tensor, fraction: float, interpolation: str) -> torch.Tensor:
    return warp(frames, (1, 0, 0, 0, 1, fraction * frames.shape[-2]), interpolation)


def _solarize(frames: torch.Tensor, threshold: float, _: str) -> torch.Tensor:
    if threshold > 255:  # compared as uint8, 256 would wrap round to 0
        return frames
    above = (frames >= int(threshold)).view(torch.uint8).neg_()  # 255 where it holds
    return above.bitwise_xor_(frames)  # 255 - x is x with all bits turned


def _solarize_add(frames: torch.Tensor, added: float, _: str) -> torch.Tensor:
    return (frames < 128).view(torch.uint8).mul_(int(added)).add_(frames)  # 127 + 110: never beyond 255


OPS: dict[str, Callable[[torch.Tensor, float, str], torch.Tensor]] = {
    "AutoContrast": lambda frames, value, interpolation: F.autocontrast(_planes(frames)),
    "Equalize": lambda frames, value, interpolation: F.equalize(_planes(frames)),
    "Invert": lambda frames, value, interpolation: F.invert(frames),
    "Rotate": _rotate,
    "Posterize": lambda frames, value, interpolation: F.posterize(frames, int(value)),
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": lambda frames, value, interpolation: F.adjust_saturation(_planes(frames), value),
    "Contrast": lambda frames, value, interpolation: F.adjust_contrast(_pixels(frames), value),
    "Brightness": lambda frames, value, interpolation: F.adjust_brightness(frames, value),
    "Sharpness": lambda frames, value, interpolation: F.adjust_sharpness(_pixels(frames), value),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}

# Largest value of the operations that go both ways; which way is drawn.
_SIGNED = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45, "TranslateY": 0.45}
_ENHANCE = ("Color", "Contrast", "Brightness", "Sharpness")


def level_value(name: str, level: float, *, sign: int, increasing: bool) -> float:
    """The value an operation takes at `level` (0 to 10): degrees, factor, bits, threshold or fraction of the side.

    Args:
        name: a key of OPS.
        level: strength.
        sign: 1 or -1, the direction of an operation that has two.
        increasing: True for the set whose severity always grows with the level (`inc1`), False for timm's plain set.

    Returns:
        The value; 0 for operations that take none.
    """
    share = level / MAX_LEVEL
    if name in _SIGNED:
        return sign * share * _SIGNED[name]
    if name in _ENHANCE:
        # timm never goes below a factor of 0.1
        return max(0.1, 1 + sign * 0.9 * share) if increasing else 0.1 + 1.8 * share
    if name == "Posterize":
        return 4 - int(share * 4) if increasing else int(share * 4)
    if name == "Solarize":
        return 256 - int(share * 256) if increasing else int(share * 256)
    if name == "SolarizeAdd":
        return int(share * 110)
    return 0


class RandAugment:
    """`num_ops` operations drawn with replacement, each applied with `prob`; one draw for all frames of a clip.

    Args:
        config: a string such as `rand-m7-n4-mstd0.5-inc1` (see `parse_config`).
        interpolation: "bicubic", "bilinear", or "random": one of the two for each operation.
    """

    def __init__(self, config: str, *, interpolation: str = "bicubic") -> None:
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"--train_interpolation {interpolation}: choose from {', '.join(INTERPOLATIONS)}")
        self.config = parse_config(config)
        self.interpolation = interpolation
        self.names = tuple(OPS)

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> the same shape; the input is left as it is."""
        config = self.config
        for choice in rng.integers(len(self.names), size=config.num_ops):
            # drawn in any case, so that what follows does not depend on whether this one is applied
            applied = rng.random() < config.prob
            level = min(max(rng.normal(config.magnitude, config.magnitude_std), 0.0), MAX_LEVEL)
            sign = 1 if rng.random() < 0.5 else -1
            bicubic = rng.random() < 0.5 if self.interpolation == "random" else self.interpolation == "bicubic"
            if applied:
                name = self.names[choice]
                value = level_value(name, level, sign=sign, increasing=config.increasing)
                frames = OPS[name](frames, value, "bicubic" if bicubic else "bilinear")
        return _pixels(frames)
