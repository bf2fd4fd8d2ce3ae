"""Re-encode videos so that clips of them decode fast: `python scripts/data/reencode.py lists/train.csv OUT`.

Every video becomes an H.264 file below OUT/videos: short side 256 (smaller ones keep their size), a key frame every 12
frames and where the scene changes, x264's `fastdecode`, five B-frames between others, from which no frame is built, no
audio. Every frame is kept, with its time; a phone's rotation is applied, and what an edit list cuts away is gone. OUT
gets new lists of the same names, labels.txt, and failed.txt with the videos that could not be decoded and are not in
the lists. FFmpeg comes with PyAV: no ffmpeg program is needed.

The same command resumes where it was stopped. On a cluster give `--part 1/8` to `--part 8/8` on eight machines, then
run once with `--merge`: scripts/slurm/prepare.sbatch does it.
"""

import argparse
import contextlib
import errno
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.decoding.open import open_video
from datasets.decoding.pyav import video_stream
from datasets.errors import AnnotationError, DecodeError
from datasets.lists.video_list import VideoList
from engine.errors import user_errors
from scripts.data.jobs import Job, JobOptions, add_job_flags, job_options, positive, remove_partials
from scripts.data.lists import add_list_flags, output_names, read_lists, unique_paths, write_lists
from scripts.data.media import is_video_file, open_source
from scripts.data.processes import Result, Task
from scripts.data.reports import tell_failures, write_failures

# Groups I BBBBB P BBBB P: no frame is built from a B-frame, so a reader decodes two P-frames besides those it wants
_GROUPS = "bframes=5:b-adapt=0:b-pyramid=none"
_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}


@dataclass(frozen=True)
class Recipe:
    """How videos are encoded.

    Attributes:
        short_side: larger videos are made as small as this.
        key_distance: most frames from one key frame to the next; x264 sets more where the scene changes.
        crf: x264's quality, 0 (lossless) to 51.
        groups: x264's parameters for B-frames; no option, but a job that is resumed must not mix two of them.
    """

    short_side: int = 256
    key_distance: int = 12
    crf: int = 23
    groups: str = _GROUPS


class Work(NamedTuple):
    """A video, the file to make of it, and how."""

    source: str
    target: str
    recipe: Recipe


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_list_flags(options)
    options.add_argument("out", metavar="OUT", help="folder for the videos, the new lists and the report")
    recipe = Recipe()
    options.add_argument("--short_side", type=positive, default=recipe.short_side, help="pixels (default: 256)")
    options.add_argument("--key_distance", type=positive, default=recipe.key_distance, help="frames (default: 12)")
    options.add_argument(
        "--crf",
        type=int,
        default=recipe.crf,
        choices=range(52),
        metavar="0..51",
        help="quality; less is better, larger",
    )
    add_job_flags(options)
    return options


# ------------------------------------------------------------------------------------------------- one video


