"""The generated demo data set: short H.264 videos whose class is how their main objects move, and nothing else.

Lit, patterned solids move over a textured wall, before a camera that drifts, shakes, zooms and rolls on its own; small
balls and now and then a post in front distract. A single frame does not tell the class (see `motions`), and the motion
is the same throughout a video, so a clip from anywhere in it has the label.
Mirroring turns `left` into `right`: train on this data without a flip.
"""

from .clips import Drawing, draw_clip, encode_clip
from .files import Generated, generate
from .motions import CLASS_NAMES, MOTIONS

__all__ = ["CLASS_NAMES", "MOTIONS", "Drawing", "Generated", "draw_clip", "encode_clip", "generate"]
