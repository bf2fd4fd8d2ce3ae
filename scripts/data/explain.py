"""What there is to know about one video when it behaves oddly: `python scripts/data/check.py --explain FILE`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import torch

from datasets.decoding.alternatives import known_issues, why_missing
from datasets.decoding.colours import is_converted
from datasets.decoding.containers import video_stream
from datasets.decoding.in_order import frames_in_order
from datasets.decoding.open import BACKENDS, describe_decoder, open_video
from datasets.decoding.orientation import display_matrix, from_matrix, is_exact
from datasets.decoding.pyav import PyAVReader
from datasets.decoding.reader import VideoReader
from datasets.errors import DecodeError
from scripts.data.media import is_video_file, open_source

_COMPARED = 5  # frames, each by a seek of its own
_EVEN = 0.1  # of a step: times that differ less are regular
_NEAR = 3.0  # mean difference, of 255: rounding of another conversion to RGB, not another picture


@dataclass
class Facts:
    """What decoding a file in order shows.

    Attributes:
        lines: what the header says, in words.
        packets, lost_times: how many packets there are, and how many have no time.
        container_keys, decoder_keys: numbers of packets and of frames that are called key frames.
        frames: how many are shown.
    """

    lines: list[str] = field(default_factory=list)
    packets: int = 0
    lost_times: int = 0
    container_keys: list[int] = field(default_factory=list)
    decoder_keys: list[int] = field(default_factory=list)
    frames: int = 0


def explain(path: str) -> str:
    """The text for a video file, a member of a shard, a picture or a folder of frames.

    Raises:
        DecodeError: it cannot be opened.
    """
    if not is_video_file(path):
        with open_video(path) as video:
            height, width = video.get_frames([0]).shape[-2:]
            return f"{path}\n  a folder of {video.num_frames} frames, {width}x{height}; pictures have no times\n"
    with open_video(path, decoder="pyav") as video:
        if not isinstance(video, PyAVReader):
            height, width = video.get_frames([0]).shape[-2:]
            return f"{path}\n  a picture, {width}x{height}: a video of one frame\n"
        facts = _facts(path)
        lines = [*facts.lines, *_counts(facts), *_times(video), *_back_ends(path, video), *_reading(video)]
    return "\n".join([path, *(f"  {line}" for line in lines)]) + "\n"


def _facts(path: str) -> Facts:
    facts = Facts()
    with open_source(path) as container:
        stream = video_stream(container)
        facts.lines += _header(container, stream)
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            facts.packets = number + 1
            facts.lost_times += packet.pts is None
            if packet.is_keyframe:
                facts.container_keys.append(number)
    with open_source(path) as container:
        stream = video_stream(container)
        for number, frame in enumerate(frames_in_order(container, stream)):
            if number == 0:
                facts.lines += _picture(frame, stream)
            facts.frames = number + 1
            if frame.key_frame:
                facts.decoder_keys.append(number)
    return facts


def _header(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[str]:
    codec = stream.codec_context
    profile = f", profile {stream.profile}" if stream.profile else ""
    yield f"container     {container.format.name} ({container.format.long_name})"
    yield f"codec         {codec.codec.canonical_name}{profile}, {codec.pix_fmt}"
    rate = stream.average_rate
    yield (
        f"rate          {float(rate):.6g} frames a second by the header" if rate else "rate          not in the header"
    )
    count = len(container.streams.video)
    if count > 1:
        yield f"streams       {count} of pictures; the first that is no cover art is read"


def _picture(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> Iterator[str]:
    yield f"stored        {frame.width}x{frame.height}"
    matrix = display_matrix(frame)
    if matrix is None:
        yield "orientation   as stored"
    else:
        odd = "" if is_exact(matrix) else "; the matrix is none of the eight cases: the nearest one is taken"
        yield f"orientation   {from_matrix(matrix).describe()}{odd}"
    shape = Fraction(stream.sample_aspect_ratio or 1)
    seen = "square" if shape == 1 else f"{shape}, not square: the model sees the picture as stored, not stretched"
    yield f"pixels        {seen}"
    colour = int(frame.colorspace)
    odd = "" if is_converted(colour) else ", which FFmpeg does not convert: read as if there were none"
    yield (
        f"colour tags   matrix {colour}{odd}, primaries {int(frame.color_primaries)}, transfer {int(frame.color_trc)}, "
        f"range {int(frame.color_range)} (numbers of ITU-T H.273; range 1 limited, 2 full, 0 not told)"
    )


def _counts(facts: Facts) -> Iterator[str]:
    yield f"frames        {facts.frames} shown, of {facts.packets} packets"
    container, decoder = len(facts.container_keys), len(facts.decoder_keys)
    spacing = _spacing(facts.container_keys), _spacing(facts.decoder_keys)
    yield "key frames    to the container {}; to the decoder {}".format(*spacing)
    if container > decoder:
        yield f"              {container - decoder} of the container's are none to the decoder"
    if facts.lost_times:
        yield f"times         {facts.lost_times} packets have none"


def _spacing(numbers: list[int]) -> str:
    if len(numbers) < 2:
        return str(len(numbers))
    steps = np.diff(numbers)
    return f"{len(numbers)}, {steps.min()} to {steps.max()} apart"


def _times(video: PyAVReader) -> Iterator[str]:
    times = video.clock.seconds()
    if times is None:
        yield "times         not told, and no rate either: spans cannot be used"
        return
    steps = np.diff(times)
    yield f"times         {video.clock.start:g} s the first by the file's clock, then 0 s; the last {times[-1]:.6g} s"
    if len(steps):
        regular = steps.max() - steps.min() <= max(_EVEN * float(np.median(steps)), 0.0021)
        kind = "regular" if regular else f"irregular, {steps.min():.3g} to {steps.max():.3g} s apart"
        told = "" if video.clock.ticks is not None else " (counted by the rate: the format has no times)"
        yield f"              {kind}{told}; {video.fps:.6g} frames a second are used"


def _back_ends(path: str, video: PyAVReader) -> Iterator[str]:
    numbers = sorted({place * (video.num_frames - 1) // (_COMPARED - 1) for place in range(_COMPARED)})
    with video.from_start():
        reference = video.get_frames(numbers)
    for name in BACKENDS:
        yield f"{name:14}{_verdict(path, name, numbers, reference)}"


def _verdict(path: str, name: str, numbers: list[int], reference: torch.Tensor) -> str:
    if reason := why_missing(name) if name != "pyav" else "":
        return reason.partition(":")[0]
    replaced = "" if name == "pyav" else next(known_issues(path, name), "")
    try:
        with BACKENDS[name](path) as reader:
            verdict = _compare(reader, numbers, reference)
    except DecodeError as error:
        verdict = f"error: {error.reason}"
    version = describe_decoder(name).partition(" ")[2]
    return f"{version}: {verdict}" + (f"; PyAV takes its place: {replaced}" if replaced else "")


def _compare(reader: VideoReader, numbers: list[int], reference: torch.Tensor) -> str:
    if reader.num_frames != numbers[-1] + 1:
        return f"{reader.num_frames} frames, not {numbers[-1] + 1}"
    in_order = _distance(reader.get_frames(numbers), reference)
    sought = max(
        _distance(reader.get_frames([number]), reference[place : place + 1]) for place, number in enumerate(numbers)
    )
    if max(in_order, sought) == 0:
        return "agrees with reading in order, by seeks too"
    if max(in_order, sought) < _NEAR:
        return f"agrees up to rounding ({max(in_order, sought):.2g} of 255 on average)"
    return "other pictures" + ("" if in_order >= _NEAR else " after a seek")


def _distance(frames: torch.Tensor, reference: torch.Tensor) -> float:
    if frames.shape != reference.shape:
        return 255.0
    return float((frames.float() - reference.float()).abs().mean())


def _reading(video: PyAVReader) -> Iterator[str]:
    if video.why_in_order or video.has_lying_keys():
        yield f"read          in order from the start of the file, as {video.why_in_order or 'key frames fail'}"
    else:
        yield "read          from the key frame before a clip"
