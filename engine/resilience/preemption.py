"""Preemption: signals to stop are noted, agreed on by all ranks, and obeyed after saving.

A handler only notes the signal. It travels to all ranks in the all-reduce that every update makes anyway, so that they
all stop after the same one; they save, and exit with a code that means "run the same command again".
"""

import datetime
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import torch

from ..distributed.collectives import all_reduce_sum
from ..distributed.ddp import NUM_REQUESTS, Backend
from ..distributed.readout import Readout
from ..distributed.world import World, announce, wait_for, was_announced

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: temporary failure, retry
REQUEUE_TIMEOUT = datetime.timedelta(seconds=60)
SAVE_FAILED = 1 << 10  # larger than any signal number: a rank can no longer write checkpoints
# A sum over ranks carries them, as a count of each: the highest that any rank has posted holds.
REQUESTS = (*sorted(map(int, SIGNALS)), SAVE_FAILED)
assert len(REQUESTS) == NUM_REQUESTS
_REQUEUED = "the job is requeued"  # what the main process announces
_STOPPING = "a rank was asked to stop"  # what that rank announces while it evaluates


class Preempted(SystemExit):
    """Ends the process after a signal, with EXIT_CODE."""

    def __init__(self, signum: int) -> None:
        super().__init__(EXIT_CODE)
        self.signum = signum


class PreemptionHandler:
    """Context manager that handles SIGNALS; restores the previous handlers on exit. `nohup` keeps SIGHUP ignored.

    Repeated signals change nothing, because they often arrive twice: from the terminal and from the launcher.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.local_signal = 0  # highest signal number received by this rank
        self.agreed_signal = 0  # highest of all ranks
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._unread: deque[Readout] = deque()

    def __enter__(self) -> "PreemptionHandler":
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        handled = [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
        self._previous_handlers = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.local_signal = max(self.local_signal, number)

    def poll(self, backend: Backend, *, save_failed: bool = False) -> int:
        """Highest request of any rank, 0 for none: the same on all ranks. Call it on every rank, after every update.

        With several ranks it posts those received up to now, which travel with the next update, and reports those that
        the update before this call has brought; on a GPU the one before that, so that the device never idles: the host
        waits for an update only when it has enqueued the next.

        Args:
            save_failed: this rank requests SAVE_FAILED.
        """
        local = self._local_request(save_failed=save_failed)
        if self.world.size == 1:
            self.agreed_signal = local
            return self.agreed_signal
        if backend.requests is not None:
            self._unread.append(Readout({}, {"requests": backend.requests}))
            backend.requests = None
        while len(self._unread) > int(backend.runs_ahead):
            self._agree(self._unread.popleft().read()["requests"])
        if local:
            backend.post_request(REQUESTS.index(local))
        return self.agreed_signal

    def poll_blocking(self, *, save_failed: bool = False) -> int:
        """Like `poll`, but with an all-reduce of its own: it waits, and includes signals received up to now."""
        local = self._local_request(save_failed=save_failed)
        posted = torch.tensor([float(local == request) for request in REQUESTS], device=self.world.device)
        self._agree(all_reduce_sum(posted))
        self._unread.clear()  # nothing that this one did not bring
        return self.agreed_signal

    def _local_request(self, *, save_failed: bool) -> int:
        return max(self.local_signal, SAVE_FAILED if save_failed else 0)

    def _agree(self, counts: torch.Tensor) -> None:
        posted = [request for request, count in zip(REQUESTS, counts.tolist(), strict=True) if count]
        self.agreed_signal = max([self.agreed_signal, *posted])

    def exit(self, signum: int, message: str) -> NoReturn:
        """Log, requeue the slurm job where that is enabled, and raise Preempted. Everything must be saved already."""
        if self.world.is_main:
            logger.info("stopped by %s %s", signal_name(signum), message)
            requeue_job(signum)
        self.wait_for_requeue(signum)
        raise Preempted(signum)

    def wait_for_requeue(self, signum: int) -> None:
        """Let the other ranks wait, at most REQUEUE_TIMEOUT, while the main process requeues the job, before they exit.

        srun kills the other processes as soon as the first one exits, and the request to the controller with them. No
        collective: after a signal to some ranks alone, the others are still running.
        """
        if not should_requeue(signum):
            return
        if self.world.is_main:
            announce(_REQUEUED)
        elif not wait_for(_REQUEUED, REQUEUE_TIMEOUT):
            logger.warning("exiting without waiting for the main process to requeue the job")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around work that is redone after a restart, such as validation: `raise_if_preempted` raises inside it.

        Every rank must enter it.
        """
        _interruptible_handlers.append(self)
        try:
            raise_if_preempted()
            yield
        finally:
            _interruptible_handlers.remove(self)


@contextmanager
def exit_on_preemption(world: World) -> Iterator[None]:
    """Around work with nothing to save, such as the final test: a signal ends it, and the process.

    Raises:
        Preempted: after a signal; the same command redoes the work.
    """
    with PreemptionHandler(world) as handler:
        try:
            with handler.interruptible():
                yield
        except Preempted as request:
            handler.exit(request.signum, "while testing; the same command tests again from the start")


_interruptible_handlers: list[PreemptionHandler] = []


def stop_requested() -> bool:
    """Asked between the batches of an evaluation: whether to leave the rest out, after a signal to any rank.

    Ranks have different numbers of batches, so that no collective can be among them. A rank that has received a signal
    announces it; all go on to `raise_if_preempted`. Always False outside of `interruptible`.
    """
    for handler in _interruptible_handlers:
        if handler.local_signal:
            announce(_STOPPING)
            return True
    return bool(_interruptible_handlers) and was_announced(_STOPPING)


def raise_if_preempted() -> None:
    """Raise Preempted in `interruptible`, on all ranks, if one has received a signal. Every rank must call it.

    The signal handler itself does not raise: an exception at an arbitrary point, for example while a worker starts, may
    leave a lock held.
    """
    for handler in _interruptible_handlers:
        if signum := handler.poll_blocking():
            raise Preempted(signum)


def signal_name(signum: int) -> str:
    """Name of a signal, for example SIGTERM."""
    return signal.Signals(signum).name


def should_requeue(signum: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `requeue_job` will call scontrol."""
    return signum == signal.SIGUSR1 and environment.get("SIGMA_REQUEUE") == "1" and "SLURM_JOB_ID" in environment


def requeue_job(signum: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Requeue this slurm job, if the template enables it (SIGMA_REQUEUE=1) and the signal was SIGUSR1.

    The templates have slurm send SIGUSR1 before the time limit. SIGTERM is a `scancel`, or a preemption after which
    slurm requeues the job by itself.

    Returns:
        True if the job was requeued; slurm then ends it.
    """
    if not should_requeue(signum, environment):
        return False
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    # Slurm then sends SIGTERM to all processes of the job, including scontrol before it has received the reply.
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=50)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        logger.error("scontrol requeue %s failed, submit the job again by hand: %s", job, reason)
        return False
    finally:
        signal.signal(signal.SIGTERM, previous)
    logger.info("scontrol requeue %s: slurm will restart this job", job)
    return True
