"""Picture operations on whole clips, frame by frame what PIL does: the operations of RandAugment, and memory layouts.

Decoders give frames with the channels last in memory ("pixels"); the operations here work on one plane after another
("planes") and convert what comes in another layout. Large intermediates are made in pieces that stay in a processor's
cache, in buffers that are used again: fresh memory of a megabyte costs more time than the arithmetic on it.

Geometry follows PIL: pixels whose source lies outside the frame get the fill colour, with no blending along the border.
Operations that look at the picture (auto_contrast, equalize, contrast) take their statistics per frame, and the first
two per channel. Values between two levels are cut off, not rounded, except in `warp`.

Shapes: T frames, C = 3 channels, H W pixels, all uint8.
"""

import itertools

import numpy as np
import torch
from torch.nn.functional import embedding_bag

FILL = 128  # grey level of pixels that come from outside the frame
_GREY = (0.2989, 0.587, 0.114)
_BLOCK = 16384  # pixels of all frames that `_gather` makes at a time


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
    low = planes.amin(dim=(-2, -1))[..., None].float()
    high = planes.amax(dim=(-2, -1))[..., None].float()
    flat = low == high
    low[flat] = 0
    step = (high - low).mul_(1 / 255).masked_fill_(flat, 1)
    return _look_up(planes, (_levels() - low).div_(step).clamp_(0, 255).to(torch.uint8))


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
    return _look_up(to_planes(frames), _levels().mul(factor).clamp_(0, 255).to(torch.uint8).expand(1, 1, 256))


