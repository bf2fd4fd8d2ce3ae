"""Clip transforms on uint8 frames: presets for pre-training, training, validation and testing.

Frames are uint8 (T, 3, H, W) RGB tensors throughout, in any memory layout; clips come out with the channels last in
memory, as the decoder gave them and the resizing kernel works on them. Normalisation, and with it the change to one
plane after another, happens once per batch, on the device (normalization.py). Nothing here holds random state: every
random transform takes the `np.random.Generator` of its sample, and what it draws holds for all frames of the clip.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from sigma_video.options import AT_LEAST_ONE, FRACTION, Options, option

from ..sampling import crop_offsets
from .normalization import mean_and_std
from .pixel_ops import to_pixels
from .randaugment import RandAugment

CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
# Places of a crop in quarters of the room it has (x, y): corners, centre, middles of the edges, quarter points.
CROP_PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)
CROP_ASPECTS = (3 / 4, 4 / 3)
ERASE_AREAS = (0.02, 1 / 3)
ERASE_ASPECTS = (0.3, 1 / 0.3)
ERASE_MODES = ("pixel", "rand", "const")


@dataclass(frozen=True, kw_only=True)
class PretrainAugmentConfig(Options):
    """The augmentation of pre-training."""

    augmentation: str = option(
        "multi_scale_crop",
        "multi_scale_crop: one of four sizes at one of 13 places; resize: the whole frame",
        choices=("multi_scale_crop", "resize"),
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Options):
    """The augmentation of fine-tuning, clip by clip."""

    aa: str = option("rand-m7-n4-mstd0.5-inc1", "settings of RandAugment in timm's notation; none: off")
    train_interpolation: str = option(
        "bicubic", "interpolation of RandAugment's turns and shifts", choices=("bicubic", "bilinear", "random")
    )
    finetuning_crops: bool = option(
        True, "crops of at least 25 %% of the area (SIGMA), else 8 %% (VideoMAE)", switch="value"
    )
    min_crop_area: float | None = option(
        None, "smallest part of the area that a crop covers; overrides --finetuning_crops", rule=FRACTION
    )
    reprob: float = option(0.25, "probability that boxes of a clip are erased", rule=FRACTION)
    remode: str = option("pixel", "what random erasing fills its boxes with", choices=ERASE_MODES)
    recount: int = option(1, "largest number of erased boxes, in all frames of the clip", rule=AT_LEAST_ONE)

    def ignored(self) -> dict[str, str]:
        found = {}
        if self.min_crop_area is not None:
            found["finetuning_crops"] = "--min_crop_area replaces it"
        if self.reprob == 0:
            found |= dict.fromkeys(("remode", "recount"), "--reprob 0 erases nothing")
        if self.aa in ("", "none"):
            found["train_interpolation"] = "RandAugment is off: --aa none"
        return found

    def describe(self) -> str:
        """What is done to a training clip, in words; which part of a frame crops keep decides results."""
        share = f"crops of at least {self.min_area:.0%} of the frame"
        if self.min_crop_area is None:
            note = "as SIGMA; VideoMAE takes 8%: --finetuning_crops False" if self.finetuning_crops else "as VideoMAE"
            share += f" ({note})"
        augmented = f"RandAugment {self.aa}" if self.aa not in ("", "none") else "no RandAugment"
        erased = f"random erasing {self.reprob:g}" if self.reprob else "no random erasing"
        return f"{share}, {augmented}, {erased}"

    @property
    def min_area(self) -> float:
        """Smallest part of the frame that a crop covers."""
        if self.min_crop_area is not None:
            return self.min_crop_area
        return 0.25 if self.finetuning_crops else 0.08


def _resize(frames: torch.Tensor, height: int, width: int, *, antialias: bool) -> torch.Tensor:
    if frames.stride(1) != 1:  # the kernel takes twice as long on planes
        frames = to_pixels(frames)
    return F.resize(frames, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=antialias)


def _crop(frames: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    return frames[..., top : top + height, left : left + width]


def _resize_short_side(frames: torch.Tensor, short_side: int) -> torch.Tensor:
    """Scale the shorter side to `short_side`, the other in proportion, truncated; no antialias filter, like OpenCV."""
    height, width = frames.shape[-2:]
    if height <= width:
        return _resize(frames, short_side, short_side * width // height, antialias=False)
    return _resize(frames, short_side * height // width, short_side, antialias=False)


def _own_memory(frames: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel in memory of its own: a view would keep, and send from worker to trainer, whole frames."""
    return frames.contiguous(memory_format=torch.channels_last)


