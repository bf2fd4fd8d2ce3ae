"""Tasks worked on by several processes, of which one may die of its task or hang without ending the others."""

import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeAlias

from engine.errors import ConfigError

Result: TypeAlias = dict[str, Any]  # of a task; {"error": reason} if its input is bad
Message: TypeAlias = tuple[str, Any]  # what came of a task: "result", "no output" or "bug", and its content
_POLL = 1.0  # seconds between two looks at the clock
_START = 300.0  # that a new process may take until it begins, besides the time for the work
_BEGUN: Message = ("begun", None)


class Task(NamedTuple):
    """A piece of work: the name of its result, and what the work function is given."""

    key: str
    work: Any


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process that does one piece of work after the other.

    Args:
        function: work -> its result, pickled: only the new process needs what it imports.
        timeout: seconds after which a piece of work is given up.
        method: how the process is started; None: by a fork where there is one.
    """

    def __init__(self, function: bytes, timeout: float, method: str | None = None) -> None:
        self.function, self.timeout = function, timeout
        can_fork = "fork" in multiprocessing.get_all_start_methods()
        self.context: Any = multiprocessing.get_context(method or ("fork" if can_fork else None))
        self._start()

    def _start(self) -> None:
        sys.stdout.flush()  # else the new process has the text too, and writes it again
        self.connection, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(theirs, self.connection, self.function), daemon=True)
        self.process.start()
        theirs.close()  # when the process dies, the connection ends

    def give(self, work: bytes) -> None:
        """Hand over a piece of work, pickled; the one before must be finished."""
        self.deadline = time.monotonic() + _START + self.timeout
        self.connection.send_bytes(work)

    def message(self) -> Message | None:
        """What came of the work, also where the process died of it or is stuck; None: it is still at it."""
        while self.connection.poll():
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                self.process.join()
                return self._give_up(f"the process that worked on it died ({_cause(self.process.exitcode)})")
            if message != _BEGUN:
                return message
            self.deadline = time.monotonic() + self.timeout
        if time.monotonic() > self.deadline:
            return self._give_up(f"hangs: nothing came of it in {self.timeout:g} s")
        return None

    def wait(self) -> Message:
        """`message`, when it is there."""
        while (message := self.message()) is None:
            wait([self.connection], timeout=_POLL)
        return message

    def _give_up(self, reason: str) -> Message:
        self.stop()
        self._start()
        return "result", {"error": reason}

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def result_of(message: Message) -> Result:
    """The result in a message.

    Raises:
        ConfigError: the output cannot be written.
        RuntimeError: the work function has a bug.
    """
    kind, content = message
    if kind == "result":
        return content
    if kind == "no output":
        raise ConfigError(content)
    raise RuntimeError(f"in a worker process:\n{content}")


def _serve(connection: Connection, other_end: Connection, function: bytes) -> None:
    other_end.close()  # so that the end of the main process, however it comes, ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()  # in the middle of its work too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the main process ends this one
    while True:
        try:
            work = connection.recv_bytes()
        except EOFError:
            return
        message: Message
        try:
            call = pickle.loads(function)  # after the first time no more than a look-up
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            connection.send(_BEGUN)
            message = "result", call(pickle.loads(work))
        except OSError as error:  # of the output: work functions make a result of what is wrong with their input
            message = "no output", f"{error.filename or 'output'}: {error.strerror or error}"
        except Exception:  # noqa: BLE001  (handed on: the main process raises it)
            message = "bug", traceback.format_exc()
        connection.send(message)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"


def run_tasks(
    tasks: Iterable[Task], function: Callable[[Any], Result], *, workers: int | None, timeout: float
) -> Iterator[tuple[Task, Result]]:
    """Tasks and their results, in the order that they are done. An `engines.Engine`.

    Args:
        tasks: pieces of work.
        function: work -> its result.
        workers: processes; None: one for each core.
        timeout: seconds after which a task is given up.

    Raises:
        ConfigError: the output cannot be written.
    """
    waiting = iter(tasks)
    crew: list[Worker] = []
    busy: dict[Connection, tuple[Worker, Task]] = {}
    try:
        for task in itertools.islice(waiting, workers or num_cores()):
            crew.append(Worker(pickle.dumps(function), timeout))
            busy[crew[-1].connection] = crew[-1], task
            crew[-1].give(pickle.dumps(task.work))
        while busy:
            wait(list(busy), timeout=_POLL)
            for connection, (worker, task) in list(busy.items()):
                message = worker.message()
                if message is not None:
                    del busy[connection]
                    yield task, result_of(message)
                    following = next(waiting, None)
                    if following is not None:
                        busy[worker.connection] = worker, following
                        worker.give(pickle.dumps(following.work))
    finally:
        for worker in crew:
            worker.stop()
