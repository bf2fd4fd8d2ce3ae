"""Worker processes of the loader: seeds, signals, decode timeouts, and errors for workers that die or hang.

A worker cannot report why it was killed, nor anything at all while it is stuck in native code. So each writes the path
of the video that it reads to a small file, which the main process reads afterwards.
"""

import contextlib
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from ..errors import DecodeError, LoaderError
from .hang_guard import LastDecode, last_watched, set_watch_file, watched

_STOP_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
DECODE_TIMEOUT = 60.0  # seconds, for one clip
MAIN_PROCESS = -1  # worker number in the main process
_WORKER_STREAM = 2  # last word of the seeds of these streams; samples have (seed, epoch, index, repeat)
_NEVER = 1e6  # seconds
_SHM = "/dev/shm"

_DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? (\d+)")
_HOW_IT_DIED = re.compile(r"is killed by signal: [A-Z][\w ]*|exited unexpectedly with exit code \d+")
_SHM_FULL = re.compile(
    r"bus error|No space left on device|unable to (write|allocate shared|resize|mmap|open shared)|shm_open",
    re.IGNORECASE,
)
_NO_FILES_LEFT = re.compile(r"Too many open files|items of ancdata", re.IGNORECASE)


# ---------------------------------------------------------------------------------------------- in the worker


_timeout = DECODE_TIMEOUT


def set_timeout(timeout: float) -> None:
    """Seconds after which reading a clip counts as stuck, in this process; 0: never."""
    global _timeout
    _timeout = timeout


def worker_number() -> int:
    """Number of this loader worker from 0; MAIN_PROCESS outside of one."""
    info = get_worker_info()
    return MAIN_PROCESS if info is None else info.id


def init_worker(
    worker_id: int, *, seed: int, rank: int, timeout: float = DECODE_TIMEOUT, folder: str | None = None
) -> None:
    """Start of a loader's worker: one thread, and global generators seeded for epoch 0.

    Stop signals often go to all processes of a run (Ctrl-C, slurm). The main process handles them, and still needs its
    workers when it saves: workers block them.

    Args:
        timeout: see `set_timeout`.
        folder: where to say what is being read; None: nowhere.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    # The main process ends workers by SIGTERM: one from there is obeyed.
    threading.Thread(target=_obey_sigterm_of, args=(os.getppid(),), name="sigterm", daemon=True).start()
    torch.set_num_threads(1)
    seed_worker(seed, rank=rank, worker=worker_id, epoch=0)
    set_timeout(timeout)
    if folder is not None:
        set_watch_file(os.path.join(folder, str(os.getpid())))


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Around the start of workers: they inherit the blocked stop signals, and never see one before `init_worker`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_sigterm_of(process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        continue
    os._exit(0)


def seed_worker(seed: int, *, rank: int, worker: int, epoch: int) -> None:
    """Seed random, numpy and torch, differently for every worker of every rank in every epoch.

    The samples do not use the global generators; this is for libraries that do.
    """
    words = np.random.SeedSequence([seed, rank, worker, epoch, _WORKER_STREAM]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002  (libraries use the global generator)
    torch.manual_seed(int(words[2]))


class SeededByEpoch(Dataset):
    """A data set indexed by (epoch, index, ...) that reseeds its worker at every epoch.

    Persistent workers outlive an epoch, so seeding at their start is not enough.
    """

    def __init__(self, dataset: Dataset, *, seed: int, rank: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        worker = worker_number()
        if worker != MAIN_PROCESS and key[0] != self.epoch:
            self.epoch = key[0]
            seed_worker(self.seed, rank=self.rank, worker=worker, epoch=self.epoch)
        return self.dataset[key]


@contextlib.contextmanager
def reading(path: str, *, clips: int = 1) -> Iterator[None]:
    """Timeout around the reading of one video: if it takes too long, the process ends with the path of the video.

    A worker is ended by a timer that also runs while native code is stuck; the main process then reports why.

    Args:
        clips: number of clips read; the timeout is per clip.
    """
    limit = _timeout * clips
    with watched(path, limit or _NEVER) if worker_number() != MAIN_PROCESS else _watched_here(path, limit):
        yield


@contextlib.contextmanager
def _watched_here(path: str, limit: float) -> Iterator[None]:
    """`watched` for the main process, which reports itself why it ends."""
    if not limit:
        yield
        return
    global _watchdog
    if _watchdog is None:
        _watchdog = _Watchdog()
    watchdog = _watchdog  # a process forked in the block has none
    key = watchdog.begin(path, time.monotonic() + limit)
    try:
        yield
    finally:
        watchdog.end(key)


class _Watchdog:
    """One thread that ends the process when a video is read for too long; starting and ending a reading is cheap.

    It sleeps until the first deadline that it knows of, which most often is that of a clip long done, and looks again.
    So it wakes up once in a limit, not once a clip. It needs the interpreter's lock, which native code that hangs has
    given up if it waits for a disk or decodes.
    """

    def __init__(self) -> None:
        self._readings: dict[object, tuple[float, str]] = {}  # deadline and path of what is being read
        self._sooner = threading.Event()
        self._wakes_at = math.inf
        threading.Thread(target=self._watch, name="reading watchdog", daemon=True).start()

    def begin(self, path: str, deadline: float) -> object:
        """Watch until `end` is called with what this returns."""
        key = object()
        self._readings[key] = deadline, path
        if deadline < self._wakes_at:
            self._sooner.set()
        return key

    def end(self, key: object) -> None:
        self._readings.pop(key, None)

    def _watch(self) -> None:
        while True:
            # In this order: what begins before the look is seen by it, and what begins after it ends the sleep.
            self._sooner.clear()
            self._wakes_at = math.inf
            deadline, path = min(list(self._readings.values()), default=(math.inf, ""))
            left = deadline - time.monotonic()
            if left <= 0:
                _end_main_process(path)
            self._wakes_at = deadline
            self._sooner.wait(min(left, _NEVER))


_watchdog: _Watchdog | None = None  # of this process: made when it first reads


def _forget_watchdog() -> None:
    """A forked process has its parent's variables, but not its threads."""
    global _watchdog
    _watchdog = None


