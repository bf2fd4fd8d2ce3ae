"""The frames of a generated video, and its encoding."""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from operator import itemgetter

import av
import numpy as np

from . import scenery
from .motions import CLASS_NAMES, MARGIN, MOTIONS, Path, draw_path, draw_speed
from .solids import Lamp, Poses, Solid, Sprites, draw_solid, lit, shadows

NUM_MAIN = 2
MOST_DISTRACTORS = 2
DISTRACTOR_RADIUS = (0.04, 0.08)
SHADOW_REACH = 2.2  # from a body's centre, in radii
AT_A_TIME = 8  # appearances of a body: about as many rays as a core's cache holds
FRAME_RATE = 25
# Key frames only, at a constant quantiser: what is predicted from other frames carries traces of the motion, from which
# a classifier on single frames at full resolution got a quarter of the labels right (a tenth, chance, on key frames).
ENCODING = {"preset": "ultrafast", "qp": "28", "g": "1"}
DRAWING_VERSION = 4  # part of the clips' folder name: raise it when the same settings draw other pictures


@dataclass(frozen=True)
class Drawing:
    """Everything that decides what a clip of a given split and number looks like."""

    seed: int
    size: tuple[int, int]  # width, height
    num_frames: int
    version: int = DRAWING_VERSION

    def __post_init__(self) -> None:
        if min(self.size) < 32 or any(side % 2 for side in self.size):
            raise ValueError(f"size {self.size}: width and height must be even and at least 32")
        if self.num_frames < 2:
            raise ValueError(f"num_frames {self.num_frames}: motion needs at least 2 frames")

    @property
    def period(self) -> np.ndarray:
        """(2,) of the torus on which places lie, in short sides."""
        return np.array(self.size) / min(self.size) + MARGIN

    @property
    def folder(self) -> str:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return f"clips-{digest}"


@dataclass(frozen=True)
class Body:
    """A solid on its way; radius: (T,) of the ball around it; opacity: (T,)."""

    solid: Solid
    path: Path
    radius: np.ndarray
    opacity: np.ndarray


def draw_clip(drawing: Drawing, label: int, rng: np.random.Generator) -> np.ndarray:
    """The frames of one video, (T, H, W, 4) uint8 RGB and a fourth channel without meaning."""
    lamp = draw_lamp(rng)
    camera = scenery.draw_camera(drawing.num_frames, rng)
    texture = scenery.draw_texture(rng, lamp.direction) * lamp.colour.astype(np.float32)
    occluder = scenery.draw_occluder(rng)
    layers = draw_layers([*draw_main(drawing, label, rng), *draw_distractors(drawing, rng)], camera, lamp, drawing)
    width, height = drawing.size
    clip = np.zeros((drawing.num_frames, height, width, 4), np.uint8)
    for frame in range(drawing.num_frames):
        picture = scenery.wall(texture, camera, frame, drawing.size)
        for sprites, number in layers[frame]:
            sprites.paste(number, picture)
        if occluder is not None:
            occluder.paint(picture, camera, frame)
        clip[frame, ..., :3] = np.clip(picture * 255, 0, 255)
    return clip


def draw_layers(
    bodies: list[Body], camera: scenery.Camera, lamp: Lamp, drawing: Drawing
) -> list[list[tuple[Sprites, int]]]:
    """What is to be pasted into each frame, in this order: the shadows, then the bodies, the nearest last."""
    layers: list[list[tuple[float, Sprites, int]]] = [[] for _ in range(drawing.num_frames)]
    for body in bodies:
        for draw, reach in ((shadows, SHADOW_REACH), (lit, 1.0)):
            frames, poses = place_body(body, camera, drawing, reach=reach)
            for start in range(0, len(frames), AT_A_TIME):
                part = slice(start, start + AT_A_TIME)
                sprites = draw(body.solid, poses.part(part), lamp)
                for number, (frame, radius) in enumerate(zip(frames[part], poses.radius[part].tolist(), strict=True)):
                    layers[frame].append((0.0 if draw is shadows else radius, sprites, number))
    return [[(sprites, number) for _, sprites, number in sorted(layer, key=itemgetter(0))] for layer in layers]


def place_body(body: Body, camera: scenery.Camera, drawing: Drawing, *, reach: float) -> tuple[list[int], Poses]:
    """In which frames a body appears, and where: at its place on the torus, and beside it by a period.

    reach: how far it is seen from its centre, in radii.
    """
    side, middle, period = min(drawing.size), np.array(drawing.size) / 2, drawing.period
    # The place on the torus is found in the picture, after the camera's pan: uniform before it, it is so after it.
    places = ((body.path.place + camera.pan) % period)[:, None] + period * (np.array([*np.ndindex(3, 3)]) - 1)
    centres = middle + side * np.einsum("tij,tnj->tni", camera.turn, places)
    radius = body.radius * side * camera.zoom
    frames, copies = (np.abs(centres - middle) < middle + reach * radius[:, None, None]).all(-1).nonzero()
    angle = (body.path.angle + camera.roll)[frames]
    return frames.tolist(), Poses(centres[frames, copies], radius[frames], angle, body.opacity[frames])


def draw_lamp(rng: np.random.Generator) -> Lamp:
    """A lamp in front of the wall, off the line of sight."""
    angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.95)
    direction = np.array([np.sin(tilt) * np.cos(angle), np.sin(tilt) * np.sin(angle), np.cos(tilt)])
    return Lamp(direction, rng.uniform(0.8, 1.0, 3) * rng.uniform(0.9, 1.2), rng.uniform(0.25, 0.45))


def draw_main(drawing: Drawing, label: int, rng: np.random.Generator) -> list[Body]:
    """The objects that move as the class does, as far apart in nearness as can be: one of them is always seen well."""
    motion = MOTIONS[CLASS_NAMES[label]]
    speed, nearness = draw_speed(motion, rng), rng.random()
    bodies = []
    for number in range(NUM_MAIN):
        start = (nearness + number / NUM_MAIN) % 1
        path = draw_path(motion.kind, speed, rng, num_frames=drawing.num_frames, period=drawing.period, nearness=start)
        bodies.append(Body(draw_solid(rng), path, path.radius, path.opacity))
    return bodies


def draw_distractors(drawing: Drawing, rng: np.random.Generator) -> list[Body]:
    """Small plain balls that rest or drift, whatever the class."""
    bodies = []
    steps = np.arange(drawing.num_frames)[:, None]
    for _ in range(rng.integers(MOST_DISTRACTORS + 1)):
        place = rng.random(2) * drawing.period + rng.choice([0.0, 0.03]) * rng.standard_normal(2) * steps
        path = Path(place, np.zeros(len(steps)), np.zeros(len(steps)))
        radius = np.full(len(steps), rng.uniform(*DISTRACTOR_RADIUS))
        bodies.append(Body(draw_solid(rng, plain=True), path, radius, np.ones(len(steps))))
    return bodies


def encode_clip(frames: np.ndarray) -> bytes:
    """An H.264 file in an mp4 container from (T, H, W, 4) uint8 RGB and padding; the same bytes for the same frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=ENCODING)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba")))
        container.mux(stream.encode(None))
    return file.getvalue()
