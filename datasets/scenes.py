"""Draws the generated videos: a camera moves past glossy balls that float before a patterned wall.

The class is how the camera moves, and nothing else: it slides, turns or zooms, at constant speed or to and fro, and its
holder's hand sways a little. Balls are of one size at different distances, so near ones are large and pass faster, and
cover those behind them; one lamp lights all, and balls cast shadows.

In every frame of every class the picture has the same distribution, so a single frame cannot tell the class:

* Balls lie on a torus larger than the view, evenly: sliding or turning them gives balls that lie evenly.
* The wall is a sum of waves in all directions and of random phases; sliding or turning gives the same.
* Sizes of balls and lengths of waves lie on a circle, evenly: what leaves at one end of the range, where it is faint,
  returns at the other. So a zoom does not change their distribution either.
* The lamp's direction is random.

The motion is the same throughout a video, so a clip from anywhere in it has the label.
Mirroring turns `left` into `right`: train on this data without a flip.

Axes: T frames, H W pixels, K waves. Lengths are in units of the picture's shorter side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ACROSS, DOWN, ANGLE, ZOOM = range(4)  # the coordinates of the view


@dataclass(frozen=True)
class Motion:
    """What a class does to the view: moves one coordinate up (+1) or down (-1), or to and fro (0)."""

    coordinate: int
    direction: int


MOTIONS: dict[str, Motion] = {  # the order is the label; names say how the picture's content moves
    "left": Motion(ACROSS, -1),
    "right": Motion(ACROSS, +1),
    "up": Motion(DOWN, -1),
    "down": Motion(DOWN, +1),
    "turn_clockwise": Motion(ANGLE, +1),
    "turn_counter_clockwise": Motion(ANGLE, -1),
    "approach": Motion(ZOOM, +1),
    "recede": Motion(ZOOM, -1),
    "oscillate_across": Motion(ACROSS, 0),
    "oscillate_down": Motion(DOWN, 0),
}
CLASS_NAMES = tuple(MOTIONS)

SPEED = (0.03, 0.05)  # of the wall in a slide, per frame
# Turns (radians) and zooms (natural logarithm of the size) that move the picture's content about as fast as a slide.
SPEED_FACTOR = {ACROSS: 1.0, DOWN: 1.0, ANGLE: 3.0, ZOOM: 2.5}
PERIOD = (6.0, 9.0)  # of a to-and-fro motion, in frames
SWAY, SWAY_PERIOD = 0.006, (12.0, 24.0)  # of the hand that holds the camera

# Many short waves: all clips have about the same spectrum, and a place tells little about those beyond its neighbours.
# So the motion is what the parts of a clip share, which is what a model learns that predicts some parts from others.
NUM_WAVES = 32
WAVELENGTH = (0.12, 0.24)
CONTRAST = 2.5
WALL_COLOURS = ((0, 120), (120, 255))  # of the valleys and of the crests

# On the torus; a fifth of them is in view. What is behind a ball cannot be predicted: with 60 of them SIGMA had learned
# nothing after 1,209 steps of 32 clips, with 20 its k-NN accuracy was 43 % (mean of three seeds).
NUM_BALLS = 20
RADIUS = (0.11, 0.27)  # the smallest pass as fast as the wall
LAMP_ELEVATION = (0.6, 1.0)  # radians above the wall
AMBIENT, HIGHLIGHT, SHADOW = 0.25, 150.0, 0.55


def draw_scene(label: int, num_frames: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The frames of one video of a class, (T, H, W, 3) float32 from 0 to 255; `size` is width and height in pixels."""
    view = draw_view(MOTIONS[CLASS_NAMES[label]], num_frames, rng)
    mix = 1 / (1 + np.exp(-CONTRAST * draw_waves(view, size, rng)))[..., None]
    dark, bright = (rng.uniform(*bounds, 3).astype(np.float32) for bounds in WALL_COLOURS)
    frames = dark + (bright - dark) * mix
    balls, lamp = Balls.random(size, rng), Lamp.random(rng)
    for frame, place in zip(frames, view, strict=True):
        balls.paint(frame, place, lamp)
    return np.clip(frames, 0, 255)


