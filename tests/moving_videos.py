"""Real, tiny videos of a textured square that moves over a still texture: where it is in every frame is known."""

from pathlib import Path

import av
import numpy as np


def _texture(height, width, seed):
    """Smooth noise with detail of a few pixels, which an encoder's motion search can lock on to."""
    noise = np.random.default_rng(seed).standard_normal((height + 4, width + 4, 3))
    blurred = sum(noise[dy : dy + height, dx : dx + width] for dy in range(4) for dx in range(4))
    return np.clip(128 + 14 * blurred, 20, 235).astype(np.uint8)


def write_moving_square(
    path,
    num_frames=24,
    *,
    start=(8, 30),
    velocity=(2, 0),
    side=32,
    width=96,
    height=96,
    pan=False,
    codec="libx264",
    **options,
):
    """Write a square of `side` pixels that starts at (x, y) and moves by `velocity` (x, y) pixels a frame.

    With `pan` the whole picture moves instead. More keywords go to the encoder.
    """
    defaults = {"libx264": {"preset": "veryfast", "crf": "12", "g": "12", "bf": "0"}}.get(codec, {})
    reach = num_frames * max(abs(velocity[0]), abs(velocity[1]))
    still = _texture(height + 2 * reach, width + 2 * reach, 0)
    square = _texture(side, side, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=defaults | {k: str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(num_frames):
            dx, dy = number * velocity[0], number * velocity[1]
            left, top = (reach - dx, reach - dy) if pan else (reach, reach)
            picture = still[top : top + height, left : left + width].copy()
            if not pan:
                x, y = start[0] + dx, start[1] + dy
                picture[y : y + side, x : x + side] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return Path(path)