def contrast(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Distance from the mean grey of the frame times `factor`."""
    planes = to_planes(frames)
    blended = _levels().mul(factor).expand(len(planes), 1, 256).add(_mean_grey(planes), alpha=1 - factor)
    return _look_up(planes, blended.clamp_(0, 255).to(torch.uint8))


def solarize(frames: torch.Tensor, threshold: float) -> torch.Tensor:
    """Levels from `threshold` on are turned round."""
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


def _cut_off(levels: torch.Tensor, target: torch.Tensor) -> None:
    """float32 levels -> uint8, written to `target`."""
    np.copyto(target.numpy(), levels.clamp_(0, 255).numpy(), casting="unsafe")  # three times as fast as torch's copy


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
        _cut_off(levels.mul_(factor).add_(grey, alpha=1 - factor), target)
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
        _cut_off(levels, target)
    return new


# ---- geometry ----


def _tap_weights(d: np.ndarray, interpolation: str) -> list[np.ndarray]:
    """Weights of the 2 or 4 neighbours of a point that lies `d` behind the first, or the second, of them.

    The cubic is PIL's in affine transforms (a = -1); torch's own has a = -0.75.
    """
    e = 1 - d
    if interpolation == "bilinear":
        return [e, d]
    return [-d * e * e, 1 - d * d * (1 + e), 1 - e * e * (1 + d), -d * d * e]


def _lead(interpolation: str) -> int:
    """How many of the neighbours lie before the one at or below the point."""
    return 0 if interpolation == "bilinear" else 1


def _source(matrix: tuple[float, ...], y: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of some lines come from: x and y, float32 (len(y), W), in pixels from the outer corner."""
    a, b, c, d, e, f = (np.float32(number) for number in matrix)
    x = np.arange(width, dtype=np.float32) + np.float32(0.5)
    y = y.astype(np.float32)[:, None] + np.float32(0.5)
    return a * x + b * y + c, d * x + e * y + f


def warp(frames: torch.Tensor, matrix: tuple[float, ...], interpolation: str) -> torch.Tensor:
    """PIL's affine transform of every frame.

    Args:
        frames: uint8 (T, C, H, W).
        matrix: (a, b, c, d, e, f): the output point (x, y) shows the input point (ax + by + c, dx + ey + f), in
            pixels from the outer corner of the frame.
        interpolation: "bilinear" or "bicubic".
    """
    a, b, c, d, e, f = matrix
    planes = to_planes(frames)
    if (a, d, e, f) == (1, 0, 1, 0):
        return _slide(planes, matrix, interpolation, axis=1)
    if (a, b, c, e) == (1, 0, 0, 1):
        return _slide(planes, matrix, interpolation, axis=0)
    return _gather(planes, matrix, interpolation)


def _slide(planes: torch.Tensor, matrix: tuple[float, ...], interpolation: str, *, axis: int) -> torch.Tensor:
    """`warp` where whole lines move along themselves: rows (axis 1) or columns (axis 0).

    Lines are moved by whole pixels first. What is left is a fraction of a pixel, a filter of 2 or 4 neighbours.
    """
    num_frames, channels, height, width = planes.shape
    size, lead = planes.shape[2 + axis], _lead(interpolation)
    source = _source(matrix, np.arange(height), width)[1 - axis]
    outside = (source < 0) | (source >= size)
    along = np.arange(size) if axis else np.arange(size)[:, None]
    offset = source - np.float32(0.5) - along.astype(np.float32)
    steps = np.floor(offset.mean(axis=axis)).astype(int)  # of each line
    d = offset - (steps[:, None] if axis else steps).astype(np.float32)
    weights = [torch.from_numpy(np.where(outside, 0, w).astype(np.float32)) for w in _tap_weights(d, interpolation)]
    fill = torch.from_numpy(np.where(outside, np.float32(FILL), np.float32(0)))

    places = np.arange(size + len(weights) - 1) - lead  # of a line that does not move
    if axis:
        moved = np.clip(places + steps[:, None], 0, size - 1) + width * np.arange(height)[:, None]
    else:
        moved = np.clip(places[:, None] + steps, 0, size - 1) * width + np.arange(width)
    shifted = np.empty((num_frames, channels, *moved.shape), np.uint8)
    np.take(planes.flatten(2).numpy(), moved, axis=2, out=shifted, mode="clip")  # "clip" writes without a buffer

    new, levels, total = torch.empty_like(planes), torch.empty(shifted.shape[1:]), torch.empty(planes.shape[1:])
    for frame, target in zip(torch.from_numpy(shifted), new, strict=True):
        levels.copy_(frame)
        total.copy_(fill)
        for k, weight in enumerate(weights):
            total.addcmul_(levels.narrow(1 + axis, k, size), weight)
        _cut_off(total.round_(), target)
    return new


def _gather(planes: torch.Tensor, matrix: tuple[float, ...], interpolation: str) -> torch.Tensor:
    """`warp` by any matrix.

    Every frame and channel takes the same weighted sum of neighbours, so the clip is laid out as one row of T * C
    values for each pixel, and a bag of rows is summed for each output pixel.
    """
    num_frames, channels, height, width = planes.shape
    stacked = planes.view(1, num_frames * channels, height, width)
    rows = stacked.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(height * width, -1)
    table = rows.float()
    new = torch.empty_like(planes)
    new_rows = new.view(num_frames * channels, height * width).numpy()
    block = max(_BLOCK // width, 1)
    num_taps = len(_tap_weights(np.zeros(1), interpolation)) ** 2
    all_neighbours = np.empty((block * width, num_taps), np.int32)
    all_weights = np.empty((block * width, num_taps), np.float32)
    for top in range(0, height, block):
        source_x, source_y = _source(matrix, np.arange(top, min(top + block, height)), width)
        across = _taps(source_x - np.float32(0.5), width, interpolation)
        down = _taps(source_y - np.float32(0.5), height, interpolation)
        neighbours, weights = all_neighbours[: source_x.size], all_weights[: source_x.size]
        for i, ((line, line_weight), (column, column_weight)) in enumerate(itertools.product(down, across)):
            neighbours[:, i] = (line * width + column).ravel()
            weights[:, i] = (line_weight * column_weight).ravel()
        summed = embedding_bag(
            torch.from_numpy(neighbours), table, per_sample_weights=torch.from_numpy(weights), mode="sum"
        )
        levels = np.empty(tuple(summed.shape), np.uint8)
        _cut_off(summed.round_(), torch.from_numpy(levels))
        outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
        levels[outside.ravel()] = FILL
        new_rows[:, top * width : top * width + len(levels)] = levels.T
    return new


def _taps(position: np.ndarray, size: int, interpolation: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Neighbours along one axis, cut off at the edge, and their weights, in the shape of `position`."""
    first = np.floor(position)
    weights = _tap_weights(position - first, interpolation)
    place = first.astype(np.int32) - _lead(interpolation)
    return [(np.minimum(np.maximum(place + k, 0), size - 1), weight) for k, weight in enumerate(weights)]
