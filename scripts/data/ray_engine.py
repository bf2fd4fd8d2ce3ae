"""Tasks worked on by a Ray cluster, or by a Ray of this machine: a second engine beside `processes.run_tasks`.

Ray starts one supervisor for each process that is wanted, on any machine, and each supervisor has a process of its own
for the work (`processes.Worker`). So a video that kills or hangs its process costs that video, with the same words as
on one machine. A supervisor that dies, with its machine or by Ray's memory monitor, has its task done by another; a
task that took three of them is given up. Paths and results travel, no videos.

The tasks are calls of actors and not a dataset of Ray Data: there the driver passed 65 results a second instead of 770
(Ray 2.60, two cores), a retry is of a whole block, and a block that fails for good is left out without a name.
"""

import contextlib
import os
import pickle
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from scripts.data.processes import Message, Result, Task, Worker, num_cores, result_of

_ATTEMPTS = 3  # supervisors that a task may take with it
_PATIENCE = 60.0  # seconds without a worker after which a line says what is being waited for
_STORE_BYTES = 100 * 2**20  # of the object store of a Ray that is started here: paths and results are small
_REMEDY = '--engine ray needs Ray: pip install "ray>=2.51"'


def import_ray() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what a warning asks for, where no GPU is used
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(f"{_REMEDY} ({error})") from error
    return ray


class _Supervisor:
    """What Ray starts: it looks after a process that works. It imports neither torch nor a decoder itself."""

    def __init__(self, function: bytes, timeout: float) -> None:
        self.worker = Worker(function, timeout, "spawn")  # a fork of Ray's threads may hang

    def ready(self) -> None:
        """Answered once the supervisor is there."""

    def do(self, work: bytes) -> Message:
        """What came of a piece of work."""
        self.worker.give(work)
        return self.worker.wait()


def _import_paths(function: Callable[..., Any]) -> str:
    """What a worker needs on its PYTHONPATH: this package's folder, and that of the function."""
    module = sys.modules[function.__module__]
    of_function = Path(str(module.__file__)).resolve().parents[module.__name__.count(".")]
    return os.pathsep.join(dict.fromkeys(map(str, (Path(__file__).resolve().parents[2], of_function))))


