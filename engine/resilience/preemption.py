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
SAVE_FAILED = 1 << 10  # above every signal: a rank can no longer write its checkpoints


class Preempted(SystemExit):
    """Ends the process after a request to stop, with EXIT_CODE."""

    def __init__(self, signum: int) -> None:
        super().__init__(EXIT_CODE)
        self.signum = signum


class PreemptionHandler:
    """A context in which SIGINT, SIGUSR1 and SIGTERM are requests to stop; the handlers from before come back after it.

    Further signals change nothing, for they often come twice: from the terminal and from the launcher.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.local_signal = 0  # by this rank: the highest signal's number
        self.agreed_signal = 0  # by all ranks
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> "PreemptionHandler":
        if self.world.size > 1:  # one of its own, on the host: waiting for it never waits for a GPU
            self._group = dist.new_group(backend="gloo")
        self._previous_handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.local_signal = max(self.local_signal, number)

    def poll(self, *, save_failed: bool = False) -> int:
        """The highest request of any rank, 0 for none: the same on all ranks, which must all call this, once an update.

        With several ranks it tells what was noted up to the call before: the comparison takes place during the update.

        Args:
            failed: this rank asks with SAVE_FAILED.
        """
        local_signal = max(self.local_signal, SAVE_FAILED if save_failed else 0)
        if self.world.size == 1:
            self.agreed_signal = local_signal
            return self.agreed_signal
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            self.agreed_signal = max(self.agreed_signal, int(flag))
        flag = torch.tensor(local_signal)
        self._pending = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        return self.agreed_signal

    def poll_blocking(self, *, save_failed: bool = False) -> int:
        """`poll` that tells of what was noted up to now, and waits for all ranks."""
        self.poll(save_failed=save_failed)
        agreed_signal = self.poll(save_failed=save_failed)
        if self._pending is not None:
            self._pending[0].wait()
        return agreed_signal

    def wait_for_requeue(self, signum: int) -> None:
        """Wait while the main process asks slurm to start the job again, a minute at most.

        srun ends all processes when the first one has ended, and what they are asking for with them.
        """
        if self._group is None or not should_requeue(signum):
            return
        try:
            dist.barrier(self._group, async_op=True).wait(REQUEUE_TIMEOUT)
        except RuntimeError as error:  # others were not asked to stop, and are still at work
            logger.warning("leaving without the other processes: %s", error)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around work that is redone after a restart, such as validation: `raise_if_preempted` raises inside it."""
        _interruptible_handlers.append(self)
        try:
            raise_if_preempted()
            yield
        finally:
            _interruptible_handlers.remove(self)


@contextmanager
def exit_on_preemption(world: World) -> Iterator[None]:
    """Around work that leaves nothing to save, such as a final test: a request to stop ends it, and the process.

    Raises:
        Preempted: the process was asked to stop; the same command does the work again.
    """
    with PreemptionHandler(world) as stop:
        try:
            with stop.interruptible():
                yield
        except Preempted as request:
            if world.is_main:
                logger.info("stopped by %s; the same command tests again from the start", signal_name(request.signum))
                requeue_job(request.signum)
            stop.wait_for_requeue(request.signum)
            raise


_interruptible_handlers: list[PreemptionHandler] = []


def raise_if_preempted() -> None:
    """Called between the batches of an evaluation. Raises Preempted in `interruptible` after a signal.

    Handlers do not raise: an exception at any place, in the middle of starting a worker, say, may leave a lock taken.
    """
    for request in _interruptible_handlers:
        if request.local_signal:
            raise Preempted(request.local_signal)


def signal_name(signum: int) -> str:
    """The signal's name."""
    return signal.Signals(signum).name


def should_requeue(signum: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `requeue` will ask slurm."""
    return signum == signal.SIGUSR1 and environment.get("SIGMA_REQUEUE") == "1" and "SLURM_JOB_ID" in environment


def requeue_job(signum: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Have slurm start this job again, where a template wants that (SIGMA_REQUEUE=1) and SIGUSR1 was the request.

    The templates let slurm send SIGUSR1 some time before the job's end. SIGTERM is somebody's `scancel`, or a
    preemption after which slurm starts the job again by itself.

    Returns:
        True if slurm was asked; it then ends this job.
    """
    if not should_requeue(signum, environment):
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
