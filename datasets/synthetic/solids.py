"""Solids lit by one lamp: where the rays of sight meet them, what light they send back, and the shadow they throw.

Rays are parallel. A solid is given in its own axes, where it is a unit ball, cube or cylinder: a point p of the world
relative to its centre has the coordinates q = inverse @ p, with `inverse` = (rotation / half_axes)^T.

Axes: h w of a window of the picture, at twice its resolution.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SAMPLES = 2  # rays of a pixel along a side
FLAT = np.float32(1e-5)  # a face that is this close to parallel with the rays is tilted a little
SHADOW_REACH = 1.5  # a shadow ends at this multiple of the solid's outline


@dataclass(frozen=True)
class Lamp:
    """direction: (3,) unit vector towards it; colour: (3,); ambient: share of the light that comes from everywhere."""

    direction: np.ndarray
    colour: np.ndarray
    ambient: float


@dataclass(frozen=True)
class Solid:
    """shape: a key of SHAPES; half_axes: (3,), the ball around it has radius 1; pattern: a key of PATTERNS; colours:
    (2, 3) of the pattern's two parts; gloss: brightness of the highlight.
    """

    shape: str
    half_axes: np.ndarray
    pattern: str
    colours: np.ndarray
    gloss: float


@dataclass(frozen=True)
class Pose:
    """Of a solid in one frame, in pixels.

    centre: x and y; radius: of the ball around it; rotation: (3, 3); opacity: 0..1; height: above the background.
    """

    centre: tuple[float, float]
    radius: float
    rotation: np.ndarray
    opacity: float
    height: float


@dataclass(frozen=True)
class Hits:
    """The m rays of a window that meet a solid, as (m,) numbers of `index`, and where: coordinates q and normals in the
    world, of length 1, (3, m) each.
    """

    index: np.ndarray
    q: np.ndarray
    normal: np.ndarray


def draw_solid(rng: np.random.Generator, *, plain: bool = False) -> Solid:
    """A random solid; if `plain`, a ball of one colour."""
    shape = "ball" if plain else str(rng.choice(list(SHAPES)))
    longest = np.array([1.0, 1.0, 1.0]) if plain else np.array([*rng.uniform(0.4, 0.6, 2), 1.0])
    bounding = {"ball": 1.0, "box": np.linalg.norm(longest), "cylinder": np.hypot(longest[:2].max(), 1.0)}[shape]
    first = rng.uniform(0.35, 1.0, 3)
    second = first if plain else rng.uniform(0.0, 1.0, 3) * rng.choice([0.25, 0.9])
    pattern = "halves" if plain else str(rng.choice(list(PATTERNS)))
    return Solid(shape, longest / bounding, pattern, np.array([first, second]), rng.uniform(0.0, 0.6))


def paint_shadow(frame: np.ndarray, solid: Solid, pose: Pose, lamp: Lamp) -> None:
    """Darken a frame, (H, W, 3) float32, where the background lies in a solid's soft shadow."""
    (x, y), (across, down) = pose.centre, pose.height / lamp.direction[2] * lamp.direction[:2]
    centre = float(x - across), float(y - down)
    window = _window(frame, centre, SHADOW_REACH * pose.radius)
    if window is None:
        return
    x_w, y_h = _coordinates(window, centre, 1)
    # Outline of the ellipsoid with the solid's axes: p^T (R D^2 R^T)^-1 p = 1, with the upper 2 x 2 block.
    axes = (pose.rotation * solid.half_axes)[:2] * (SHADOW_REACH * pose.radius)
    (xx, xy), (_, yy) = (axes @ axes.T).tolist()
    scale = 1 / (xx * yy - xy * xy)
    outside = (scale * yy) * x_w**2 + (scale * xx) * y_h**2 - (x_w * (2 * scale * xy)) * y_h
    depth = np.maximum(1 - outside, 0)
    frame[window] *= 1 - (depth * depth * ((1 - lamp.ambient) * pose.opacity))[..., None]


def paint_solid(frame: np.ndarray, solid: Solid, pose: Pose, lamp: Lamp) -> None:
    """Draw a solid into a frame, (H, W, 3) float32."""
    window = _window(frame, pose.centre, pose.radius)
    if window is None:
        return
    x, y = _coordinates(window, pose.centre, SAMPLES)
    inverse = (pose.rotation / (solid.half_axes * pose.radius)).T.astype(np.float32)
    hits = SHAPES[solid.shape](x, y, inverse)
    samples = np.zeros((4, y.size * x.size), np.float32)
    samples[:, hits.index] = shade(solid, lamp, hits)
    # How much of each pixel is the solid, and how much light comes from its two colours and its highlight: the colours
    # themselves are mixed once a pixel, not once a ray.
    cover, *light = _shrink(samples.reshape(4, y.size, x.size)) * np.float32(pose.opacity)
    colours = np.concatenate([solid.colours * lamp.colour, np.full((1, 3), solid.gloss)]).astype(np.float32)
    frame[window] += np.stack(light, axis=-1) @ colours - cover[..., None] * frame[window]


