"""Real, tiny videos: encoded by libx264, libvpx and others, with the number of every frame painted into its picture."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

_COLUMNS, _ROWS = 4, 3  # twelve blocks, one bit of the frame number each


def _paint(number, width, height):
    """Black and white blocks, which survive compression: bit i of `number` is block i."""
    image = np.empty((height, width, 3), np.uint8)
    bands = np.array_split(np.arange(height), _ROWS)
    for bit in range(_COLUMNS * _ROWS):
        rows = bands[bit // _COLUMNS]
        columns = np.array_split(np.arange(width), _COLUMNS)[bit % _COLUMNS]
        image[np.ix_(rows, columns)] = 235 if number >> bit & 1 else 20
    return image


def read_number(frame):
    """The number painted into a frame, a tensor (3, H, W)."""
    grey = frame.float().mean(0)
    number = 0
    for bit in range(_COLUMNS * _ROWS):
        rows = torch.arange(grey.shape[0]).tensor_split(_ROWS)[bit // _COLUMNS]
        columns = torch.arange(grey.shape[1]).tensor_split(_COLUMNS)[bit % _COLUMNS]
        brightness = grey[rows[2:-2]][:, columns[2:-2]].mean().item()
        assert not 80 < brightness < 170, f"block {bit} is neither black nor white: {brightness}"
        number |= (brightness > 128) << bit
    return number


def write_video(
    path,
    num_frames=48,
    *,
    first=0,
    width=64,
    height=48,
    fps=30,
    gop=12,
    bframes=2,
    codec="libx264",
    pix_fmt="yuv420p",
    times=None,
    **options,
):
    """Write frames numbered from `first`; the container follows from the name. More keywords go to the encoder.

    `times` are those of the frames in milliseconds, where they are not evenly spaced.
    """
    if codec == "libx264":
        options = {"bf": str(bframes), "preset": "veryfast", **options}
    elif codec.startswith("libvpx"):
        options = {"deadline": "realtime", "cpu-used": "8", **options}
    elif codec == "libx265":
        options = {"preset": "ultrafast", "x265-params": "log-level=none", **options}
    elif codec == "libsvtav1":
        options = {"preset": "12", **options}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, pix_fmt, gop
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(first, first + num_frames):
            frame = av.VideoFrame.from_ndarray(_paint(number, width, height), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number - first], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Path(path)
