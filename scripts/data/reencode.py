"""Re-encode videos so that clips of them decode fast: `python scripts/data/reencode.py lists/train.csv OUT`.

Every video becomes an H.264 file below OUT/videos: short side 256 (smaller ones keep their size), a key frame every 12
frames and where the scene changes, x264's `fastdecode`, five B-frames between others, from which no frame is built, no
audio. Every frame that a player shows is kept, with its time; a camera's turn and mirror are applied, the shape of the
pixels stays a tag, and what an edit list cuts away is gone. A new file counts once it has been read back. OUT gets new
lists of the same names, labels.txt if classes have names, and failed.txt with the videos that could not be decoded and
are not in the lists. FFmpeg comes with PyAV: no ffmpeg program is needed.

The same command resumes where it was stopped. On a cluster give `--part 1/8` to `--part 8/8` on eight machines, then
run once with `--merge`: scripts/slurm/prepare.sbatch does it.
"""

import argparse
import errno
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.decoding.containers import video_stream
from datasets.errors import AnnotationError, DecodeError
from datasets.lists.video_list import VideoList
from engine.errors import user_errors
from scripts.data.encoding import Recipe, encode
from scripts.data.jobs import Job, JobOptions, add_job_flags, job_options, positive, remove_partials
from scripts.data.lists import add_list_flags, read_lists, unique_paths, write_lists
from scripts.data.media import is_video_file, open_source
from scripts.data.names import distinct_names, output_names
from scripts.data.processes import Result, Task
from scripts.data.reports import tell_failures, write_failures
from sigma_video.command_line import CommandLine

_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}  # of one file, not of the disk


class Work(NamedTuple):
    """A video, the file to make of it, and how."""

    source: str
    target: str
    recipe: Recipe


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def reencode(work: Work) -> Result:
    """`encode`, for a job."""
    if not is_video_file(work.source):
        return {"error": "a folder of frames: nothing to re-encode"}
    try:
        return {"target": work.target, **encode(*work)}
    except DecodeError as error:
        return {"error": error.reason}
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        return {"error": f"the new file cannot have the name {work.target}: {error.strerror}"}


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
    new = ((name if stem in taken else stem) + ".mp4" for name, stem in zip(names.values(), short, strict=True))
    return distinct_names(dict(zip(names, new, strict=True)))


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
