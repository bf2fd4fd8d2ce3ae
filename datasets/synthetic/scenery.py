"""What is behind and before the objects: a textured wall, the camera's own motion, and an occluder.

None of it depends on the class.

Axes: T frames, H W pixels, K waves, S texels along a side of the texture. Lengths are in units of the picture's shorter
side.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SIDE = 256  # texels along a side of the texture, which repeats
EXTENT = 1.6  # of the texture
NUM_WAVES = 24
DRIFT = 0.02  # of the camera along each axis, per frame, at most
SHAKE, PERIOD = 0.03, (7.0, 20.0)  # amplitude, and period in frames
ZOOM, ROLL = 0.06, 0.06  # amplitudes of its slow change of size (natural logarithm) and of its roll (radians)
OCCLUDED = 0.3  # share of the videos with an occluder


@dataclass(frozen=True)
class Camera:
    """pan: (T, 2), of the world across and down; zoom: (T,) factor; roll: (T,) radians, clockwise."""

    pan: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray

    @cached_property
    def turn(self) -> np.ndarray:
        """(T, 2, 2): from places of the world, relative to the picture's centre, to those of the picture."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        return self.zoom[:, None, None] * np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)


def draw_camera(num_frames: int, rng: np.random.Generator) -> Camera:
    """A random slow drift with some shake."""
    frames = np.arange(num_frames)[:, None]
    swing = np.sin(2 * np.pi * (rng.random(4) + frames / rng.uniform(*PERIOD, 4)))
    pan = rng.uniform(-DRIFT, DRIFT, 2) * frames + rng.random() * SHAKE * swing[:, :2]
    return Camera(pan, np.exp(ZOOM * rng.random() * swing[:, 2]), ROLL * rng.random() * swing[:, 3])


