"""Compares ways to pre-train on videos of your own, and writes the tables: see scripts/study/run.sh."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from datasets.errors import DATA_ERRORS  # noqa: E402
from datasets.lists.checks import check_files  # noqa: E402
from datasets.lists.read import read_list  # noqa: E402
from datasets.lists.video_list import VideoList  # noqa: E402
from engine.errors import ConfigError, user_errors  # noqa: E402
from engine.files import replace_text  # noqa: E402
from scripts.data.jobs import positive  # noqa: E402
from scripts.study.curves import draw_curves  # noqa: E402
from scripts.study.plan import ARMS, Job, Study  # noqa: E402
from scripts.study.settings import GENERATED, OWN, SMOKE  # noqa: E402
from scripts.study.table import write_tables  # noqa: E402

TRIED = ("videomae", "sigma", "sigma-video-centered")  # arms of --smoke


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 if a job failed."""
    args = _arguments(argv)
    sets = args.sets or ("generated",)
    targets = args.target or sets[:1]
    settings = SMOKE if args.smoke else OWN if args.lists else GENERATED
    study = Study(args.out.resolve(), settings, targets=targets, seeds=args.seeds, arms=args.arms)
    _keep(study.out / "settings.json", json.dumps(asdict(settings), indent=1) + "\n")
    if args.lists:
        _write_lists(study, args.lists, sets, root=str(args.data or ""))
    else:
        _generate(study)
    failed = run(study, num_processes=args.jobs)
    write_tables(study)
    draw_curves(study)
    print(f"tables: {study.out / 'tables.md'}, curves: {study.out / 'curves.png'}", flush=True)
    for name in failed:
        print(f"failed: {name}, log {study.out / name}.log", file=sys.stderr)
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="everything is written to it")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder that the lists' paths start from")
    parser.add_argument("--lists", type=Path, metavar="FOLDER", help="with SET_train.csv and SET_val.csv")
    parser.add_argument(
        "--sets", type=_names, default=(), metavar="SET,SET", help="all are pre-trained on, without labels"
    )
    parser.add_argument(
        "--target",
        type=_names,
        default=(),
        metavar="SET,SET",
        help="that are tested; default: the first of --sets. Fine-tuning is on the first only",
    )
    parser.add_argument(
        "--arms",
        type=_arms,
        metavar="ARM,ARM",
        help=f"of {', '.join(ARMS)} (default: all; --smoke: {', '.join(TRIED)})",
    )
    parser.add_argument("--seeds", type=positive, metavar="N", help="of the main comparison (default: 3; --smoke: 1)")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="processes at a time, one core each (default: 1)"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny runs: the numbers mean nothing")
    args = parser.parse_args(argv)
    args.arms = args.arms or (TRIED if args.smoke else tuple(ARMS))
    args.seeds = args.seeds or (1 if args.smoke else 3)
    if bool(args.lists) != bool(args.sets) or ((args.target or args.data) and not args.sets):
        parser.error(
            "--data, --lists FOLDER, --sets SET,SET and --target go together; without them videos are generated"
        )
    return args


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(names) or len({*names}) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: names, each once, with commas between them")
    return names


def _arms(text: str) -> tuple[str, ...]:
    names = _names(text)
    for name in names:
        if name not in ARMS:
            raise argparse.ArgumentTypeError(f"{name}: no such arm; arms are {', '.join(ARMS)}")
        if ARMS[name].teacher not in ("", *names):
            raise argparse.ArgumentTypeError(f"{name} needs the arm {ARMS[name].teacher}")
    return names


# ------------------------------------------------------------------------------------------------ lists


def _generate(study: Study) -> None:
    """Generated videos, those that are not there yet, with their lists."""
    folder = study.lists("generated")
    numbers = zip(("--num_pretrain", "--num_train", "--num_test"), study.settings.generated, strict=True)
    sizes = [word for flag, number in numbers for word in (flag, str(number))]
    if subprocess.run([sys.executable, "scripts/demo_videos.py", str(folder), *sizes], cwd=ROOT).returncode:
        raise ConfigError(f"--out {study.out}: the videos could not be generated; the reason is above")
    _keep(study.pretrain_list, "".join(f"{path}\n" for path in read_list(folder / "pretrain.csv").paths))


