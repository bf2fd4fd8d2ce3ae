"""Solids lit by one lamp: where the rays of sight meet them, what light they send back, and the shadow they throw.

Rays are parallel. A solid is given in its own axes, where it is a unit ball, cube or cylinder: a point p of the world
relative to its centre, in units of `radius`, has the coordinates q = inverse @ p, with `inverse` = (rotation /
half_axes)^T. In the course of a video a solid turns about the line of sight only: the rays are turned back instead, and
all frames are one batch of rays.

Axes: N appearances of a solid, h w of a window around it, m rays that meet it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .motions import draw_rotation

SAMPLES = 2  # rays of a pixel along a side
FLAT = 1e-5  # a face that is this close to parallel with the rays is tilted a little
PENUMBRA = 1.5  # a shadow ends at this multiple of the solid's outline
HEIGHT = 0.5  # of a solid above the wall, in radii


@dataclass(frozen=True)
class Lamp:
    """direction: (3,) unit vector towards it; colour: (3,); ambient: share of the light that comes from everywhere."""

    direction: np.ndarray
    colour: np.ndarray
    ambient: float


@dataclass(frozen=True)
class Solid:
    """shape: a key of SHAPES; half_axes: (3,), the ball around it has radius 1; rotation: (3, 3), from its axes to the
    world's; pattern: a key of PATTERNS; colours: (2, 3) of the pattern's two parts; gloss: brightness of the highlight.
    """

    shape: str
    half_axes: np.ndarray
    rotation: np.ndarray
    pattern: str
    colours: np.ndarray
    gloss: float


@dataclass(frozen=True)
class Poses:
    """Where a solid appears, N times.

    centre: (N, 2) x and y in pixels; radius: (N,) of the ball around it, in pixels; angle: (N,) by which it is turned
    clockwise; opacity: (N,) in 0..1.
    """

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray

    def part(self, which: slice) -> "Poses":
        """Some of them."""
        return Poses(self.centre[which], self.radius[which], self.angle[which], self.opacity[which])


@dataclass(frozen=True)
class Sprites:
    """Small pictures to lay over larger ones, of which `keep` of what is there is left: result = keep * there + light.

    corner: (N, 2) column and row of the upper left pixel; keep: (N, h, w, 1); light: (N, h, w, 3), or 0.
    """

    corner: np.ndarray
    keep: np.ndarray
    light: np.ndarray | None

    def paste(self, number: int, picture: np.ndarray) -> None:
        """Lay one of them over a picture, (H, W, 3) float32."""
        (left, top), (height, width) = self.corner[number].tolist(), self.keep.shape[1:3]
        rows, columns = (
            slice(max(start, 0), min(start + length, side))
            for start, length, side in ((top, height, picture.shape[0]), (left, width, picture.shape[1]))
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:  # beside the picture
            return
        inner = (number, slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        there = picture[rows, columns]
        there *= self.keep[inner]
        if self.light is not None:
            there += self.light[inner]


@dataclass(frozen=True)
class Hits:
    """The m rays that meet a solid, as numbers of `index`, and where: its coordinates q, and normals of length 1 in the
    world before it is turned; (3, m) each.
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
    return Solid(
        shape, longest / bounding, draw_rotation(rng), pattern, np.array([first, second]), rng.uniform(0.0, 0.6)
    )


def shadows(solid: Solid, poses: Poses, lamp: Lamp) -> Sprites:
    """What is left of the wall's light in a solid's soft shadow."""
    shift = HEIGHT / lamp.direction[2] * lamp.direction[:2]
    corner, u, v = _rays(poses, poses.centre - shift * poses.radius[:, None], PENUMBRA, 1)
    # Outline of the ellipsoid with the solid's axes: p^T (R D^2 R^T)^-1 p = 1, with the upper 2 x 2 block.
    axes = (solid.rotation * solid.half_axes)[:2] * PENUMBRA
    (a, b), (_, c) = np.linalg.inv(axes @ axes.T).tolist()
    depth = np.maximum(1 - (a * u * u + (2 * b) * u * v + c * v * v), 0)
    dark = ((1 - lamp.ambient) * poses.opacity).astype(np.float32)
    return Sprites(corner, (1 - depth * depth * dark[:, None, None])[..., None], None)


