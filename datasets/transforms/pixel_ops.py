"""Picture operations on whole clips: those of RandAugment, equal to PIL's of one frame up to a level; memory layouts.

Decoders give frames with the channels last in memory ("pixels"); the operations here work on one plane after another
("planes") and convert what comes in another layout. Large intermediates are made in pieces that stay in a processor's
cache, in buffers that are used again: fresh memory of a megabyte costs more time than the arithmetic on it.

Operations that look at the picture (auto_contrast, equalize, contrast) take their statistics per frame, and the first
two per channel. Values between two levels are cut off, as PIL does; only in `affine` they are rounded: a quarter to a
half of its values are one level higher than PIL's. `contrast` and `saturation` mix with a grey that is not rounded to a
level first: 6 to 46 % of their values are one level off, and up to 2 % of `auto_contrast`'s. The others equal PIL's.

Shapes: T frames, C = 3 channels, H W pixels, all uint8.
"""

from collections.abc import Callable

import numpy as np
import torch

_GREY = (0.2989, 0.587, 0.114)


def to_planes(frames: torch.Tensor) -> torch.Tensor:
    """The same (T, C, H, W), one plane after another in memory; a copy only if it has to be."""
    # NumPy copies between byte layouts more than twice as fast as torch
    return frames if frames.is_contiguous() else torch.from_numpy(np.ascontiguousarray(frames.numpy()))


def to_pixels(frames: torch.Tensor) -> torch.Tensor:
    """The same (T, C, H, W), the channels last in memory; a copy only if it has to be."""
    pixels = frames.permute(0, 2, 3, 1)
    if pixels.is_contiguous():
        return frames
    copied = np.empty(tuple(pixels.shape), np.uint8)
    for channel in range(copied.shape[-1]):
        copied[..., channel] = frames[:, channel].numpy()
    return torch.from_numpy(copied).permute(0, 3, 1, 2)


def cut_off(levels: torch.Tensor, target: torch.Tensor) -> None:
    """float32 levels -> uint8, written to `target`."""
    np.copyto(target.numpy(), levels.clamp_(0, 255).numpy(), casting="unsafe")  # three times as fast as torch's copy


def _plane_by_plane(planes: torch.Tensor, change: Callable[[torch.Tensor, int], object]) -> torch.Tensor:
    """uint8 (T, C, H, W) -> the same shape; `change` is given float32 levels (H, W), to alter, and their number."""
    new, levels = torch.empty_like(planes), torch.empty(planes.shape[2:])
    for number, (plane, target) in enumerate(zip(planes.flatten(0, 1), new.flatten(0, 1), strict=True)):
        change(levels.copy_(plane), number)
        cut_off(levels, target)
    return new


# ---- a new level for each old one ----


def _look_up(planes: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """New levels by tables uint8 (T or 1, C or 1, 256)."""
    num_frames, channels = planes.shape[:2]
    source, new = planes.numpy(), np.empty(tuple(planes.shape), np.uint8)
    rows = tables.expand(num_frames, channels, 256).numpy()
    for frame, channel in np.ndindex(num_frames, channels):
        levels = source[frame, channel].tobytes().translate(rows[frame, channel].tobytes())
        new[frame, channel] = np.frombuffer(levels, np.uint8).reshape(new.shape[2:])
    return torch.from_numpy(new)


def _levels() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8)


def auto_contrast(frames: torch.Tensor) -> torch.Tensor:
    """Stretch the levels of each channel to 0..255; a channel of one level stays as it is."""
    planes = to_planes(frames)
    low = planes.amin(dim=(-2, -1)).flatten().float()
    high = planes.amax(dim=(-2, -1)).flatten().float()
    flat = low == high
    low[flat] = 0
    step = (high - low).mul_(1 / 255).masked_fill_(flat, 1)
    return _plane_by_plane(planes, lambda levels, number: levels.sub_(low[number]).div_(step[number]))


