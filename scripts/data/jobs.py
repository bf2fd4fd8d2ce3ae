"""What check.py, reencode.py and shard.py share: many files worked on at once, results kept, parts merged.

A job is a list of tasks. Each result is appended, as a line of JSON, to `results-1of1.jsonl` in the output folder the
moment it is there, so that the same command goes on where it was stopped. `--part 2/8` does every eighth task, from the
second on, and writes `results-2of8.jsonl`: eight such commands, on as many machines as share the folder, do the job.
`--merge` then makes the final files of all results; without `--part` that follows by itself.
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from engine.errors import ConfigError
from engine.files import replace_text

Result: TypeAlias = dict[str, Any]  # what a task gave; {"error": reason} if its input is bad
_POLL = 1.0  # seconds between two looks at the clock
_THREADS = 16  # that verify earlier results


class Part(NamedTuple):
    """`--part number/of`, from 1."""

    number: int
    of: int


class Task(NamedTuple):
    """A piece of work: the name of its result, and what the work function is given."""

    key: str
    work: Any


def parse_part(text: str) -> Part:
    """`2/8` -> Part(2, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, with i from 1 to n, for example 1/8")
    return Part(int(match[1]), int(match[2]))


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, at least 1")
    return int(text)


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every job."""
    group = parser.add_argument_group("job")
    group.add_argument("--workers", type=positive, default=num_cores(), help="processes; default: one for each core")
    group.add_argument("--part", type=parse_part, metavar="i/n", help="do only this part, for an array of machines")
    group.add_argument("--merge", action="store_true", help="make the final files of the results of all parts")
    group.add_argument("--retry", action="store_true", help="try what failed in an earlier call once more")
    group.add_argument(
        "--timeout", type=positive, default=600, metavar="SECONDS", help="give a file up after so long (default: 600)"
    )


class Job:
    """Tasks, and their results in a folder.

    Args:
        folder: where the results are kept.
        tasks: their keys differ.
        plan: what decides the results besides the tasks: a folder keeps the results of one plan only.
        args: the values of `add_job_flags`.

    Raises:
        ConfigError: the folder cannot be written to, or holds results of another plan; --part and --merge together.
    """

    def __init__(self, folder: Path, tasks: Sequence[Task], plan: Mapping[str, Any], args: argparse.Namespace) -> None:
        if args.part and args.merge:
            raise ConfigError("--part and --merge: merge when all parts are done, with the same command and no --part")
        self.folder, self.tasks, self.args = folder, tasks, args
        self.part = args.part or Part(1, 1)
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
        workers = min(self.args.workers, len(left))
        name = f"results-{self.part.number}of{self.part.of}.jsonl"
        with open(self.folder / name, "ab+") as file:
            _drop_torn_line(file)
            for task, result in run_tasks(left, function, workers=workers, timeout=self.args.timeout):
                file.write(json.dumps({"key": task.key, "at": time.time(), **result}).encode() + b"\n")
                file.flush()
                progress.add(failed="error" in result)
        progress.finish()

    def _done(self, mine: Sequence[Task], is_good: Callable[[Result], bool] | None) -> set[str]:
        """Keys of this part that need no work: failures count as done unless they are to be tried again."""
        found = self._read()
        before = [(task.key, found[task.key]) for task in mine if task.key in found]
        kept = [(key, result) for key, result in before if "error" not in result or not self.args.retry]
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
                "run the parts that are not done (the same command goes on), then --merge"
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


# ------------------------------------------------------------------------------------------------- processes


class _Worker:
    """A process that does one task after the other."""

    def __init__(self, function: Callable[[Any], Result], timeout: float) -> None:
        self.function, self.timeout = function, timeout
        self.task: Task | None = None
        self.start()

    def start(self) -> None:
        sys.stdout.flush()  # else the new process has the text too, and writes it again
        context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.connection, self.function), daemon=True)
        self.process.start()
        theirs.close()  # when the process dies, the connection ends

    def give(self, task: Task | None) -> None:
        self.task, self.deadline = task, time.monotonic() + self.timeout
        if task is not None:
            self.connection.send(task.work)

    def result(self) -> Result | None:
        """What came of the task: also where the process died of it, or is stuck. None: it is still at it."""
        if self.connection.poll():
            try:
                kind, content = self.connection.recv()
            except (EOFError, OSError):
                self.process.join()
                return self._give_up(f"the process that worked on it died ({_cause(self.process.exitcode)})")
            if kind == "result":
                return content
            if kind == "no output":
                raise ConfigError(content)
            raise RuntimeError(f"in a worker process:\n{content}")
        if time.monotonic() > self.deadline:
            return self._give_up(f"hangs: nothing came of it in {self.timeout:g} s")
        return None

    def _give_up(self, reason: str) -> Result:
        self.stop()
        self.start()
        return {"error": reason}

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, other_end: Connection, function: Callable[[Any], Result]) -> None:
    other_end.close()  # so that the end of the main process, however it comes, ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the main process ends this one
    torch.set_num_threads(1)
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        message: tuple[str, Any]
        try:
            message = "result", function(work)
        except OSError as error:  # of the output: work functions make a result of what is wrong with their input
            message = "no output", f"{error.filename or 'output'}: {error.strerror or error}"
        except Exception:  # noqa: BLE001  (handed on: the main process raises it)
            message = "bug", traceback.format_exc()
        connection.send(message)


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"


def run_tasks(
    tasks: Iterable[Task], function: Callable[[Any], Result], *, workers: int, timeout: float
) -> Iterator[tuple[Task, Result]]:
    """Tasks and their results, in the order that they are done.

    Raises:
        ConfigError: the output cannot be written.
    """
    waiting = iter(tasks)
    crew: list[_Worker] = []
    try:
        for _ in range(workers):
            crew.append(_Worker(function, timeout))
            crew[-1].give(next(waiting, None))
        while busy := [worker for worker in crew if worker.task is not None]:
            wait([worker.connection for worker in busy], timeout=_POLL)
            for worker in busy:
                result = worker.result()
                if result is not None:
                    assert worker.task is not None
                    yield worker.task, result
                    worker.give(next(waiting, None))
    finally:
        for worker in crew:
            worker.stop()


# ------------------------------------------------------------------------------------------------- progress


class Progress:
    """Lines on stderr: how many are done, how fast, how long it will take."""

    def __init__(self, total: int, before: int) -> None:
        self.total, self.before, self.done, self.failed = total, before, 0, 0
        self.start = self.shown = time.monotonic()
        if before:
            self._say(f"{before:,} of {total:,} were done before")

    def add(self, *, failed: bool) -> None:
        """One more."""
        self.done += 1
        self.failed += failed
        if time.monotonic() - self.shown >= 10:
            self.shown = time.monotonic()
            self._show()

    def finish(self) -> None:
        """The last line."""
        if self.done:
            self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self.start
        rate, done = self.done / max(seconds, 1e-9), self.before + self.done
        left = clock((self.total - done) / rate)
        self._say(
            f"{done:,} of {self.total:,} ({100 * done / self.total:.1f} %), {rate:.3g}/s, {self.failed:,} failed, "
            f"{clock(seconds)} so far, about {left} left"
        )

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
