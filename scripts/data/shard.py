"""Pack videos into tar files: `python scripts/data/shard.py lists/train.csv OUT`.

Millions of small files are slow to list, copy and open; a few hundred tar files are not. OUT/shards gets plain tar
files of about --shard_size with an index beside each, and OUT new lists of the same names, with paths `x.tar#member`.
Training reads them as it reads files: in any order, with the same samples. The shards may be moved, to object storage
too, if the paths in the lists are changed with them. OUT/failed.txt lists the videos that could not be read.

The same command resumes where it was stopped. On a cluster give `--part 1/8` to `--part 8/8` on eight machines, then
run once with `--merge`: scripts/slurm/prepare.sbatch does it.
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.decoding.shard_index import INDEX_SUFFIX
from datasets.decoding.shard_writing import plan_shards, shard_name, write_shard
from datasets.decoding.shards import split_member
from datasets.errors import AnnotationError
from datasets.lists.video_list import VideoList
from engine.errors import ConfigError, user_errors
from scripts.data.jobs import Job, JobOptions, add_job_flags, job_options, remove_partials
from scripts.data.lists import add_list_flags, read_lists, unique_paths, write_lists
from scripts.data.names import output_names
from scripts.data.processes import Result, Task
from scripts.data.reports import tell_failures, write_failures
from sigma_video.command_line import CommandLine

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_THREADS = 16  # that ask for sizes: a network file system answers one in about a millisecond


class Work(NamedTuple):
    """A shard, and what goes into it: (name, file)."""

    shard: str
    members: list[tuple[str, str]]


def parse_size(text: str) -> int:
    """`500M`, `1G` -> bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.upper())
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: a size such as 500M or 1G")
    return int(float(match[1]) * _UNITS[match[2]])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_list_flags(options)
    options.add_argument("out", metavar="OUT", help="folder for the shards and the new lists")
    options.add_argument("--shard_size", type=parse_size, default=10**9, metavar="SIZE", help="default: 1G")
    add_job_flags(options)
    return options


def pack(work: Work) -> Result:
    """Write a shard, for a job. Errors of a file stop the job: its size was read a moment before."""
    os.makedirs(os.path.dirname(work.shard), exist_ok=True)
    return {"shard": work.shard, "bytes": write_shard(work.shard, work.members)}


def is_whole(result: Result) -> bool:
    """Whether the shard of an earlier call is still there."""
    shard = result["shard"]
    present = all(os.path.isfile(file) for file in (shard, shard + INDEX_SUFFIX))
    return present and os.path.getsize(shard) == result["bytes"]


def file_sizes(paths: Sequence[str]) -> dict[str, int | str]:
    """Bytes of every file, or why it cannot be packed."""

    def size_of(path: str) -> int | str:
        if split_member(path) or "://" in path:
            return "not a file of its own: only local files are packed"
        if os.path.isdir(path):
            return "a folder of frames: only files are packed"
        try:
            return os.stat(path).st_size or "empty file"
        except OSError as error:
            return str(error.strerror)

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(paths, pool.map(size_of, paths), strict=True))


def plan_work(sizes: Mapping[str, int | str], folder: Path, shard_size: int) -> tuple[list[Work], dict[str, str]]:
    """The shards, and the new path of each video that is packed."""
    packed = [path for path, size in sizes.items() if isinstance(size, int)]
    names = output_names(packed)
    works: list[Work] = []
    new: dict[str, str] = {}
    for number, places in enumerate(plan_shards([int(sizes[path]) for path in packed], shard_size)):
        shard = str(folder / shard_name(number))
        works.append(Work(shard, [(names[packed[place]], packed[place]) for place in places]))
        new |= {file: f"{shard}#{name}" for name, file in works[-1].members}
    return works, new


def pack_lists(lists: Sequence[VideoList], out: Path, *, shard_size: int, options: JobOptions) -> None:
    """Pack the videos of lists into shards; write the new lists.

    Args:
        lists: as they were read.
        out: the output folder.
        shard_size: bytes.
        options: of the job.

    Raises:
        ConfigError: no video can be packed.
    """
    sizes = file_sizes(unique_paths(lists))
    works, new = plan_work(sizes, out / "shards", shard_size)
    if not works:
        path, reason = next(iter(sizes.items()))
        raise ConfigError(f"no video of the lists can be packed, for example {path}: {reason}. Check --data_root.")
    plan = {
        "tool": "shard",
        "lists": [videos.fingerprint for videos in lists],
        "shard_size": shard_size,
        "the files and their sizes": hashlib.sha256(repr(sizes).encode()).hexdigest()[:12],
    }
    job = Job(out, [Task(work.shard, work) for work in works], plan=plan, options=options)
    if not options.merge:
        job.run(pack, is_good=is_whole)
    if options.part is None:
        total = sum(result["bytes"] for result in job.results().values()) / 1e9
        remove_partials(out)
        counts = write_lists(out, lists, new)
        unpacked = {path: {"error": size} for path, size in sizes.items() if isinstance(size, str)}
        write_failures(out / "failed.txt", unpacked)
        tell_failures(out / "failed.txt", unpacked)
        print(f"{len(new):,} videos in {len(works):,} shards, {total:.3g} GB, in {out / 'shards'}")
        print("lists: " + ", ".join(f"{out / name} ({count:,} videos)" for name, count in counts.items()))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(AnnotationError):
        args = parser().parse_args(argv)
        options = job_options(args)
        lists = read_lists(args.lists, root=args.data_root, list_format=args.list_format)
        pack_lists(lists, Path(args.out).absolute(), shard_size=args.shard_size, options=options)


if __name__ == "__main__":
    from scripts.data.shard import main as start  # whose functions other processes find by their module

    start()
