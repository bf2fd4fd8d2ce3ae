"""Decode every video of a list, and say what is wrong with it: `python scripts/data/check.py lists/train.csv`.

The first, middle and last frame of each video are decoded; with --full all frames. The output folder gets

  train.csv, ...   the lists without the bad videos, and labels.txt if the classes have names, in the lists or in a
                   labels.txt beside them: use this folder as --data_path
  bad_videos.txt   the bad ones, with the reason: path<TAB>reason
  report.txt       counts by reason, codecs, sizes, rates, distances of key frames, what decoding costs here, and
                   whether scripts/data/reencode.py would pay

The same command resumes where it was stopped. On a cluster give `--part 1/8` to `--part 8/8` on eight machines, then
run once with `--merge`: scripts/slurm/prepare.sbatch does it.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.classification import CHUNK_BYTES
from datasets.decoding.open import open_video
from datasets.decoding.pyav import PyAVReader
from datasets.errors import AnnotationError, DecodeError
from datasets.lists.spans import frames_within
from datasets.lists.video_list import Span, VideoList, sample_name
from engine.errors import ConfigError, user_errors
from engine.files import replace_text
from scripts.data.encoding import Recipe, encode
from scripts.data.explain import explain
from scripts.data.jobs import Job, JobOptions, add_job_flags, job_options
from scripts.data.lists import absolute, add_list_flags, read_lists, write_lists
from scripts.data.media import clip_seconds, decode_all, describe, is_video_file
from scripts.data.processes import Result, Task, run_tasks
from scripts.data.reports import Timing, failures, report, write_failures
from sigma_video.command_line import CommandLine

_SEEKS = 7  # by which frames are reached in a full check


class Work(NamedTuple):
    """A video, or a part of one, and whether all its frames are decoded."""

    path: str
    full: bool
    span: Span | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_list_flags(options)
    options.add_argument("--out", metavar="FOLDER", help="default: `checked` beside the first list")
    options.add_argument("--full", action="store_true", help="decode every frame, not three of each video")
    options.add_argument(
        "--explain",
        action="store_true",
        help="the arguments are videos, not lists: print what is known of each, how it is read here, and why",
    )
    options.add_argument(
        "--samples", type=int, default=5, help="videos that are timed, as they are and re-encoded (default: 5; 0: none)"
    )
    add_job_flags(options)
    return options


# ------------------------------------------------------------------------------------------------- one video


def check(work: Work) -> Result:
    """Facts of a video whose frames can be decoded; else the reason why they cannot."""
    path, full, span = work
    notes: Result = {}
    try:
        with open_video(path) as video:
            frames = frames_within(video, path, span)
            tried = sorted({frames[0], frames[len(frames) // 2], frames[-1]})
            height, width = video.get_frames(tried).shape[-2:]
            if isinstance(video, PyAVReader):
                notes = probe(video, frames, full=full)
            if full and span is not None:
                video.map_frames(frames, lambda *_: None, max_bytes=CHUNK_BYTES)
        facts = describe(path)
        if full and span is None:
            decode_all(path, len(frames))
    except DecodeError as error:
        return {"error": error.reason}
    if span is not None and facts.get("seconds") is not None:
        facts["seconds"] = min(span[1], facts["seconds"]) - span[0]
    return {"frames": len(frames), "short_side": min(height, width), "size": f"{width}x{height}", **facts, **notes}


def probe(video: PyAVReader, frames: range, *, full: bool) -> Result:
    """What training should know of a file: why it is read in order, and that its pixels are not square.

    With `full`, frames reached by a seek are compared with the same ones reached by reading in order.

    Raises:
        DecodeError: the two differ, which reading has not noticed.
    """
    if full and not video.why_in_order:
        numbers = sorted({frames[place * (len(frames) - 1) // _SEEKS] for place in range(_SEEKS + 1)})
        sought = [video.get_frames([number])[0] for number in numbers]
        with video.from_start():
            in_order = video.get_frames(numbers)
        for number, one, other in zip(numbers, sought, in_order, strict=True):
            if not torch.equal(one, other):
                raise DecodeError(video.path, f"frame {number} is another picture by a seek than in order")
    video.has_lying_keys()
    notes: Result = {"in_order": video.why_in_order} if video.why_in_order else {}
    if video.pixel_shape not in (None, 1):
        notes["pixels"] = f"{video.pixel_shape}"
    return notes


def time_sample(path: str) -> Result:
    """How long a clip of a video takes to decode, now and after `reencode.py`."""
    try:
        now = clip_seconds(path)
        with tempfile.TemporaryDirectory() as folder:
            target = os.path.join(folder, "sample.mp4")
            encode(path, target, Recipe())
            return {"now": now, "after": clip_seconds(target)}
    except DecodeError as error:
        return {"error": error.reason}


def time_samples(paths: Sequence[str], *, timeout: float) -> list[Timing]:
    """Timings of some videos, one after another; those that fail are left out."""
    tasks = [Task(path, path) for path in paths]
    results = [result for _, result in run_tasks(tasks, time_sample, workers=min(1, len(tasks)), timeout=timeout)]
    return [Timing(result["now"], result["after"]) for result in results if "error" not in result]


# ------------------------------------------------------------------------------------------------- the job


def samples(results: Mapping[str, Result], works: Mapping[str, Work], count: int) -> list[str]:
    """Paths of videos, evenly spread over the good ones."""
    paths = [works[name].path for name, result in results.items() if "error" not in result]
    good = [path for path in dict.fromkeys(paths) if is_video_file(path)]
    count = min(count, len(good))
    return [good[place * len(good) // count] for place in range(count)]


def check_lists(lists: Sequence[VideoList], out: Path, *, full: bool, num_timed: int, options: JobOptions) -> None:
    """Check the videos of lists; write the lists without the bad ones, and the report.

    Args:
        lists: as they were read.
        out: the output folder.
        full: decode every frame.
        num_timed: videos whose decoding is timed.
        options: of the job.
    """
    videos = dict.fromkeys((absolute(path), span) for each in lists for path, span in each.samples())
    works = {sample_name(path, span): Work(path, full, span) for path, span in videos}
    plan = {"tool": "check", "lists": [each.fingerprint for each in lists], "full": full}
    job = Job(out, [Task(name, work) for name, work in works.items()], plan=plan, options=options)
    if not options.merge:
        job.run(check)
    if options.part is not None:
        return
    results = job.results()
    counts = write_lists(out, lists, {path: path for path, _ in videos}, without=failures(results).keys())
    write_failures(out / "bad_videos.txt", results)
    timings = time_samples(samples(results, works, num_timed), timeout=options.timeout)
    text = report(results, timings, counts)
    replace_text(out / "report.txt", text)
    print(f"{text}\nThe lists without the bad videos and this report are in {out}")


def explain_files(paths: Sequence[str]) -> None:
    """Print what is known of videos.

    Raises:
        ConfigError: one cannot be decoded; the others come first.
    """
    bad = []
    for path in paths:
        try:
            print(explain(path))
        except DecodeError as error:
            bad.append(str(error))
    if bad:
        raise ConfigError("; ".join(bad))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(AnnotationError):
        args = parser().parse_args(argv)
        if args.explain:
            explain_files([os.path.join(args.data_root, file) for file in args.lists])
            return
        options = job_options(args)
        lists = read_lists(args.lists, root=args.data_root, list_format=args.list_format)
        out = Path(args.out or Path(args.lists[0]).absolute().parent / "checked").absolute()
        check_lists(lists, out, full=args.full, num_timed=args.samples, options=options)


if __name__ == "__main__":
    from scripts.data.check import main as start  # whose functions other processes find by their module

    start()
