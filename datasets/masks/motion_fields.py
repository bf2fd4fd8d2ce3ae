"""From the motion vectors in a coded video to the motion between the frames of a clip: pure functions of arrays.

An encoder of H.264, MPEG-4 or MPEG-2 predicts a block of a frame from a block of another frame, the reference, and
stores the displacement. FFmpeg exports these vectors: the block, its displacement, and whether the reference comes
earlier or later, but not which frame it is. They become motion in four steps:

1. The distance of the reference. Which frames are references and which were decoded before is known. Most encoders
   take the nearest reference most of the time, yet those that may choose among several often do not: in H.264 the four
   nearest are tried, and the one whose picture is most like the block is taken.
2. Way / distance is a velocity per frame, held by every cell of 8 x 8 pixels of the block. A cell that is built from an
   earlier and a later frame takes the mean.
3. Key frames and blocks that are coded without a reference have no vectors. There the frame nearest in time that has
   one holds, if it is at most four frames away, else zero.
4. The motion between two frames of a clip is the sum of the velocities in between, taken where the cell has got to.

Vectors serve compression: they are right where there is texture, and arbitrary in flat areas.

Letters: F frames in a row, S vectors, R references tried, P pairs of frames, h w cells of a picture. Motion is in
pixels, x before y.
"""

import itertools
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import torch

from ..decoding.orientation import Orientation

CELL = 8  # pixels: the smallest block that FFmpeg gives a vector for
# The fields of FFmpeg's `AVMotionVector`: side of the reference, size and centre of the block, displacement * scale.
FIELDS = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")

_REACH = 4  # frames that a velocity holds for where there is no other
_SAMPLES = 3  # along a side of a block, where pictures are compared

Distances = tuple[list[int], list[int]]


def reference_distances(packets: Sequence[tuple[int, bool]], limit: int) -> dict[int, Distances]:
    """The distances from each frame to its possible references.

    Args:
        packets: (presentation time, whether it is a reference) in decoding order.
        limit: references to give on either side.

    Returns:
        Presentation time -> distances in frames to the references before it (negative) and after it, nearest first,
        of those decoded before it.
    """
    numbers = {time: number for number, time in enumerate(sorted(time for time, _ in packets))}
    references: list[int] = []  # rising
    distances = {}
    for time, is_reference in packets:
        number = numbers[time]
        place = bisect_left(references, number)
        earlier, later = references[max(place - limit, 0) : place], references[place : place + limit]
        distances[time] = [other - number for other in reversed(earlier)], [other - number for other in later]
        if is_reference:
            insort(references, number)
    return distances


