"""Transforms of single images: as classifiers of images are trained and tested, with bicubic resizing.

Frames are as in presets.py, uint8 (U, 3, H, W) with U = 1. Large images are those of ImageNet; small ones, those of
CIFAR, are enlarged as a whole.
"""

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .presets import random_crop_box

PADDING = 4  # pixels around a small image before its random crop
MIN_AREA = 0.08  # of a large image's random crop, as a part of it


def _resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.resize(frames, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True)


class ImageTestTransform:
    """The shorter side scaled to `short_side`, then the centre crop of `size` x `size`; small ones scaled to `size`."""

    def __init__(self, size: int, short_side: int, *, small: bool = False) -> None:
        self.size, self.short_side, self.small = size, short_side, small

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (U, 3, H, W) -> uint8 (1, U, 3, size, size): a single crop."""
        if self.small:
            return _resize(frames, self.size, self.size)[None]
        height, width = frames.shape[-2:]
        scale = self.short_side / min(height, width)
        resized = _resize(frames, *(max(self.short_side, int(side * scale)) for side in (height, width)))
        return F.center_crop(resized, [self.size, self.size])[None]


class ImageTrainTransform:
    """A random crop, resized to `size` x `size`, flipped in one of two images.

    A large image's crop covers `min_area` of it or more, aspect 3/4 to 4/3. A small one is padded by PADDING black
    pixels, and the crop has its own size.
    """

    def __init__(self, size: int, *, min_area: float = MIN_AREA, flip: bool = True, small: bool = False) -> None:
        self.size, self.min_area, self.flip, self.small = size, min_area, flip, small

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """uint8 (U, 3, H, W) -> uint8 (U, 3, size, size)."""
        height, width = frames.shape[-2:]
        if self.small:
            frames = F.pad(frames, [PADDING])
            top, left = rng.integers(2 * PADDING + 1, size=2).tolist()
        else:
            top, left, height, width = random_crop_box(height, width, rng, min_area=self.min_area)
        frames = _resize(frames[..., top : top + height, left : left + width], self.size, self.size)
        return frames.flip(-1) if self.flip and rng.random() < 0.5 else frames
