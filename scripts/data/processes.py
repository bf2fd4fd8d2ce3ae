"""Tasks worked on by several processes, of which one may die of its task or hang without ending the others."""

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeAlias

import torch

from engine.errors import ConfigError

Result: TypeAlias = dict[str, Any]  # of a task; {"error": reason} if its input is bad
_POLL = 1.0  # seconds between two looks at the clock


class Task(NamedTuple):
    """A piece of work: the name of its result, and what the work function is given."""

    key: str
    work: Any


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