def _centre_crop(frames: torch.Tensor, size: int) -> torch.Tensor:
    height, width = frames.shape[-2:]
    return _crop(frames, round((height - size) / 2), round((width - size) / 2), size, size)


def _check_short_side(size: int, short_side: int) -> None:
    if short_side < size:
        raise ValueError(
            f"--short_side_size {short_side} is smaller than --input_size {size}: a crop of {size} pixels does not fit"
        )


class PretrainTransform:
    """The augmentation of pre-training: a crop, resized to `size` x `size` with an antialias filter; never a flip.

    "multi_scale_crop": width and height are each one of four fractions of the shorter side, at most one step apart,
    and the crop lies at one of 13 fixed places. "resize": the whole frame, whatever its aspect.

    Args:
        size: side of the output in pixels.
        augmentation: one of AUGMENTATIONS.
    """

    AUGMENTATIONS = ("multi_scale_crop", "resize")

    def __init__(self, size: int, augmentation: str = "multi_scale_crop") -> None:
        if augmentation not in self.AUGMENTATIONS:
            raise ValueError(f"augmentation '{augmentation}': choose from {', '.join(self.AUGMENTATIONS)}")
        self.size = size
        self.augmentation = augmentation

    def crop_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """The ten (width, height) pairs of crops of a frame."""
        base = min(height, width)
        sides = [int(base * scale) for scale in CROP_SCALES]
        # a crop that needs next to no resizing is taken at exactly the output size, where the frame holds it
        sides = [self.size if abs(side - self.size) <= 2 and self.size <= base else side for side in sides]
        return [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]

    def draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """The crop (top, left, height, width) of frames of a size; the whole frame, without a draw, for "resize"."""
        if self.augmentation == "resize":
            return 0, 0, height, width
        sizes = self.crop_sizes(height, width)
        crop_width, crop_height = sizes[rng.integers(len(sizes))]
        x, y = CROP_PLACES[rng.integers(len(CROP_PLACES))]
        return y * ((height - crop_height) // 4), x * ((width - crop_width) // 4), crop_height, crop_width

    def crop(self, frames: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> uint8 (T, 3, size, size): the box, resized."""
        return _own_memory(_resize(_crop(frames, *box), self.size, self.size, antialias=True))

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> uint8 (T, 3, size, size)."""
        height, width = frames.shape[-2:]
        return self.crop(frames, self.draw_box(height, width, rng))


def random_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    min_area: float,
    aspects: tuple[float, float] = CROP_ASPECTS,
) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) of `min_area` to all of the frame, aspect 3/4 to 4/3 (log-uniform).

    After ten boxes that do not fit: the largest centred one within these aspects.
    """
    low, high = aspects
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return int(top), int(left), box_height, box_width
    box_width = min(width, max(1, round(height * high)))
    box_height = min(height, max(1, round(width / low)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


class RandomErasing:
    """Fills boxes with noise: the same boxes in every frame of the clip.

    A box covers 2 % to a third of the frame, divided by the number of boxes, with a log-uniform aspect of 0.3 to 1/0.3;
    it is skipped if 100 draws give none that is smaller than the frame in both directions.
    The noise is normal with mean 0 and deviation 1 in normalised space. The clip is uint8 here, so it is scaled back to
    grey levels, rounded and cut off at 0 and 255: about +-2 deviations, which is all that pixels can hold.

    Args:
        prob: probability that a clip is touched at all.
        mode: "pixel": fresh noise for every pixel, channel and frame; "rand": one random colour for a whole box;
            "const": ImageNet's mean colour (0 in normalised space).
        count: largest number of boxes; the number is uniform in 1..count.
    """

    def __init__(self, prob: float, *, mode: str = "pixel", count: int = 1) -> None:
        if mode not in ERASE_MODES:
            raise ValueError(f"--remode {mode}: choose from {', '.join(ERASE_MODES)}")
        if not 0 <= prob <= 1:
            raise ValueError(f"--reprob {prob}: a probability lies between 0 and 1")
        if count < 1:
            raise ValueError(f"--recount {count}: at least one box")
        self.prob, self.mode, self.count = prob, mode, count

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> the same shape; the input is left as it is."""
        if rng.random() >= self.prob:
            return frames
        frames = frames.clone()
        height, width = frames.shape[-2:]
        count = int(rng.integers(1, self.count + 1))
        for _ in range(count):
            box = self._draw_box(height, width, count, rng)
            if box is not None:
                target = _crop(frames, *box)
                target.copy_(self._noise(target.shape, rng))
        return frames

    @staticmethod
    def _draw_box(height: int, width: int, count: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
        low, high = ERASE_ASPECTS
        for _ in range(100):
            area = height * width * rng.uniform(*ERASE_AREAS) / count
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_height < height and 0 < box_width < width:
                top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
                return int(top), int(left), box_height, box_width
        return None

    def _noise(self, shape: torch.Size, rng: np.random.Generator) -> torch.Tensor:
        """Grey levels for a box (T, 3, h, w), or of a shape that broadcasts to it."""
        if self.mode == "const":
            noise = np.zeros((1, 3, 1, 1), dtype=np.float32)
        else:
            drawn = tuple(shape) if self.mode == "pixel" else (1, 3, 1, 1)
            noise = rng.standard_normal(drawn, dtype=np.float32)
        mean, std = mean_and_std(torch.device("cpu"))
        levels = torch.from_numpy(noise).mul_(std[..., 0]).add_(mean[..., 0]).mul_(255)
        return levels.round_().clamp_(0, 255).to(torch.uint8)


class TrainTransform:
    """The augmentation of fine-tuning: RandAugment, random resized crop, flip, random erasing.

    Args:
        size: side of the output in pixels.
        aa: RandAugment string (see `randaugment.parse_config`); "none" or "" for no RandAugment.
        flip: whether clips are flipped left to right, one in two (not for data whose labels know left from right).
        erase_prob, erase_mode, erase_count: see RandomErasing.
        min_area: smallest part of the frame that a crop covers.
        aspects: smallest and largest width of a crop over its height.
        interpolation: of RandAugment: "bicubic", "bilinear" or "random".
    """

    def __init__(
        self,
        size: int,
        *,
        aa: str = "none",
        flip: bool = False,
        erase_prob: float = 0.0,
        erase_mode: str = "pixel",
        erase_count: int = 1,
        min_area: float = 0.25,
        aspects: tuple[float, float] = CROP_ASPECTS,
        interpolation: str = "bicubic",
    ) -> None:
        if not 0 < min_area <= 1:
            raise ValueError(f"min_area {min_area}: a part of the frame lies above 0 and at or below 1")
        self.size, self.flip, self.min_area, self.aspects = size, flip, min_area, aspects
        self.augment = RandAugment(aa, interpolation=interpolation) if aa not in ("", "none") else None
        self.erase = RandomErasing(erase_prob, mode=erase_mode, count=erase_count)

    @classmethod
    def from_config(cls, config: AugmentConfig, *, size: int, flip: bool) -> "TrainTransform":
        """The augmentation of a run's options. Raises ValueError for a RandAugment string that cannot be read."""
        return cls(
            size,
            aa=config.aa,
            flip=flip,
            erase_prob=config.reprob,
            erase_mode=config.remode,
            erase_count=config.recount,
            min_area=config.min_area,
            interpolation=config.train_interpolation,
        )

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> uint8 (T, 3, size, size)."""
        if self.augment is not None:
            frames = self.augment(frames, rng)
        height, width = frames.shape[-2:]
        box = random_crop_box(height, width, rng, min_area=self.min_area, aspects=self.aspects)
        frames = _resize(_crop(frames, *box), self.size, self.size, antialias=False)
        if self.flip and rng.random() < 0.5:
            frames = frames.flip(-1)
        return _own_memory(self.erase(frames, rng))


class ValTransform:
    """The shorter side scaled to `short_side`, then the centre crop of `size` x `size`."""

    def __init__(self, size: int, short_side: int) -> None:
        _check_short_side(size, short_side)
        self.size, self.short_side = size, short_side

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> uint8 (T, 3, size, size)."""
        return _own_memory(_centre_crop(_resize_short_side(frames, self.short_side), self.size))


class ViewTransform:
    """`num_crops` crops along the longer side, after scaling the shorter one to `short_side`.

    The crops are squares of the shorter side, as in the published protocol; `size` < `short_side` takes their centres.
    """

    def __init__(self, size: int, short_side: int, num_crops: int) -> None:
        _check_short_side(size, short_side)
        if num_crops < 1:
            raise ValueError(f"--test_num_crop {num_crops}: at least one crop")
        self.size, self.short_side, self.num_crops = size, short_side, num_crops

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> uint8 (num_crops, T, 3, size, size)."""
        side = self.short_side
        height, width = frames.shape[-2:]
        offsets, axis = crop_offsets(height, width, side, self.num_crops)
        frames = _resize_short_side(frames, side)
        boxes = [(offset, 0) if axis == "height" else (0, offset) for offset in offsets]
        crops = [_centre_crop(_crop(frames, *box, side, side), self.size) for box in boxes]
        return torch.stack([crop.permute(0, 2, 3, 1) for crop in crops]).permute(0, 1, 4, 2, 3)