def draw_texture(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """A random wall that repeats, (S, S, 3) float32 in 0..1: hills, stones, tiles or boards, lit from `light` (3,)."""
    kind = rng.integers(4)
    longest = [1, 2, 2, 2][kind]
    hills = waves(rng, longest, [6, 12, 9, 14][kind])
    if kind == 1:
        hills = np.abs(hills)
    if kind >= 2:
        hills = 0.3 * hills + soften(tiles(rng) if kind == 2 else boards(rng))
    low = rng.uniform(0.1, 0.6, 3)
    high = low + rng.uniform(-0.1, 0.35, 3)  # duller than the objects
    mix = np.clip(0.5 + 0.35 * hills, 0, 1)[..., None]
    slope = light[0] * (hills - np.roll(hills, 1, 1)) + light[1] * (hills - np.roll(hills, 1, 0))
    lit = np.clip(0.8 - 2.0 * slope, 0.3, 1.5)[..., None].astype(np.float32)
    return np.clip((low + (high - low) * mix).astype(np.float32) * lit, 0, 1)


def waves(rng: np.random.Generator, fewest: int, most: int) -> np.ndarray:
    """Waves of random directions, (S, S), about normally distributed, with `fewest` to `most` periods along a side.

    cos(ax + by + c) splits into products of a function of x and one of y: the sum is a product of matrices.
    """
    angle = 2 * np.pi * (np.arange(NUM_WAVES) + rng.random(NUM_WAVES)) / NUM_WAVES
    periods = fewest + (most - fewest) * rng.permutation(NUM_WAVES) / NUM_WAVES
    across, down = np.round(periods * np.cos(angle)), np.round(periods * np.sin(angle))  # whole: the texture repeats
    place = 2 * np.pi * np.arange(SIDE, dtype=np.float32)[:, None] / SIDE
    along_x = place * across.astype(np.float32) + rng.uniform(0, 2 * np.pi, NUM_WAVES).astype(np.float32)
    along_y = place * down.astype(np.float32)
    rows = np.concatenate([np.cos(along_y), -np.sin(along_y)], axis=1)
    columns = np.concatenate([np.cos(along_x), np.sin(along_x)], axis=1)
    # Not by BLAS, whose threads wait for one another for minutes on a busy machine, in every process that draws.
    return np.einsum("yk,xk->yx", rows, columns) * np.float32(np.sqrt(2 / NUM_WAVES))


def tiles(rng: np.random.Generator) -> np.ndarray:
    """Square tiles with joints, each of its own brightness, (S, S)."""
    number = 2 ** int(rng.integers(2, 4))
    tone = np.kron(rng.uniform(-1, 1, (number, number)), np.ones((SIDE // number, SIDE // number)))
    place = np.arange(SIDE) % (SIDE // number)
    joint = np.minimum(np.clip(place - 1, 0, 4), np.clip(SIDE // number - place, 0, 4)) / 4
    return (tone + 1) * np.minimum(joint[:, None], joint) - 1


def boards(rng: np.random.Generator) -> np.ndarray:
    """Parallel boards across or down, (S, S)."""
    number = 2 ** int(rng.integers(2, 5))
    tone = np.repeat(rng.uniform(-1, 1, number), SIDE // number)
    place = np.arange(SIDE) % (SIDE // number)
    across = np.tile(tone + 0.6 * np.sqrt(1 - (2 * place / (SIDE // number) - 1) ** 2), (SIDE, 1))
    return across if rng.random() < 0.5 else across.T


def soften(hills: np.ndarray) -> np.ndarray:
    """Edges over three texels: one texel would flicker where the pixels miss it, (S, S)."""
    for axis in (0, 1):
        hills = (hills + np.roll(hills, 1, axis) + np.roll(hills, -1, axis)) / 3
    return hills


def wall(texture: np.ndarray, camera: Camera, frame: int, size: tuple[int, int]) -> np.ndarray:
    """What the camera sees of the wall in a frame: (H, W, 3) float32."""
    x, y = centred(size)
    back = np.linalg.inv(camera.turn[frame]) * SIDE / EXTENT
    shift = camera.pan[frame] * SIDE / EXTENT
    u = (back[0, 0] * x - shift[0]) + back[0, 1] * y + 2**14 * SIDE  # positive, so that cutting off rounds down
    v = (back[1, 0] * x - shift[1]) + back[1, 1] * y + 2**14 * SIDE
    index = (v.astype(np.int32) % SIDE) * SIDE + u.astype(np.int32) % SIDE
    return texture.reshape(-1, 3).take(index, axis=0)


def centred(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x (1, W) and y (H, 1) of the pixels' centres, from the picture's centre."""
    x, y = ((np.arange(side) + 0.5 - side / 2) / min(size) for side in size)
    return x[None], y[:, None]


@dataclass(frozen=True)
class Occluder:
    """A post close to the camera, soft since out of focus: a band across its `angle`, that moves with the camera."""

    angle: float
    offset: float
    width: float
    speed: float
    colour: np.ndarray

    def paint(self, picture: np.ndarray, camera: Camera, frame: int) -> None:
        """Draw it into a frame, (H, W, 3) float32."""
        x, y = centred((picture.shape[1], picture.shape[0]))
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        nearer = 2.0 * camera.pan[frame]  # it moves by more than the wall
        distance = np.abs(cos * (x - nearer[0]) + sin * (y - nearer[1]) - self.offset - self.speed * frame)
        cover = np.clip((self.width - distance) / 0.03, 0, 1).astype(np.float32)[..., None]
        round_ = 1 - 0.5 * np.clip(distance / self.width, 0, 1).astype(np.float32)[..., None] ** 2
        picture += cover * (self.colour * round_ - picture)


def draw_occluder(rng: np.random.Generator) -> Occluder | None:
    """A random occluder, or none."""
    if rng.random() >= OCCLUDED:
        return None
    colour = rng.uniform(0.03, 0.35, 3).astype(np.float32)
    angle, offset, width, speed = (rng.uniform(*b) for b in ((0, np.pi), (-0.5, 0.5), (0.05, 0.1), (-0.02, 0.02)))
    return Occluder(angle, offset, width, speed, colour)
