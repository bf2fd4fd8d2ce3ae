"""Watchdog: ends a stalled process with the stack traces of all threads, instead of waiting for the time limit.

In a collective all ranks wait for the stalled one, so all of them end and print their stack traces.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 124  # as of the `timeout` command
_last_heartbeat = [time.monotonic()]


def heartbeat() -> None:
    """Report progress to the watchdog; called after every update and every evaluation batch."""
    _last_heartbeat[0] = time.monotonic()


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Context manager: end the process if `heartbeat` is not called for this many seconds; 0 disables it.

    A thread and not faulthandler's timer, which the data loader workers use and which must not run while they fork.
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
            # Not logged: a stalled thread may hold the lock of logging.
            sys.stderr.write(
                f"error: no progress for {seconds:g} seconds (--stall_timeout). This process ends; the same command "
                "resumes from the last checkpoint. Stack traces of its threads:\n"
            )
            sys.stderr.flush()
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            os._exit(EXIT_CODE)