os.register_at_fork(after_in_child=_forget_watchdog)


def _end_main_process(path: str) -> None:
    os.write(2, f"error: {_stuck(path)}\n".encode())
    os._exit(2)


# ---------------------------------------------------------------------------------------------- in the main process


_folders: dict[int, tempfile.TemporaryDirectory] = {}  # by process: one that was forked must not remove its parent's


def watch_folder() -> str:
    """The folder in which the workers of this process say what they read, in files named by their process numbers."""
    if os.getpid() not in _folders:
        _folders[os.getpid()] = tempfile.TemporaryDirectory(prefix="loader-")
    return _folders[os.getpid()].name


def _last_of(pid: int) -> LastDecode | None:
    return last_watched(os.path.join(watch_folder(), str(pid)))


def _longest_reading() -> str:
    """What the worker reads that began first; "" if none reads."""
    with os.scandir(watch_folder()) as entries:
        files = sorted(entries, key=lambda entry: entry.stat().st_mtime)
    return next((last.path for file in files if (last := last_watched(file.path)) is not None), "")


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """Turn what torch's DataLoader raises for dead and stuck workers into LoaderError.

    It raises in the loop over the batches, but also, from a signal handler, anywhere in the main thread: put this
    around the whole run.
    """
    try:
        yield
    except (LoaderError, DecodeError):
        raise
    except (RuntimeError, OSError, EOFError) as error:
        # the loop may hide the signal handler's message about a death, or fail before it in reading from a dead worker
        handler = error.__cause__ if isinstance(error, RuntimeError) else _wait_for_signal_handler()
        reason = explain(f"{error}\n{handler or ''}")
        if reason is None:
            raise
        sys.unraisablehook = _without_half_made_iterators
        raise LoaderError(reason) from error


def _without_half_made_iterators(unraisable: Any) -> None:
    """As Python's own hook; torch's iterator, if it could not be made, fails once more as it is deleted."""
    if "_MultiProcessingDataLoaderIter" not in repr(unraisable.object):
        sys.__unraisablehook__(unraisable)


def _wait_for_signal_handler() -> RuntimeError | None:
    try:
        time.sleep(1)
    except RuntimeError as error:
        return error
    return None


def explain(text: str) -> str | None:
    """Cause and remedy of an error of the DataLoader; None if it is about something else."""
    if (dead := _DEAD.search(text)) is not None:
        return _dead_worker(int(dead[1]), text)
    if "DataLoader timed out" in text:
        path = _longest_reading()
        where = f", the longest at {path}" if path else ""
        return (
            f"the loader's workers gave no batch for a long time{where}: the file system may hang; or if batches do "
            "take that long, raise --decode_timeout or lower --batch_size"
        )
    if _NO_FILES_LEFT.search(text):
        return "too many open files: raise the limit with `ulimit -n 65536`, or use fewer --num_workers"
    if _SHM_FULL.search(text) and ("shared memory" in text or "torch_" in text or _SHM in text):
        return _shm_full()
    return None


def _dead_worker(pid: int, text: str) -> str:
    last = _last_of(pid)
    if last is not None and last.hung:
        return _stuck(last.path)
    reading_it = f" while it was reading {last.path}" if last is not None else ""
    if re.search(r"signal: Bus error", text):
        return _shm_full()
    if re.search(r"signal: (Killed|Terminated)", text):
        return (
            f"a loader worker (pid {pid}) was killed{reading_it}, most often because the machine's memory was used up: "
            "use fewer --num_workers or a smaller --batch_size, or ask for more memory; the same command resumes from "
            "the last checkpoint"
        )
    how = _HOW_IT_DIED.search(text)
    return (
        f"a loader worker (pid {pid}) {how[0] if how else 'died'}{reading_it}: take that video out of the list, or try "
        "another --decoder; --num_workers 0 shows more"
    )


def _stuck(path: str) -> str:
    return (
        f"{path}: reading it took longer than --decode_timeout allows: take it out of the list if it is damaged, try "
        "another --decoder, or raise the limit if the disk is that slow"
    )


def _shm_full() -> str:
    usage = f" ({shutil.disk_usage(_SHM).total / 2**20:.0f} MiB)" if os.path.isdir(_SHM) else ""
    return (
        f"shared memory {_SHM}{usage} is full, through which the loader's workers hand over their batches: make it "
        "larger (docker run --shm-size=16g, or --ipc=host), or use fewer --num_workers or a smaller --batch_size"
    )