def draw_view(motion: Motion, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Where the view is in every frame, (T, 4): shift across, shift down, angle, logarithm of the zoom."""
    frames = np.arange(num_frames)
    speed, period, start = (rng.uniform(*bounds) for bounds in (SPEED, PERIOD, (0.0, 1.0)))
    if motion.direction:
        moved = motion.direction * speed * frames
    else:  # on its way as fast as the others, give or take
        moved = 1.4 * speed * period / (2 * np.pi) * np.sin(2 * np.pi * (start + frames / period))
    view = np.zeros((num_frames, 4))
    view[:, motion.coordinate] = SPEED_FACTOR[motion.coordinate] * moved
    for coordinate in (ACROSS, DOWN):
        turns = rng.random() + frames / rng.uniform(*SWAY_PERIOD)
        view[:, coordinate] += SWAY * np.sin(2 * np.pi * turns)
    return view


def draw_waves(view: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random pattern under the given views, (T, H, W) float32, about normally distributed.

    A wave's phase is linear in x and y whatever the view, so cos(ax + by + c) splits into products of a function of x
    and one of y, and the sum over waves into a product of matrices.
    """
    x, y = _coordinates(size)
    spread = _evenly(NUM_WAVES, rng)
    octaves = np.log2(WAVELENGTH[1] / WAVELENGTH[0])
    octave_TK = (octaves * rng.permutation(spread) + view[:, [ZOOM]] / np.log(2)) % octaves
    weight_TK = np.sin(np.pi * octave_TK / octaves) ** 2
    frequency_TK = 2 * np.pi / (WAVELENGTH[0] * 2**octave_TK)
    direction_TK = 2 * np.pi * spread + view[:, [ANGLE]]
    along_x, along_y = frequency_TK * np.cos(direction_TK), frequency_TK * np.sin(direction_TK)
    phase_TK = rng.uniform(0, 2 * np.pi, NUM_WAVES) - along_x * view[:, [ACROSS]] - along_y * view[:, [DOWN]]
    phase_TKW = (along_x[:, :, None] * x + (phase_TK % (2 * np.pi))[:, :, None]).astype(np.float32)
    phase_THK = (along_y[:, None] * y[:, None]).astype(np.float32)
    weight_TK = (weight_TK / (0.45 * np.sqrt(NUM_WAVES))).astype(np.float32)
    across = np.concatenate([np.cos(phase_TKW), -np.sin(phase_TKW)], axis=1)
    down = np.concatenate([np.cos(phase_THK), np.sin(phase_THK)], axis=2) * np.tile(weight_TK, 2)[:, None]
    return down @ across


@dataclass(frozen=True)
class Lamp:
    """Direction of the light: an angle in the wall's plane, and one above it, in radians."""

    angle: float
    elevation: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Lamp":
        return cls(rng.uniform(0, 2 * np.pi), rng.uniform(*LAMP_ELEVATION))

    def seen_at(self, angle: float) -> tuple[float, float, float]:
        """Unit vector to the lamp (across, down, towards the camera), once the view has turned by an angle."""
        flat = np.exp(1j * (self.angle + angle)) * np.cos(self.elevation)
        return float(flat.real), float(flat.imag), float(np.sin(self.elevation))


@dataclass(frozen=True)
class Balls:
    """Balls of one video.

    Attributes:
        places: across + 1j * down, in radii of the ball as seen: the same for a ball however far the camera is.
        octaves: logarithm of the radius over the smallest.
        colours: (number, 3) RGB.
        reach: half the torus's side, in radii; what is beyond never comes into view.
        x, y: of the pixels' centres.
    """

    places: np.ndarray
    octaves: np.ndarray
    colours: np.ndarray
    reach: float
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def random(cls, size: tuple[int, int], rng: np.random.Generator) -> "Balls":
        x, y = _coordinates(size)
        reach = (
            np.hypot(*size) / (2 * min(size)) / RADIUS[0] + 1.6
        )  # what is cut off of a shadow is of the faintest balls
        places = rng.uniform(-reach, reach, NUM_BALLS) + 1j * rng.uniform(-reach, reach, NUM_BALLS)
        octaves = rng.permutation(_evenly(NUM_BALLS, rng)) * np.log(RADIUS[1] / RADIUS[0])
        low, any_, high = ((20, 90), (30, 255), (180, 255))  # one channel low and one high: no ball is grey
        colours = np.stack([rng.uniform(*bounds, NUM_BALLS) for bounds in (low, any_, high)], axis=1)
        return cls(places, octaves, rng.permuted(colours, axis=1).astype(np.float32), reach, x, y)

    def paint(self, frame: np.ndarray, view: np.ndarray, lamp: Lamp) -> None:
        """Paint the balls and their shadows onto a frame (H, W, 3), the far ones first."""
        across, down, angle, zoom = view
        turn, side, octaves = np.exp(1j * angle), 2 * self.reach, np.log(RADIUS[1] / RADIUS[0])
        moved = self.places + (across + 1j * down) / turn / RADIUS[0]
        moved = (moved.real + self.reach) % side + 1j * ((moved.imag + self.reach) % side) - self.reach * (1 + 1j)
        octave = (self.octaves + zoom) % octaves
        radii = RADIUS[0] * np.exp(octave)
        centres = moved * turn * radii
        opacities = np.minimum(1, 3 * np.sin(np.pi * octave / octaves) ** 2)
        light = lamp.seen_at(angle)
        for i in np.argsort(radii):
            self._paint_one(frame, complex(centres[i]), float(radii[i]), float(opacities[i]), self.colours[i], light)

    def _paint_one(
        self,
        frame: np.ndarray,
        centre: complex,
        radius: float,
        opacity: float,
        colour: np.ndarray,
        light: tuple[float, float, float],
    ) -> None:
        across, down, towards = light
        shadow = centre - complex(across, down) * 1.1 * radius
        for part, _, _, inside in self._disc(frame, shadow, radius):
            part *= 1 - (SHADOW * opacity) * np.clip(1.5 * inside, 0, 1)[..., None]
        for part, x, y, inside in self._disc(frame, centre, radius):
            z = np.sqrt(np.maximum(inside, 0))
            facing = x * across + y * down + z * towards
            # Half way between the lamp and the camera, which is far off (Blinn 1977); to the power of 16.
            shine = np.maximum((facing + z) / np.sqrt(2 + 2 * towards), 0)
            for _ in range(4):
                shine *= shine
            lit = colour * (AMBIENT + (1 - AMBIENT) * np.maximum(facing, 0))[..., None] + HIGHLIGHT * shine[..., None]
            edge = np.clip(inside * (radius * min(frame.shape[:2]) / 2), 0, opacity)  # soft over a pixel
            part += edge[..., None] * (lit - part)

    def _disc(
        self, frame: np.ndarray, centre: complex, radius: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """The part of a frame about a disc: its pixels, x and y from the centre in radii, and 1 - x^2 - y^2.

        Nothing, if the disc is out of view.
        """
        left, right = self.x.searchsorted((centre.real - radius, centre.real + radius))
        top, bottom = self.y.searchsorted((centre.imag - radius, centre.imag + radius))
        if left < right and top < bottom:
            x = (self.x[left:right] - centre.real) / radius
            y = (self.y[top:bottom, None] - centre.imag) / radius
            yield frame[top:bottom, left:right], x, y, 1 - x * x - y * y


def _coordinates(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the centres of pixels, from the picture's centre."""
    x, y = (((np.arange(side) + 0.5 - side / 2) / min(size)).astype(np.float32) for side in size)
    return x, y


def _evenly(number: int, rng: np.random.Generator) -> np.ndarray:
    """Random values from 0 to 1, but evenly over the range."""
    return (np.arange(number) + rng.random(number)) / number