def lit(solid: Solid, poses: Poses, lamp: Lamp) -> Sprites:
    """A solid as it is seen in the light of the lamp."""
    corner, u, v = _rays(poses, poses.centre, 1, SAMPLES)
    inverse = (solid.rotation / solid.half_axes).T.astype(np.float32)
    hits = SHAPES[solid.shape](u.ravel(), v.ravel(), inverse)
    samples = np.zeros((4, u.size), np.float32)
    samples[:, hits.index] = shade(solid, lamp, hits, poses.angle[hits.index // u[0].size])
    # How much of each pixel is the solid, and how much light comes from its two colours and its highlight: the colours
    # themselves are mixed once a pixel, not once a ray.
    cover, *light = _shrink(samples.reshape(4, *u.shape)) * poses.opacity[:, None, None].astype(np.float32)
    colours = np.concatenate([solid.colours * lamp.colour, np.full((1, 3), solid.gloss)]).astype(np.float32)
    return Sprites(corner, (1 - cover)[..., None], np.einsum("...k,kc->...c", np.stack(light, axis=-1), colours))


def shade(solid: Solid, lamp: Lamp, hits: Hits, angle: np.ndarray) -> np.ndarray:
    """(4, m): ones, the light from each of the solid's colours, and the highlight's, with the solid turned by `angle`.

    Lambert's diffuse and Blinn's specular reflection.
    """
    middle = lamp.direction + [0, 0, 1]
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    (across, down, near), found = hits.normal, []
    for x, y, z in (lamp.direction, middle / np.linalg.norm(middle)):  # turned back, as the rays are
        x, y, z = np.array([x, y, z], np.float32)
        found.append(np.maximum((cos * x + sin * y) * across + (cos * y - sin * x) * down + z * near, 0))
    diffuse, specular = found
    for _ in range(4):  # to the power of 16
        specular *= specular
    brightness = np.float32(lamp.ambient) + np.float32(1 - lamp.ambient) * diffuse
    first = PATTERNS[solid.pattern](hits.q)
    return np.stack([np.ones_like(diffuse), first * brightness, ~first * brightness, specular])


# ---------------------------------------------------------------------------------------- rays


def _rays(poses: Poses, centre: np.ndarray, reach: float, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows that hold `reach` radii around the centres: corners (N, 2) in pixels, and u and v of the rays.

    u, v: (N, h, w) in radii from the centre, turned back by the angle, at `samples` places of a pixel along a side.
    """
    side = 2 * int(np.ceil(reach * poses.radius.max())) + 1
    corner = np.floor(centre - side / 2 + 0.5).astype(int)
    place = (np.arange(side * samples) + 0.5) / samples
    x, y = ((corner[:, [axis]] + place - centre[:, [axis]]) / poses.radius[:, None] for axis in (0, 1))
    cos, sin = np.cos(poses.angle)[:, None], np.sin(poses.angle)[:, None]
    u = (cos * x).astype(np.float32)[:, None] + (sin * y).astype(np.float32)[:, :, None]
    v = (-sin * x).astype(np.float32)[:, None] + (cos * y).astype(np.float32)[:, :, None]
    return corner, u, v


def _shrink(samples: np.ndarray) -> np.ndarray:
    """Means over the samples of every pixel: (..., h, w) -> (..., h / SAMPLES, w / SAMPLES)."""
    rows = samples[..., ::2, :] + samples[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) * np.float32(1 / SAMPLES**2)


# ---------------------------------------------------------------------------------------- shapes and patterns


def _ball(u: np.ndarray, v: np.ndarray, inverse: np.ndarray) -> Hits:
    middle, root = _round(u, v, inverse)
    index = np.flatnonzero(root > 0)
    q = _points(u, v, inverse, index, np.sqrt(root[index]) - middle[index])
    return Hits(index, q, _unit(_times(inverse.T, q)))


def _box(u: np.ndarray, v: np.ndarray, inverse: np.ndarray) -> Hits:
    slabs = [_slab(u, v, row) for row in inverse]
    nearest = np.minimum.reduce([reach - middle for middle, reach in slabs])
    farthest = np.maximum.reduce([-reach - middle for middle, reach in slabs])
    index = np.flatnonzero(nearest > farthest)
    q = _points(u, v, inverse, index, nearest[index])
    normals = _unit(inverse.T) * np.sign(inverse[:, 2])
    return Hits(index, q, normals[:, np.abs(q).argmax(axis=0)])


def _cylinder(u: np.ndarray, v: np.ndarray, inverse: np.ndarray) -> Hits:
    middle, root = _round(u, v, inverse[:2])
    index = np.flatnonzero(root > 0)
    middle, wall = middle[index], np.sqrt(root[index])
    cap_middle, reach = _slab(u[index], v[index], inverse[2])
    nearest, farthest = np.minimum(wall - middle, reach - cap_middle), np.maximum(-wall - middle, -reach - cap_middle)
    met = np.flatnonzero(nearest > farthest)
    index, on_cap = index[met], (reach - cap_middle < wall - middle)[met]
    q = _points(u, v, inverse, index, nearest[met])
    cap_normal = _unit(inverse[2] * np.sign(inverse[2, 2]))[:, None]
    return Hits(index, q, np.where(on_cap, cap_normal, _unit(_times(inverse[:2].T, q[:2]))))


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


def _round(u: np.ndarray, v: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays p = (u, v, z) meet |inverse @ p| = 1 at z = -middle +- sqrt(root), if root > 0."""
    (uu, uv, uz), (_, vv, vz), (_, _, zz) = (inverse.T @ inverse).tolist()
    middle = (uz / zz) * u + (vz / zz) * v
    return middle, middle * middle + 1 / zz - u * ((uu / zz) * u + (2 * uv / zz) * v) - (vv / zz) * v * v


def _slab(u: np.ndarray, v: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, float]:
    """Rays p = (u, v, z) meet |row @ p| = 1 at z = -middle +- reach."""
    a, b, c = row.tolist()
    c = c if abs(c) > FLAT else FLAT
    return (a / c) * u + (b / c) * v, 1 / abs(c)


def _points(u: np.ndarray, v: np.ndarray, inverse: np.ndarray, index: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(3, m): the points at `depth` on the rays `index`, in the solid's coordinates."""
    return _times(inverse, np.stack([u[index], v[index], depth]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.maximum((vectors * vectors).sum(axis=0), 1e-12))


def _times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(i, m) of (i, j) and (j, m). Not by BLAS, whose threads wait for one another in processes that draw at a time."""
    return np.einsum("ij,jm->im", matrix, vectors)
