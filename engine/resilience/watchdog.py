"""Ends a process that makes no progress, with the stacks of all its threads: better than waiting for the time limit.

In a collective all ranks wait for the one that stalls, so all of them end, and show where they stood.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 124  # that of the `timeout` command
_last_heartbeat = [time.monotonic()]


def heartbeat() -> None:
    """Tell the watchdog that there is progress; called after every update and every batch of an evaluation."""
    _last_heartbeat[0] = time.monotonic()


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """A context in which the process ends if `heartbeat` is not called for so many seconds; 0: for ever.

    It is a thread and not faulthandler's timer, which the loader's workers need, and which must not run while they are
    forked.
    """
    if not seconds:
        yield
        return
    done = threading.Event()
    heartbeat()
    thread = threading.Thread(target=_watch, args=(seconds, done), name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(seconds: float, done: threading.Event) -> None:
    while not done.wait(min(seconds / 10, 5.0)):
        if time.monotonic() - _last_heartbeat[0] > seconds:
            # Not through logging, whose lock a stalled thread may hold.
            sys.stderr.write(
                f"error: no progress for {seconds:g} seconds (--stall_timeout). This process ends; the same command "
                "goes on from the last checkpoint. Its threads stood here:\n"
            )
            sys.stderr.flush()
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            os._exit(EXIT_CODE)