@contextlib.contextmanager
def connected(workers: int | None, *, gpus: int = 0) -> Iterator[Any]:
    """The package, connected to the Ray that is in use already, else to RAY_ADDRESS, else to one started here.

    Args:
        workers: CPUs of a Ray that is started here; None: its cores.
        gpus: of a Ray that is started here.

    Raises:
        ConfigError: the cluster does not answer.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    with contextlib.ExitStack() as stack:
        try:
            if os.environ.get("RAY_ADDRESS"):
                ray.init(**quiet)
            else:
                os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # else it kills supervisors, not the work
                # Not TMPDIR, which may be long: paths of Ray's sockets have 107 bytes at most.
                place = os.environ.get("RAY_TMPDIR", "/tmp")
                folder = tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True)
                stack.enter_context(folder)
                ray.init(
                    address="local",
                    num_cpus=workers or num_cores(),
                    num_gpus=gpus,
                    object_store_memory=_STORE_BYTES,
                    include_dashboard=False,
                    _temp_dir=folder.name,
                    **quiet,
                )
        except Exception as error:  # Ray raises it bare where it does not start in time
            address = os.environ.get("RAY_ADDRESS") or "local"
            raise ConfigError(
                f"--engine ray: Ray does not start or answer (RAY_ADDRESS: {address}): {error}"
            ) from error
        stack.callback(ray.shutdown)
        yield ray


class _Crew:
    """The supervisors, what each is at, and the tasks that wait."""

    def __init__(self, ray: Any, tasks: Iterable[Task]) -> None:
        self.ray = ray
        self.waiting = deque((task, 1) for task in tasks)
        self.running: dict[Any, tuple[Any, tuple[Task, int] | None]] = {}  # answer to come -> supervisor, task, attempt
        self.members: list[Any] = []
        self.idle: list[Any] = []  # found nothing waiting

    def hire(self, count: int, function: Callable[[Any], Result], timeout: float, *, with_gpu: bool) -> None:
        """Start supervisors; those for which there is no CPU, or GPU, yet join later."""
        environment = {"env_vars": {"PYTHONPATH": _import_paths(function)}}
        needs = {"num_cpus": 1, "num_gpus": int(with_gpu)}
        options = {"max_restarts": -1, "max_task_retries": 0, "runtime_env": environment}
        supervisor = self.ray.remote(**needs, **options)(_Supervisor)
        for _ in range(count):
            self.members.append(supervisor.remote(pickle.dumps(function), timeout))
            self._ask_whether_ready(self.members[-1])

    def _ask_whether_ready(self, member: Any) -> None:
        self.running[member.ready.options(max_task_retries=-1).remote()] = member, None

    def is_done(self) -> bool:
        """Whether nothing waits and nobody is at a task."""
        return not self.waiting and all(at is None for _, at in self.running.values())

    def next(self) -> tuple[Task, Message] | None:
        """The next task that is finished; None: a supervisor joined, or one was lost and its task waits again."""
        while not (answered := self.ray.wait(list(self.running), num_returns=1, timeout=_PATIENCE)[0]):
            if all(at is None for _, at in self.running.values()):
                print(
                    "waiting for Ray: no worker has its CPU or GPU yet (`ray status` says why)",
                    file=sys.stderr,
                    flush=True,
                )
        member, at = self.running.pop(answered[0])
        try:
            message = self.ray.get(answered[0])
        except self.ray.exceptions.RayTaskError:  # a fault of `_Supervisor` itself
            raise
        except self.ray.exceptions.RayError as error:
            return self._lost(member, at, error)
        if self.waiting:
            task, attempt = self.waiting.popleft()
            self.running[member.do.remote(pickle.dumps(task.work))] = member, (task, attempt)
        else:
            self.idle.append(member)
        return None if at is None else (at[0], message)

    def _lost(self, member: Any, at: tuple[Task, int] | None, error: Exception) -> tuple[Task, Message] | None:
        if at is None:
            reason = " ".join(str(error).split())
            raise ConfigError(
                "--engine ray: its workers do not start. All machines of the cluster need this code and its packages "
                f"at the same path, or `ray job submit --working-dir`. {reason[-300:]}"
            ) from error
        self._ask_whether_ready(member)  # Ray starts it again, here or elsewhere
        task, attempt = at
        if attempt < _ATTEMPTS:
            self.waiting.append((task, attempt + 1))
            for other in self.idle:  # the lost one may find no CPU again, for as long as the idle ones have theirs
                self._ask_whether_ready(other)
            self.idle = []
            return None
        return task, ("result", {"error": f"the Ray worker or machine that worked on it died, {attempt} times"})

    def dismiss(self) -> None:
        """End all of them, whatever they are doing."""
        for member in self.members:
            self.ray.kill(member)


def run_with_ray(
    tasks: Iterable[Task], function: Callable[[Any], Result], *, workers: int | None, timeout: float, gpus: int = 0
) -> Iterator[tuple[Task, Result]]:
    """Tasks and their results, in the order that they are done. An `engines.Engine`.

    Args:
        tasks: pieces of work that can be pickled.
        function: work -> its result; other processes import it by its name.
        workers: processes; None: one for each CPU, or GPU, of the cluster, or of this machine.
        timeout: seconds after which a task is given up.
        gpus: of this machine, for a Ray that is started here; with any, each process gets a GPU of its own.

    Raises:
        ConfigError: Ray is not installed, does not start, or the output cannot be written.
    """
    tasks = list(tasks)
    if not tasks:
        return
    with connected(workers, gpus=gpus) as ray:
        crew = _Crew(ray, tasks)
        wanted = workers or max(int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0)), 1)
        try:
            crew.hire(min(wanted, len(tasks)), function, timeout, with_gpu=gpus > 0)
            while not crew.is_done():
                finished = crew.next()
                if finished is not None:
                    yield finished[0], result_of(finished[1])
        finally:
            crew.dismiss()