def equalize(frames: torch.Tensor) -> torch.Tensor:
    """Spread the levels of each channel so that all are equally frequent, by PIL's whole-number rule."""
    planes = to_planes(frames)
    counts = torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in planes.flatten(0, 1)])
    num_pixels = planes.shape[-1] * planes.shape[-2]
    highest = 255 - (counts.flip(-1) > 0).int().argmax(-1, keepdim=True)
    step = (num_pixels - counts.gather(1, highest)) // 255
    below = counts.cumsum(-1) - counts
    tables = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    tables = torch.where(step == 0, _levels(), tables)  # next to nothing but one level: left alone
    return _look_up(planes, tables.view(*planes.shape[:2], 256))


def brightness(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Levels times `factor`."""
    return _plane_by_plane(to_planes(frames), lambda levels, _: levels.mul_(factor))


def contrast(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Distance from the mean grey of the frame times `factor`."""
    planes = to_planes(frames)
    grey = _mean_grey(planes).flatten().repeat_interleave(planes.shape[1])
    return _plane_by_plane(planes, lambda levels, number: levels.mul_(factor).add_(grey[number], alpha=1 - factor))


def solarize(frames: torch.Tensor, threshold: float) -> torch.Tensor:
    """Inverts levels from `threshold` on."""
    if threshold > 255:  # compared as uint8, 256 would wrap round to 0
        return frames
    levels = to_planes(frames).numpy()
    above = (levels >= int(threshold)).view(np.uint8)
    np.negative(above, out=above)  # 255 where it holds
    return torch.from_numpy(np.bitwise_xor(above, levels, out=above))  # 255 - x is x with all bits turned


def solarize_add(frames: torch.Tensor, added: float) -> torch.Tensor:
    """`added`, at most 128, on top of levels below 128."""
    levels = to_planes(frames).numpy()
    more = (levels < 128).view(np.uint8)
    np.multiply(more, np.uint8(added), out=more)
    return torch.from_numpy(np.add(more, levels, out=more))


# ---- a new level from a pixel and its neighbours ----


def _grey(levels: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    """float32 (3, H, W) -> (H, W), whole numbers, written to `grey`."""
    red, green, blue = levels
    torch.mul(red, _GREY[0], out=grey)
    return grey.add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2]).floor_()


def _mean_grey(planes: torch.Tensor) -> torch.Tensor:
    """uint8 (T, 3, H, W) -> float32 (T, 1, 1)."""
    levels = torch.empty(planes.shape[1:])
    grey = torch.empty(planes.shape[2:])
    return torch.stack([_grey(levels.copy_(frame), grey).mean() for frame in planes]).view(-1, 1, 1)


def saturation(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Distance of each pixel from its grey times `factor`."""
    planes = to_planes(frames)
    new, levels, grey = torch.empty_like(planes), torch.empty(planes.shape[1:]), torch.empty(planes.shape[2:])
    for frame, target in zip(planes, new, strict=True):
        _grey(levels.copy_(frame), grey)
        cut_off(levels.mul_(factor).add_(grey, alpha=1 - factor), target)
    return new


def sharpness(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Distance of each pixel from a 3 x 3 blur (centre 5, the others 1) times `factor`; the border stays as it is."""
    planes = to_planes(frames)
    height, width = planes.shape[-2:]
    if min(height, width) <= 2:
        return planes
    new, levels = torch.empty_like(planes), torch.empty(height, width)
    rows, blurred = torch.empty(height - 2, width), torch.empty(height - 2, width - 2)
    inner = levels[1:-1, 1:-1]
    for plane, target in zip(planes.flatten(0, 1), new.flatten(0, 1), strict=True):
        levels.copy_(plane)
        torch.add(levels[:-2], levels[1:-1], out=rows).add_(levels[2:])
        torch.add(rows[:, :-2], rows[:, 1:-1], out=blurred).add_(rows[:, 2:]).add_(inner, alpha=4)
        blurred.mul_(1 / 13).round_()  # a whole number / 13 is never half-way between two levels
        inner.add_(blurred.sub_(inner), alpha=1 - factor)
        cut_off(levels, target)
    return new
