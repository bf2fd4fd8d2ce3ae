"""The released code's data path, written out: decord at full size, PIL images, float32 before the batch."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from datasets.sampling import crop_offsets, dense_test_indices
from datasets.transforms.normalization import IMAGENET_MEAN, IMAGENET_STD
from datasets.transforms.presets import PretrainTransform, TrainTransform, random_crop_box
from datasets.transforms.randaugment import OPS, RandAugment, level_value

FRAMES, STRIDE = 16, 4
Clip = torch.Tensor


def to_images(frames: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]


def decord_frames(path: str, choose: Callable[[int], Any]) -> np.ndarray:
    """uint8 (T, H, W, 3) at full size, by a reader opened for this one clip."""
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(list(choose(len(reader)))).asnumpy()


def pil_pretrain(images: list[Image.Image], transform: PretrainTransform, rng: np.random.Generator) -> Clip:
    """Crop and resize image by image, join along the channels, float32 in 0..1, normalise: (3, T, size, size)."""
    top, left, height, width = transform.draw_box(images[0].height, images[0].width, rng)
    size = transform.size
    crops = [image.crop((left, top, left + width, top + height)) for image in images]
    crops = [crop.resize((size, size), Image.Resampling.BILINEAR) for crop in crops]
    stacked = torch.from_numpy(np.concatenate([np.array(crop) for crop in crops], axis=2))
    scaled = stacked.permute(2, 0, 1).contiguous().float().div(255)
    for plane, mean, std in zip(scaled, itertools.cycle(IMAGENET_MEAN), itertools.cycle(IMAGENET_STD), strict=False):
        plane.sub_(mean).div_(std)
    return scaled.view(len(images), 3, size, size).transpose(0, 1)


def pil_operation(image: Image.Image, name: str, value: float) -> Image.Image:
    """One operation of RandAugment on one image."""
    width, height = image.size
    moves = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, value * width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, value * height),
    }
    if name in moves:
        method, grey = Image.Transform.AFFINE, (128, 128, 128)
        return image.transform(image.size, method, moves[name], Image.Resampling.BICUBIC, fillcolor=grey)
    if name == "SolarizeAdd":
        return image.point([min(level + int(value), 255) if level < 128 else level for level in range(256)] * 3)
    if name == "Posterize" and value == 0:
        return image.point([0] * 768)
    simple: dict[str, Callable[[], Image.Image]] = {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Posterize": lambda: ImageOps.posterize(image, int(value)),
        "Solarize": lambda: ImageOps.solarize(image, int(value)),
        "Rotate": lambda: image.rotate(value, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)),
    }
    return simple[name]() if name in simple else getattr(ImageEnhance, name)(image).enhance(value)


def pil_randaugment(images: list[Image.Image], augment: RandAugment, rng: np.random.Generator) -> list[Image.Image]:
    """The operations that ours draws from the same stream, image by image."""
    config = augment.config
    for choice in rng.integers(len(OPS), size=config.num_ops):
        applied, level = rng.random() < config.prob, rng.normal(config.magnitude, config.magnitude_std)
        sign = 1 if rng.random() < 0.5 else -1
        if applied:
            name = tuple(OPS)[choice]
            value = level_value(name, min(max(level, 0), 10), sign=sign, increasing=config.increasing)
            images = [pil_operation(image, name, value) for image in images]
    return images


def pil_train(images: list[Image.Image], transform: TrainTransform, rng: np.random.Generator) -> Clip:
    """RandAugment on images, then float32, normalisation, and the crop on floats: (3, T, size, size)."""
    assert transform.augment is not None
    images = pil_randaugment(images, transform.augment, rng)
    frames = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in images])
    frames = frames.permute(0, 2, 3, 1).float().div(255)
    frames = (frames - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    clip = frames.permute(3, 0, 1, 2)
    top, left, height, width = random_crop_box(*clip.shape[2:], rng, min_area=transform.min_area)
    clip = clip[..., top : top + height, left : left + width]
    size = (transform.size, transform.size)
    clip = torch.nn.functional.interpolate(clip, size=size, mode="bilinear", align_corners=False)
    return clip.flip(-1) if rng.random() < 0.5 else clip


def one_view(path: str, clip: int, crop: int, num_clips: int, num_crops: int, size: int) -> Clip:
    """One test view: every candidate frame of the video is decoded and resized for it."""
    frames = decord_frames(path, lambda length: range(0, length, STRIDE))
    height, width = frames.shape[1:3]
    offsets, axis = crop_offsets(height, width, size, num_crops)
    long = size * max(height, width) // min(height, width)
    shape = (long, size) if axis == "height" else (size, long)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized = torch.cat([torch.nn.functional.interpolate(frame[None], size=shape, mode="bilinear") for frame in pixels])
    length = len(frames)
    chosen = dense_test_indices(length, FRAMES, 1, num_clips)[clip]
    start = offsets[crop]
    view = resized[chosen]
    view = view[..., start : start + size, :] if axis == "height" else view[..., start : start + size]
    scaled = view.permute(1, 0, 2, 3).float().div(255)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (scaled - mean) / std
