"""Requests to stop, such as a cluster's before it takes the machine away: noted, agreed on by all ranks, obeyed.

A handler only notes the signal. The ranks compare notes at the end of every update, so that all of them stop behind the
same one; they save, and exit with a code that says that the same command goes on from there.
"""

import datetime
import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ..distributed.world import World

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done yet, try again
REQUEUE_TIMEOUT = datetime.timedelta(seconds=60)
FAILED = 1 << 10  # above every signal: a rank can no longer write its checkpoints


class Preempted(SystemExit):
    """Ends the process after a request to stop, with EXIT_CODE."""

    def __init__(self, asked: int) -> None:
        super().__init__(EXIT_CODE)
        self.asked = asked


class StopRequests:
    """A context in which SIGINT, SIGUSR1 and SIGTERM are requests to stop; the handlers from before come back after it.

    Further signals change nothing, for they often come twice: from the terminal and from the launcher.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.noted = 0  # by this rank: the highest signal's number
        self.agreed = 0  # by all ranks
        self._before: dict[signal.Signals, Any] = {}
        self._group: Any = None
        self._on_its_way: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> "StopRequests":
        if self.world.size > 1:  # one of its own, on the host: waiting for it never waits for a GPU
            self._group = dist.new_group(backend="gloo")
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.noted = max(self.noted, number)

    def poll(self, *, failed: bool = False) -> int:
        """The highest request of any rank, 0 for none: the same on all ranks, which must all call this, once an update.

        With several ranks it tells what was noted up to the call before: the comparison takes place during the update.

        Args:
            failed: this rank asks with FAILED.
        """
        noted = max(self.noted, FAILED if failed else 0)
        if self.world.size == 1:
            self.agreed = noted
            return self.agreed
        if self._on_its_way is not None:
            work, flag = self._on_its_way
            work.wait()
            self.agreed = max(self.agreed, int(flag))
        flag = torch.tensor(noted)
        self._on_its_way = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        return self.agreed

    def settle(self, *, failed: bool = False) -> int:
        """`poll` that tells of what was noted up to now, and waits for all ranks."""
        self.poll(failed=failed)
        agreed = self.poll(failed=failed)
        if self._on_its_way is not None:
            self._on_its_way[0].wait()
        return agreed

    def wait_for_main(self, asked: int) -> None:
        """Wait while the main process asks slurm to start the job again, a minute at most.

        srun ends all processes when the first one has ended, and what they are asking for with them.
        """
        if self._group is None or not wants_requeue(asked):
            return
        try:
            dist.barrier(self._group, async_op=True).wait(REQUEUE_TIMEOUT)
        except RuntimeError as error:  # others were not asked to stop, and are still at work
            logger.warning("leaving without the other processes: %s", error)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around work that is done again after a restart, such as validation: `safe_point` obeys a request inside."""
        _obeyed_at_once.append(self)
        try:
            safe_point()
            yield
        finally:
            _obeyed_at_once.remove(self)


@contextmanager
def until_asked(world: World) -> Iterator[None]:
    """Around work that leaves nothing to save, such as a final test: a request to stop ends it, and the process.

    Raises:
        Preempted: the process was asked to stop; the same command does the work again.
    """
    with StopRequests(world) as stop:
        try:
            with stop.at_once():
                yield
        except Preempted as request:
            if world.is_main:
                logger.info("stopped by %s; the same command tests again from the start", describe(request.asked))
                requeue(request.asked)
            stop.wait_for_main(request.asked)
            raise


_obeyed_at_once: list[StopRequests] = []


def safe_point() -> None:
    """Called between the batches of an evaluation. Raises Preempted in `at_once`, if this process was asked to stop.

    Handlers do not raise: an exception at any place, in the middle of starting a worker, say, may leave a lock taken.
    """
    for request in _obeyed_at_once:
        if request.noted:
            raise Preempted(request.noted)


def describe(asked: int) -> str:
    """The signal's name."""
    return signal.Signals(asked).name


def wants_requeue(asked: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `requeue` will ask slurm."""
    return asked == signal.SIGUSR1 and environment.get("SIGMA_REQUEUE") == "1" and "SLURM_JOB_ID" in environment


def requeue(asked: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Have slurm start this job again, where a template wants that (SIGMA_REQUEUE=1) and SIGUSR1 was the request.

    The templates let slurm send SIGUSR1 some time before the job's end. SIGTERM is somebody's `scancel`, or a
    preemption after which slurm starts the job again by itself.

    Returns:
        True if slurm was asked; it then ends this job.
    """
    if not wants_requeue(asked, environment):
        return False
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    # Slurm obeys by sending SIGTERM to all processes of the job, scontrol among them before it has the answer.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=50)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        logger.error("scontrol requeue %s failed, submit the job again by hand: %s", job, said)
        return False
    finally:
        signal.signal(signal.SIGTERM, before)
    logger.info("scontrol requeue %s: slurm will start this job again", job)
    return True
