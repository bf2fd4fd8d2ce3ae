"""The classes of the generated videos, and where an object is in every frame.

An object's pose is its place, its turn and how near it is. Places lie on a torus (what leaves the picture at one side
comes back at the other), turns are rotations, and nearness lies on a circle (an object that came as near as it can
fades, and another comes out of the haze). Every video starts at a uniformly random pose, and every motion maps uniform
poses to uniform poses. So an object's pose has the same distribution in every frame of every class, and a single frame
cannot tell the class. The classes come in pairs of which one is the other played backwards.

Axes: T frames. Lengths are in units of the picture's shorter side; x is to the right, y down, z towards the viewer.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Motion:
    """What the main objects of a class do: `kind` of motion, in one direction (+1) or backwards (-1)."""

    kind: str
    direction: int


MOTIONS: dict[str, Motion] = {  # the order is the label
    "left": Motion("across", -1),
    "right": Motion("across", +1),
    "up": Motion("down", -1),
    "down": Motion("down", +1),
    "turn_clockwise": Motion("turn", +1),
    "turn_counter_clockwise": Motion("turn", -1),
    "approach": Motion("approach", +1),
    "recede": Motion("approach", -1),
    "circle_clockwise": Motion("circle", +1),
    "circle_counter_clockwise": Motion("circle", -1),
}
CLASS_NAMES = tuple(MOTIONS)

# A frame: sides of the picture; radians; parts of the circle that nearness lies on; radians along the circle.
SPEED = {
    "across": (0.05, 0.08),
    "down": (0.05, 0.08),
    "turn": (0.3, 0.5),
    "approach": (0.06, 0.09),
    "circle": (0.5, 0.7),
}
CIRCLE_RADIUS = 0.16
MARGIN = 0.1  # by which the torus is longer than the picture
RADIUS = (0.17, 0.42)  # of the ball around the farthest and the nearest object
FADING = 0.2  # of the circle, at either end


@dataclass(frozen=True)
class Path:
    """An object's pose in every frame.

    Attributes:
        place: (T, 2) x and y of its centre, not wrapped round the torus.
        nearness: (T,) in [0, 1).
        angle: (T,) by which it is turned about the line of sight, in radians, clockwise on the screen.
    """

    place: np.ndarray
    nearness: np.ndarray
    angle: np.ndarray

    @property
    def radius(self) -> np.ndarray:
        """(T,) of the ball around the object."""
        return RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** self.nearness

    @property
    def opacity(self) -> np.ndarray:
        """(T,) in 0..1: less than 1 in the haze and close to the viewer."""
        return np.clip(np.minimum(self.nearness, 1 - self.nearness) / FADING, 0, 1)


def draw_speed(motion: Motion, rng: np.random.Generator) -> float:
    """The speed of a motion, alike for all main objects of a video, with its direction as the sign."""
    return motion.direction * rng.uniform(*SPEED[motion.kind])


def draw_path(
    kind: str, speed: float, rng: np.random.Generator, *, num_frames: int, period: np.ndarray, nearness: float
) -> Path:
    """The path of an object from a uniformly random place; its `nearness` and its rotation at angle 0 must be so too.

    period: (2,) of the torus across and down.
    """
    moved = speed * np.arange(num_frames)
    place = np.tile(rng.random(2) * period, (num_frames, 1))
    phase = rng.uniform(0, 2 * np.pi)
    if kind == "across":
        place[:, 0] += moved
    elif kind == "down":
        place[:, 1] += moved
    elif kind == "circle":
        place += CIRCLE_RADIUS * np.stack([np.cos(phase + moved), np.sin(phase + moved)], axis=1)
    turned = moved if kind == "turn" else np.zeros(num_frames)
    nearer = moved if kind == "approach" else np.zeros(num_frames)
    return Path(place, (nearness + nearer) % 1, turned)


def draw_rotation(rng: np.random.Generator) -> np.ndarray:
    """A uniformly random rotation, (3, 3): a unit quaternion of uniform direction (Shoemake 1992)."""
    w, x, y, z = (lambda q: q / np.linalg.norm(q))(rng.standard_normal(4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
