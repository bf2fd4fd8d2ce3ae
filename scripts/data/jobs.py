"""Jobs of check.py, reencode.py and shard.py: many files in parallel, results kept for resuming, parts merged.

A job is a list of tasks. Each result is appended, as a line of JSON, to `results-1of1.jsonl` in the output folder the
moment it is there, so that the same command resumes where it was stopped. `--part 2/8` does every eighth task, from the
second on, and writes `results-2of8.jsonl`: eight such commands, on as many machines as share the folder, do the job.
`--merge` then makes the final files of all results; without `--part` that is done at the end.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import ConfigError
from engine.files import replace_text
from scripts.data.engines import ENGINES, check_engine
from scripts.data.processes import Result, Task
from scripts.data.progress import Progress

_THREADS = 16  # that verify earlier results


class Part(NamedTuple):
    """`--part number/of`, from 1."""

    number: int
    of: int


def parse_part(text: str) -> Part:
    """`2/8` -> Part(2, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, with i from 1 to n, for example 1/8")
    return Part(int(match[1]), int(match[2]))


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, at least 1")
    return int(text)


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every job."""
    group = parser.add_argument_group("job")
    group.add_argument(
        "--engine",
        choices=sorted(ENGINES),
        default="processes",
        help="processes of this machine (default), or ray: of the cluster at RAY_ADDRESS, else of a Ray started here",
    )
    group.add_argument(
        "--workers", type=positive, help="processes; default: one for each core, with Ray of the cluster"
    )
    group.add_argument("--part", type=parse_part, metavar="i/n", help="do only this part, for an array of machines")
    group.add_argument("--merge", action="store_true", help="make the final files of the results of all parts")
    group.add_argument("--retry", action="store_true", help="try what failed in an earlier call once more")
    group.add_argument(
        "--timeout", type=positive, default=600, metavar="SECONDS", help="give a file up after so long (default: 600)"
    )


@dataclass(frozen=True)
class JobOptions:
    """The values of `add_job_flags`.

    Attributes:
        engine: a key of `engines.ENGINES`.
        workers: processes; None: one for each core.
        part: the part to do; None: all of the job, and its final files.
        merge: make the final files of the results of all parts, and do no work.
        retry: do the tasks that failed in an earlier call again.
        timeout: seconds after which a task is given up.
    """

    engine: str
    workers: int | None
    part: Part | None
    merge: bool
    retry: bool
    timeout: float


def job_options(args: argparse.Namespace) -> JobOptions:
    """The values of the flags of `add_job_flags`.

    Raises:
        ConfigError: --part and --merge together, or the engine is not installed.
    """
    check_engine(args.engine)
    if args.part and args.merge:
        raise ConfigError("--part and --merge: merge when all parts are done, with the same command and no --part")
    names = (field.name for field in fields(JobOptions))
    return JobOptions(**{name: getattr(args, name) for name in names})


class Job:
    """Tasks, and their results in a folder.

    Args:
        folder: where the results are kept.
        tasks: their keys differ.
        plan: what decides the results besides the tasks: a folder keeps the results of one plan only.
        options: see `JobOptions`.

    Raises:
        ConfigError: the folder cannot be written to, or holds results of another plan.
    """

    def __init__(self, folder: Path, tasks: Sequence[Task], *, plan: Mapping[str, Any], options: JobOptions) -> None:
        self.folder, self.tasks, self.options = folder, tasks, options
        self.part = options.part or Part(1, 1)
        self._check_plan(dict(plan))

    def _check_plan(self, plan: dict[str, Any]) -> None:
        file = self.folder / "job.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                replace_text(file, json.dumps(plan, indent=1) + "\n")
            before = json.loads(file.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigError(f"{self.folder}: cannot be used for results ({error}): choose another folder") from error
        other = [key for key in plan | before if plan.get(key) != before.get(key)]
        if other:
            raise ConfigError(
                f"{self.folder} holds results of another job ({', '.join(other)} differ): choose another folder, or "
                "delete this one to start again"
            )

    def run(self, function: Callable[[Any], Result], *, is_good: Callable[[Result], bool] | None = None) -> None:
        """Do what is left of this part.

        Args:
            function: work -> its result, or {"error": reason}; called in other processes.
            is_good: whether what an earlier call made is still whole; by default it is.

        Raises:
            ConfigError: the output cannot be written.
        """
        mine = self.tasks[self.part.number - 1 :: self.part.of]
        done = self._done(mine, is_good)
        left = [task for task in mine if task.key not in done]
        progress = Progress(len(mine), len(mine) - len(left))
        engine = ENGINES[self.options.engine]
        name = f"results-{self.part.number}of{self.part.of}.jsonl"
        with open(self.folder / name, "ab+") as file:
            _drop_torn_line(file)
            for task, result in engine(left, function, workers=self.options.workers, timeout=self.options.timeout):
                file.write(json.dumps({"key": task.key, "at": time.time(), **result}).encode() + b"\n")
                file.flush()
                progress.add(failed="error" in result)
        progress.finish()

    def _done(self, mine: Sequence[Task], is_good: Callable[[Result], bool] | None) -> set[str]:
        """Keys of this part that need no work: failures count as done unless they are to be tried again."""
        found = self._read()
        before = [(task.key, found[task.key]) for task in mine if task.key in found]
        kept = [(key, result) for key, result in before if "error" not in result or not self.options.retry]
        if is_good is None:
            return {key for key, _ in kept}
        with ThreadPoolExecutor(_THREADS) as pool:
            good = list(pool.map(lambda pair: "error" in pair[1] or is_good(pair[1]), kept))
        return {key for (key, _), fine in zip(kept, good, strict=True) if fine}

    def results(self) -> dict[str, Result]:
        """The result of every task, in their order.

        Raises:
            ConfigError: some are not there yet.
        """
        found = self._read()
        missing = [task.key for task in self.tasks if task.key not in found]
        if missing:
            raise ConfigError(
                f"{self.folder}: {len(missing)} of {len(self.tasks)} results are missing, for example of {missing[0]}: "
                "run the parts that are not done (the same command resumes), then --merge"
            )
        return {task.key: found[task.key] for task in self.tasks}

    def _read(self) -> dict[str, Result]:
        """What all parts have done so far; of two results for a task, the later."""
        found: dict[str, Result] = {}
        for file in sorted(self.folder.glob("results-*of*.jsonl")):
            for line in file.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # else the part is being written, or was stopped in the middle of a line
                    result = json.loads(line)
                    key = result.pop("key")
                    if key not in found or result["at"] >= found[key]["at"]:
                        found[key] = result
        return found


def remove_partials(folder: Path) -> None:
    """Delete what killed runs left unfinished."""
    for file in folder.rglob("*.partial"):
        file.unlink(missing_ok=True)


def _drop_torn_line(file: Any) -> None:
    """Cut off what a killed run left of its last line."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