def shade(solid: Solid, lamp: Lamp, hits: Hits) -> np.ndarray:
    """(4, m): ones, the light from each of the solid's colours, and the highlight's.

    Lambert's diffuse and Blinn's specular reflection.
    """
    middle = lamp.direction + [0, 0, 1]
    directions = np.stack([lamp.direction, middle / np.linalg.norm(middle)]).astype(np.float32)
    diffuse, specular = np.maximum(directions @ hits.normal, 0)
    for _ in range(4):  # to the power of 16
        specular *= specular
    brightness = np.float32(lamp.ambient) + np.float32(1 - lamp.ambient) * diffuse
    first = PATTERNS[solid.pattern](hits.q)
    return np.stack([np.ones_like(diffuse), first * brightness, ~first * brightness, specular])


# ---------------------------------------------------------------------------------------- shapes and patterns


def _ball(x: np.ndarray, y: np.ndarray, inverse: np.ndarray) -> Hits:
    middle, root = _round(x, y, inverse)
    index = np.flatnonzero(root > 0)
    depth = np.sqrt(root.take(index)) - middle.take(index)
    q = _points(x, y, inverse, index, depth)
    return Hits(index, q, _unit(inverse.T @ q))


def _box(x: np.ndarray, y: np.ndarray, inverse: np.ndarray) -> Hits:
    middles, reach = _slabs(x, y, inverse)
    nearest = np.minimum.reduce([r - m for m, r in zip(middles, reach, strict=True)])
    farthest = np.maximum.reduce([-r - m for m, r in zip(middles, reach, strict=True)])
    index = np.flatnonzero(nearest > farthest)
    depth = nearest.take(index)
    q = _points(x, y, inverse, index, depth)
    normals = _unit(inverse.T) * np.sign(inverse[:, 2])
    return Hits(index, q, normals[:, np.abs(q).argmax(axis=0)])


def _cylinder(x: np.ndarray, y: np.ndarray, inverse: np.ndarray) -> Hits:
    middle, root = _round(x, y, inverse[:2])
    wall = np.sqrt(np.maximum(root, 0))
    (cap_middle,), (reach,) = _slabs(x, y, inverse[2:])
    cap = reach - cap_middle
    nearest = np.minimum(wall - middle, cap)
    index = np.flatnonzero((root > 0) & (nearest > np.maximum(-wall - middle, -reach - cap_middle)))
    depth = nearest.take(index)
    q = _points(x, y, inverse, index, depth)
    cap_normal = _unit(inverse[2] * np.sign(inverse[2, 2]))[:, None]
    return Hits(index, q, np.where(depth == cap.take(index), cap_normal, _unit(inverse[:2].T @ q[:2])))


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Hits]] = {
    "ball": _ball,
    "box": _box,
    "cylinder": _cylinder,
}
PATTERNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of q, which points have the first colour, (m,) bool
    "halves": lambda q: q[2] > 0,
    "end": lambda q: q[2] > 0.4,
    "stripes": lambda q: np.abs(np.abs(q[2]) - 0.5) < 0.25,
    "checks": lambda q: (q[0] > 0) ^ (q[1] > 0) ^ (q[2] > 0),
}


def _round(x: np.ndarray, y: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays p = (x, y, z) meet |inverse @ p| = 1 at z = -middle +- sqrt(root), if root > 0: both (h, w)."""
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = (inverse.T @ inverse).tolist()
    middle = (xz / zz) * x + (yz / zz) * y
    return middle, middle * middle - ((xx * x * x - 1) / zz + (yy / zz) * y * y + x * ((2 * xy / zz) * y))


def _slabs(x: np.ndarray, y: np.ndarray, inverse: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """Rays p = (x, y, z) meet |row @ p| = 1 at z = -middle +- reach: (h, w), and a number, for each row."""
    along = np.where(np.abs(inverse[:, 2]) < FLAT, FLAT, inverse[:, 2])
    rows = zip((inverse[:, 0] / along).tolist(), (inverse[:, 1] / along).tolist(), strict=True)
    return [a * x + b * y for a, b in rows], (1 / np.abs(along)).tolist()


def _points(x: np.ndarray, y: np.ndarray, inverse: np.ndarray, index: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(3, m): the points at `depth` on the rays `index`, in the solid's coordinates."""
    row, column = np.divmod(index, x.size)
    return inverse @ np.stack([x[0].take(column), y[:, 0].take(row), depth])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.maximum((vectors * vectors).sum(axis=0), 1e-12))


# ---------------------------------------------------------------------------------------- windows


def _window(frame: np.ndarray, centre: tuple[float, float], radius: float) -> tuple[slice, slice] | None:
    """The part of the frame within `radius` of `centre` across and down; None if there is none."""
    columns, rows = (
        slice(max(math.floor(middle - radius), 0), min(math.ceil(middle + radius) + 1, side))
        for middle, side in zip(centre, frame.shape[1::-1], strict=True)
    )
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _coordinates(window: tuple[slice, slice], centre: tuple[float, float], samples: int) -> tuple[np.ndarray, ...]:
    """x (1, w) and y (h, 1) relative to `centre`, in pixels, at `samples` places of every pixel along a side."""
    y, x = (
        np.arange(part.start + 0.5 / samples - middle, part.stop - middle, 1 / samples, dtype=np.float32)
        for part, middle in zip(window, centre[::-1], strict=True)
    )
    return x[None], y[:, None]


def _shrink(samples: np.ndarray) -> np.ndarray:
    """Means over the samples of every pixel: (..., h, w) -> (..., h / SAMPLES, w / SAMPLES)."""
    rows = samples[..., ::2, :] + samples[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) * np.float32(1 / SAMPLES**2)