def _write_lists(study: Study, folder: Path, sets: Sequence[str], *, root: str) -> None:
    """pretrain.csv of all sets' training videos; train.csv, val.csv and test.csv of each target, with absolute paths.

    Raises:
        AnnotationError: a list cannot be read.
        ConfigError: videos do not exist; videos of a target's val list are in a training list; one of a target's lists
            names its classes, and the other numbers them; the folder has the results of other lists.
    """
    names = dict.fromkeys((*sets, *study.targets))
    training = {
        name: read_list(folder / f"{name}_train.csv", root=root, require_labels=name in study.targets) for name in names
    }
    seen = {path for videos in training.values() for path in videos.paths}
    for videos in training.values():
        _refuse_missing(videos)
    for target in study.targets:
        learned = training[target]
        tested = read_list(
            folder / f"{target}_val.csv",
            root=root,
            require_labels=True,
            class_names=learned.class_names,
            names_from=str(learned.file),
        )
        _refuse_missing(tested)
        if bool(tested.class_names) != bool(learned.class_names):
            raise ConfigError(f"{tested.file}, {learned.file}: one names its classes and the other numbers them")
        if both := seen & {*tested.paths}:
            raise ConfigError(f"{folder}: {len(both)} videos of {target}_val.csv are in a training list: {min(both)}")
        study.lists(target).mkdir(parents=True, exist_ok=True)
        for part, videos in (("train", learned), ("val", tested), ("test", tested)):
            rows = zip(videos.paths, videos.labels, strict=True)
            _keep(study.lists(target) / f"{part}.csv", "".join(f"{os.path.abspath(p)} {label}\n" for p, label in rows))
    paths = (os.path.abspath(path) for name in sets for path in training[name].paths)
    _keep(study.pretrain_list, "".join(f"{path}\n" for path in paths))


def _refuse_missing(videos: VideoList) -> None:
    if missing := check_files(videos, handful=len(videos)):
        raise ConfigError(
            f"{videos.file}: {len(missing)} of {len(videos)} videos do not exist, for example {missing[0]}: correct "
            "the list or --data"
        )


def _keep(file: Path, text: str) -> None:
    """Write what decides the results of a study, once.

    Raises:
        ConfigError: it was something else when the study began.
    """
    if file.is_file() and file.read_text() != text:
        raise ConfigError(f"{file}: the results in this folder are of another study; choose another --out")
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, text)


# ------------------------------------------------------------------------------------------------ jobs


def run(study: Study, *, num_processes: int) -> list[str]:
    """Run what is not done, so many at a time; what needs a job that failed is left out.

    Returns:
        The names of those that failed or were left out.
    """
    jobs = study.jobs()
    waiting, done, failed = [job for job in jobs if not job.result.exists()], set[str](), list[str]()
    done = {job.name for job in jobs} - {job.name for job in waiting}
    running: dict[Future[int], Job] = {}
    with ThreadPoolExecutor(num_processes) as pool:
        while waiting or running:
            for job in [job for job in waiting if {*job.after} & {*failed}]:
                waiting.remove(job)
                failed.append(job.name)
            for job in [job for job in waiting if {*job.after} <= done][: num_processes - len(running)]:
                waiting.remove(job)
                running[pool.submit(_run, job, study)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                job = running.pop(future)
                (failed.append if future.result() else done.add)(job.name)
                counted = f"{len(done)} of {len(jobs)} done" + (f", {len(failed)} failed" if failed else "")
                print(f"{time.strftime('%H:%M:%S')} {job.name}: exit code {future.result()}; {counted}", flush=True)
    return failed


def _run(job: Job, study: Study) -> int:
    """Exit code of a job, whose output is added to its log; one process has one core."""
    log = study.out / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as out:
        done = subprocess.run(job.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    if not done.returncode and job.result.name == "done":
        job.result.touch()
    return done.returncode


if __name__ == "__main__":
    with user_errors(*DATA_ERRORS):
        sys.exit(main())