def velocities(
    vectors: Sequence[np.ndarray], distances: Sequence[Distances], lumas: np.ndarray | None, height: int, width: int
) -> np.ndarray:
    """The velocity of every cell in every frame.

    Args:
        vectors: of each of F frames, int32 (8, any): the rows are FIELDS, the columns vectors.
        distances: of each frame, see `reference_distances`; a side without any drops the vectors to that side.
        lumas: uint8 (F, H / s, W / s), luma of every s-th pixel, to compare references; None takes the
            nearest ones.
        height, width: H and W, of a frame in pixels.

    Returns:
        float32 (2, F, h, w), pixels per frame, x before y.
    """
    shape = 2, len(vectors), -(-height // CELL), -(-width // CELL)
    blocks = np.concatenate(vectors, axis=1)
    frame = np.repeat(np.arange(len(vectors)), [part.shape[1] for part in vectors])
    side = (blocks[0] > 0).astype(np.int64)
    shift = blocks[5:7].astype(np.float32) / blocks[7].astype(np.float32)
    candidates = _candidates(distances)[frame, side]  # (S, R)
    distance = candidates[:, 0].astype(np.float32)
    if lumas is not None:
        (tried,) = np.nonzero((candidates != candidates[:, :1]).any(axis=1) & (np.abs(shift) > 0.5).any(axis=0))
        picked = _most_alike(lumas, height, blocks[:, tried], frame[tried], shift[:, tried], candidates[tried])
        distance[tried] = candidates[tried, picked]
    distance[distance == 0] = np.nan
    both = _spread(blocks, side * len(vectors) + frame, shift / distance, shape)
    is_known = ~np.isnan(both[0])
    count = is_known.sum(axis=0, dtype=np.float32)
    mean = np.where(is_known, both, 0).sum(axis=1) / np.maximum(count, 1)
    return _hold(mean, count > 0)


def _candidates(distances: Sequence[Distances]) -> np.ndarray:
    """(F, 2, R): distances to the references, nearest first; the nearest again where there are fewer or where one lies
    outside the F frames; 0 on a side without any.
    """
    num_references = max(1, *(len(side) for sides in distances for side in sides))
    table = np.zeros((len(distances), 2, num_references), dtype=np.int64)
    for number, sides in enumerate(distances):
        for side, near in enumerate(sides):
            inside = [distance for distance in near if 0 <= number + distance < len(distances)]
            if near:
                table[number, side] = near[0]
                table[number, side, : len(inside)] = inside
    return table


def _most_alike(
    lumas: np.ndarray, height: int, blocks: np.ndarray, frame: np.ndarray, shift: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Which reference each block was built from: where the pictures differ least, at nine points of the block.

    Args:
        lumas: (F, H / s, W / s).
        height: H.
        blocks, frame, shift: (8, S), see FIELDS; the frame each belongs to; displacement (2, S) in pixels.
        candidates: (S, R) distances to the references.

    Returns:
        (S,) positions along R; the first of equals.
    """
    _, rows, columns = lumas.shape
    stride = round(height / rows)
    parts = (np.arange(_SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES - 0.5
    x, y = (blocks[middle][:, None] + parts * blocks[side][:, None] for middle, side in ((3, 1), (4, 2)))
    first = frame * (rows * columns)

    def places(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        row = np.rint(y / stride).astype(np.int64).clip(0, rows - 1)
        column = np.rint(x / stride).astype(np.int64).clip(0, columns - 1)
        return (row[:, :, None] * columns + column[:, None]).reshape(len(frame), _SAMPLES**2)

    flat = lumas.ravel()
    own = flat[places(y, x) + first[:, None]].astype(np.int16)
    there = places(y + shift[1][:, None], x + shift[0][:, None])
    starts = first + candidates.T * (rows * columns)  # (R, S)
    differences = [np.abs(flat[there + start[:, None]] - own).sum(axis=1) for start in starts]
    return np.stack(differences).argmin(axis=0)


def _spread(
    blocks: np.ndarray, picture: np.ndarray, velocity: np.ndarray, shape: tuple[int, int, int, int]
) -> np.ndarray:
    """Gives every cell of a block the block's velocity.

    Args:
        blocks, picture, velocity: (8, S), see FIELDS; which of the 2 * F pictures of vectors a block lies in; (2, S).
        shape: 2, F, h, w.

    Returns:
        float32 (2, 2, F, h, w): axis, earlier or later, ...; NaN where no vector is.
    """
    _, _, rows, columns = shape
    both = np.full((2, np.prod(shape)), np.nan, dtype=np.float32)
    _, width, height, x, y = blocks[:5]
    top, left = y - height // 2, x - width // 2
    for dy, dx in itertools.product(range(0, height.max(initial=0), CELL), range(0, width.max(initial=0), CELL)):
        row, column = (top + dy) // CELL, (left + dx) // CELL
        is_inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        (here,) = np.nonzero(is_inside & (dy < height) & (dx < width))
        place = (picture[here] * rows + row[here]) * columns + column[here]
        for axis in (0, 1):
            both[axis, place] = velocity[axis, here]
    return both.reshape(2, *shape)


def _hold(velocity: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """(2, F, h, w) and (F, h, w) -> (2, F, h, w): what is not known is that of the nearest frame, or else zero."""
    num_frames = len(is_known)
    frame = np.arange(num_frames, dtype=np.int32)[:, None, None]
    before = np.maximum.accumulate(np.where(is_known, frame, -_REACH - num_frames), axis=0)
    after = np.minimum.accumulate(np.where(is_known, frame, 2 * num_frames + _REACH)[::-1], axis=0)[::-1]
    # a tie goes to the later frame, whose vectors describe the motion before it
    nearest = np.where(after - frame <= frame - before, after, before)
    held, row, column = np.nonzero(~is_known & (np.abs(nearest - frame) <= _REACH))
    velocity[:, held, row, column] = velocity[:, nearest[held, row, column], row, column]
    return velocity


def follow(velocity: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Displacements between frames: every cell is followed frame by frame with the velocity at its current position.

    Args:
        velocity: (2, F, h, w), pixels per frame.
        pairs: P pairs (from, to) of frames in 0..F - 1.

    Returns:
        float32 (P, 2, h, w): where the middle of a cell lies in the other frame, minus where it lies in its own.
    """
    rows, columns = velocity.shape[2:]
    y, x = np.indices((rows, columns), dtype=np.float32) * CELL + CELL / 2  # measured from the edge of the picture
    start, end = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    step, length = np.sign(end - start).astype(np.float32), np.abs(end - start)
    places = np.tile(np.stack([x, y]), (len(start), 1, 1, 1))
    for done in range(length.max(initial=0)):
        (moving,) = np.nonzero(done < length)
        column = (places[moving, 0] // CELL).astype(np.int64).clip(0, columns - 1)
        row = (places[moving, 1] // CELL).astype(np.int64).clip(0, rows - 1)
        place = ((start + done * np.sign(end - start))[moving, None, None] * rows + row) * columns + column
        for axis in (0, 1):
            places[moving, axis] += step[moving, None, None] * velocity[axis].ravel()[place]
    return places - np.stack([x, y])


def turn(motion: np.ndarray, orientation: Orientation, height: int, width: int) -> np.ndarray:
    """Motion of a picture as it is coded -> of the picture as it is shown, turned and mirrored.

    Args:
        motion: (P, 2, h, w).
        orientation: how the picture is shown.
        height, width: of the picture as it is shown.
    """
    bottom, right = height - 1, width - 1
    y = np.minimum(np.arange(0, height, CELL) + CELL // 2, bottom)  # a pixel in the middle of each cell
    x = np.minimum(np.arange(0, width, CELL) + CELL // 2, right)
    down, across = (bottom - y if orientation.flip_y else y)[:, None], (right - x if orientation.flip_x else x)[None]
    row, column = (across, down) if orientation.transposed else (down, across)  # where pixel (y, x) was coded
    here = motion[:, ::-1] if orientation.transposed else motion
    here = here[:, :, row // CELL, column // CELL]
    sign_x, sign_y = -1 if orientation.flip_x else 1, -1 if orientation.flip_y else 1
    return np.stack([sign_x * here[:, 0], sign_y * here[:, 1]], axis=1)


def crop_motion(motion: np.ndarray, box: tuple[int, int, int, int], rows: int, columns: int) -> torch.Tensor:
    """The motion in a crop that is resized to `rows` x `columns` cells, counted in these: the centre of each decides.

    Args:
        motion: (P, 2, h, w), pixels of the frames.
        box: (top, left, height, width) of the crop, in pixels of the frames.
        rows, columns: a flow that guides a mask wants a whole number for every token.

    Returns:
        float32 (P, 2, rows, columns).
    """
    top, left, height, width = box
    y = (top + (np.arange(rows) + 0.5) * height / rows).astype(np.int64) // CELL
    x = (left + (np.arange(columns) + 0.5) * width / columns).astype(np.int64) // CELL
    scale = np.array([columns / width, rows / height], dtype=np.float32)[:, None, None]
    return torch.from_numpy(motion[:, :, y[:, None], x] * scale)
