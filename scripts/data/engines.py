"""What tasks can be worked on with: `--engine processes` or `--engine ray`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from scripts.data.processes import Result, Task, run_tasks
from scripts.data.ray_engine import import_ray, run_with_ray


class Engine(Protocol):
    """Tasks and a work function -> tasks with their results, in the order that they are done.

    A task whose process dies or hangs has a result {"error": reason} and ends nothing else. `workers` is a number of
    processes; None leaves it to the engine. The work function is one that other processes can import.
    """

    def __call__(
        self, tasks: Iterable[Task], function: Callable[[Any], Result], *, workers: int | None, timeout: float
    ) -> Iterator[tuple[Task, Result]]: ...


ENGINES: dict[str, Engine] = {"processes": run_tasks, "ray": run_with_ray}


def check_engine(name: str) -> None:
    """Before any work.

    Raises:
        ConfigError: it needs a package that is not installed.
    """
    if name == "ray":
        import_ray()