def target_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of the new video: even, as the pixel format needs, and never larger than the old, but for 1."""
    scale = min(1.0, short_side / min(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def decoded_frames(path: str) -> Iterator[av.VideoFrame]:
    """Every frame that is shown, in order.

    Raises:
        DecodeError: the video cannot be opened, or a frame is damaged.
    """
    with open_source(path) as container:
        for number, frame in enumerate(container.decode(video_stream(container))):
            if frame.is_corrupt:
                raise DecodeError(path, f"frame {number} is damaged")
            yield frame


class Uprighter:
    """Frames -> frames of one size in yuv420p, turned as players turn them; their times start at 0 and rise."""

    def __init__(self, first: av.VideoFrame, rate: Fraction, short_side: int) -> None:
        self.turns = round(first.rotation / 90) % 4
        turned = self.turns % 2 == 1
        height, width = (first.width, first.height) if turned else (first.height, first.width)
        self.height, self.width = target_size(height, width, short_side)
        self.coded = (self.width, self.height) if turned else (self.height, self.width)
        self.time_base = first.time_base or 1 / rate
        self.step = max(1, round(1 / rate / self.time_base))
        self.start: int | None = first.pts
        self.last = -self.step
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        height, width = self.coded
        made = self.reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            dst_color_range=ColorRange.MPEG,  # not all decoders see that a file has the full range
            interpolation="BICUBIC",
            threads=1,
        )
        if self.turns:
            made = av.VideoFrame.from_ndarray(_turn(made.to_ndarray(), height, width, self.turns), format="yuv420p")
        pts = None if frame.pts is None or self.start is None else frame.pts - self.start
        self.last = pts if pts is not None and pts > self.last else self.last + self.step
        made.pts, made.time_base = self.last, self.time_base
        made.pict_type = 0  # else the encoder takes over the key frames of the source
        return made


def _turn(planes: np.ndarray, height: int, width: int, turns: int) -> np.ndarray:
    """The three planes of a yuv420p picture, (height * 3 / 2, width), each turned against the clock."""
    size, quarter = height * width, height * width // 4
    flat = planes.reshape(-1)
    luma = np.rot90(flat[:size].reshape(height, width), turns)
    chroma = [
        np.rot90(flat[begin : begin + quarter].reshape(height // 2, width // 2), turns)
        for begin in (size, size + quarter)
    ]
    turned_width = luma.shape[1]
    return np.concatenate([luma.reshape(-1), *(plane.reshape(-1) for plane in chroma)]).reshape(-1, turned_width)


def _output_stream(
    container: OutputContainer, source: str, *, upright: Uprighter, rate: Fraction, recipe: Recipe
) -> VideoStream:
    """The H.264 stream to write to, with the colour properties of the source."""
    # `veryfast`: 2.5 times as fast as `medium`, files no larger, 0.8 dB less on a 340x256 video of 300 frames
    options = {
        "crf": str(recipe.crf),
        "tune": "fastdecode",
        "preset": "veryfast",
        "threads": "1",
        "x264-params": recipe.groups,
    }
    stream = container.add_stream("libx264", rate=rate, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = upright.width, upright.height, "yuv420p"
    stream.gop_size = recipe.key_distance
    stream.codec_context.time_base = stream.time_base = upright.time_base
    with open_source(source) as original:  # colours mean the same as before
        colours = video_stream(original).codec_context
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = colours.colorspace
        stream.codec_context.color_primaries = colours.color_primaries
        stream.codec_context.color_trc = colours.color_trc
    return stream


def encode(source: str, target: str, recipe: Recipe) -> Result:
    """Re-encode a video; the new file appears only when it is complete.

    Returns:
        "frames", "height", "width" and "bytes" of the new file.

    Raises:
        DecodeError: the source cannot be decoded, or the encoder refuses it.
        OSError: the target cannot be written.
    """
    with open_video(source) as video:
        expected = video.num_frames
    with open_source(source) as container:
        rate = Fraction(video_stream(container).average_rate or 25)
    partial = f"{target}.{os.getpid()}.partial"  # what a killed job left may still be being written
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        frames = decoded_frames(source)
        first = next(frames, None)
        if first is None:
            raise DecodeError(source, "no frames")
        upright = Uprighter(first, rate, recipe.short_side)
        count = 0
        with _as_output_error(source, target), av.open(partial, "w", format="mp4") as out:
            stream = _output_stream(out, source, upright=upright, rate=rate, recipe=recipe)
            for frame in _chain(first, frames):
                out.mux(stream.encode(upright(frame)))
                count += 1
            out.mux(stream.encode())
        if count != expected:
            raise DecodeError(source, f"{count} frames can be decoded, not {expected}")
        written = num_packets(partial)
        if written != count:
            raise DecodeError(source, f"{written} frames were written of {count}")
        size = os.path.getsize(partial)
        os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
    return {"frames": count, "height": upright.height, "width": upright.width, "bytes": size}


def _chain(first: av.VideoFrame, rest: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    yield from rest


@contextlib.contextmanager
def _as_output_error(source: str, target: str) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        if error.errno in _OUTPUT_ERRORS:
            raise OSError(error.errno, error.strerror, target) from error
        raise DecodeError(source, f"cannot be encoded: {error.strerror}") from error


def num_packets(path: str) -> int:
    """Frames in a file, by its packets."""
    with open_source(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video_stream(container)))


def reencode(work: Work) -> Result:
    """`encode`, for a job."""
    if not is_video_file(work.source):
        return {"error": "a folder of frames: nothing to re-encode"}
    try:
        return {"target": work.target, **encode(*work)}
    except DecodeError as error:
        return {"error": error.reason}


def is_whole(result: Result) -> bool:
    """Whether the file of an earlier call is still there, with all its bytes and frames."""
    target = result["target"]
    try:
        if os.path.getsize(target) != result["bytes"]:
            return False
        with open_source(target) as container:
            return video_stream(container).frames == result["frames"]
    except (OSError, DecodeError):
        return False


# ------------------------------------------------------------------------------------------------- the job


def reencode_lists(lists: Sequence[VideoList], out: Path, *, recipe: Recipe, options: JobOptions) -> None:
    """Re-encode the videos of lists; write the new lists.

    Args:
        lists: as they were read.
        out: the output folder.
        recipe: how to encode.
        options: of the job.
    """
    names = target_names(unique_paths(lists))
    tasks = [Task(path, Work(path, str(out / "videos" / name), recipe)) for path, name in names.items()]
    plan = {"tool": "reencode", "lists": [videos.fingerprint for videos in lists], "recipe": asdict(recipe)}
    job = Job(out, tasks, plan=plan, options=options)
    if not options.merge:
        job.run(reencode, is_good=is_whole)
    if options.part is None:
        results = job.results()
        remove_partials(out)
        new = {path: result["target"] for path, result in results.items() if "error" not in result}
        counts = write_lists(out, lists, new)
        write_failures(out / "failed.txt", results)
        tell_failures(out / "failed.txt", results)
        size = sum(result["bytes"] for result in results.values() if "error" not in result) / 1e9
        print(f"{len(new):,} of {len(results):,} videos are below {out / 'videos'}, {size:.3g} GB")
        print("lists: " + ", ".join(f"{out / name} ({count:,} videos)" for name, count in counts.items()))


def target_names(paths: Sequence[str]) -> dict[str, str]:
    """The new file of each video: its old name with `.mp4`; where two would have the same, behind the old ending."""
    names = output_names(paths)
    short = [os.path.splitext(name)[0] for name in names.values()]
    taken = {name for name, count in Counter(short).items() if count > 1}
    return {
        path: (name if stem in taken else stem) + ".mp4"
        for (path, name), stem in zip(names.items(), short, strict=True)
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(AnnotationError):
        args = parser().parse_args(argv)
        options = job_options(args)
        lists = read_lists(args.lists, root=args.data_root, list_format=args.list_format)
        recipe = Recipe(args.short_side, args.key_distance, args.crf)
        reencode_lists(lists, Path(args.out).absolute(), recipe=recipe, options=options)


if __name__ == "__main__":
    from scripts.data.reencode import main as start  # whose functions other processes find by their module

    start()
