"""RandAugment on whole clips: timm's configuration strings and levels, drawn once per clip, on uint8 tensors.

timm's own RandAugment works on single PIL images and draws for each; a clip needs the same operation, sign and level
on every frame. The operations themselves are those of `pixel_ops` and `affine`, which give what PIL gives for one
frame at a time, but for single levels: see there.

Shapes: T frames, C = 3 channels, H W pixels.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from .affine import warp
from .pixel_ops import auto_contrast, brightness, contrast, equalize, saturation, sharpness, solarize, solarize_add

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


OPS: dict[str, Callable[[torch.Tensor, float, str], torch.Tensor]] = {
    "AutoContrast": lambda frames, value, interpolation: auto_contrast(frames),
    "Equalize": lambda frames, value, interpolation: equalize(frames),
    "Invert": lambda frames, value, interpolation: F.invert(frames),
    "Rotate": _rotate,
    "Posterize": lambda frames, value, interpolation: F.posterize(frames, int(value)),
    "Solarize": lambda frames, value, interpolation: solarize(frames, value),
    "SolarizeAdd": lambda frames, value, interpolation: solarize_add(frames, value),
    "Color": lambda frames, value, interpolation: saturation(frames, value),
    "Contrast": lambda frames, value, interpolation: contrast(frames, value),
    "Brightness": lambda frames, value, interpolation: brightness(frames, value),
    "Sharpness": lambda frames, value, interpolation: sharpness(frames, value),
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
        """uint8 (T, 3, H, W) -> the same shape, in any memory layout; the input is left as it is."""
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
        return frames
