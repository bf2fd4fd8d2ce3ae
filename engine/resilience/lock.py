"""A lock on the output folder: two runs that write into one would destroy each other's checkpoints.

The file `run.lock` says who holds it: host, process and its start, and a count that a thread raises every few seconds.
It is taken over from a holder that is gone:

- a process of this machine that has ended, or whose number another process has by now;
- an earlier start of the same job, which slurm or torchrun has ended before they started this one;
- a process elsewhere (another machine, another container), if the count stands still for STALE_AFTER.

No clocks are compared and no locks of the file system are used: neither can be relied on over NFS.
"""

import json
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..distributed.world import World, on_main_process
from ..errors import ConfigError
from ..files import no_folder
from .holder import NAME, STALE_AFTER, describe_holder, process_space, process_start, read_holder

logger = logging.getLogger(__name__)

BEAT = 10.0  # seconds between two counts
POLL = 2.0  # seconds between two looks at another's count
LOST = 70  # exit code of a run whose lock another one has taken
WAYS_OUT = "writes its results into this folder. Wait for it to end, or choose another --output_dir."
_RESTARTS = (("SLURM_JOB_ID", "SLURM_RESTART_COUNT"), ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"))


@contextmanager
def output_lock(
    output_dir: str,
    world: World,
    ways_out: str = "",
    *,
    name: str = NAME,
    against: Callable[[str], bool] = lambda name: False,
) -> Iterator[None]:
    """Hold the lock of a folder, which is made if it is not there. Every rank must enter; rank 0 holds it.

    Args:
        ways_out: what the message says of a folder that is no `--output_dir`.
        name: of the lock's file; commands that share a folder have one each; of one that writes a file it is FILE.lock.
        against: by name, the other locks in the folder that nobody may hold meanwhile.

    Raises:
        ConfigError: on all ranks, another run holds it; or the folder cannot be written to.
    """
    if not output_dir:
        yield
        return
    lock = RunLock(Path(output_dir), ways_out=ways_out, name=name, against=against)
    on_main_process(world, lock.acquire)
    if not world.is_main:
        yield
        return
    try:
        with lock.beating():
            yield
    finally:
        lock.release()


class RunLock:
    """The lock of one folder, for this process.

    Args:
        folder: is made if it is not there.
        environment: of the launcher.
        on_lost: called from the thread that counts, if another run has taken the lock.
        ways_out, name, against: see `output_lock`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] = os.environ,
        on_lost: Callable[[], None] | None = None,
        ways_out: str = "",
        name: str = NAME,
        against: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.named = f"--output_dir {folder}" if ways_out in ("", WAYS_OUT) else str(folder)
        if not name.startswith(NAME):
            self.named = str(folder / name.removesuffix(".lock"))
        self.ways_out = ways_out
        self.path = folder / name
        self.against = against
        self.environment = environment
        self.on_lost = on_lost or self._end_process
        self.token = uuid.uuid4().hex
        self.beats = 0
        self._own: dict[str, Any] = {}

    def acquire(self) -> None:
        """Take the lock. Raises ConfigError if another run holds it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise ConfigError(f"{self.named}: {self.path} is in the way: remove that folder")
            while not self._create():
                holder = self._read()
                if not self._is_gone(holder):
                    raise ConfigError(f"{self.named}: {describe_holder(holder)} {self._remedy()}")
                self._remove(holder)
            self._refuse_others()
        except OSError as error:
            raise ConfigError(f"{self.named}: {no_folder(self.path.parent, error)}") from error

    def _refuse_others(self) -> None:
        """Give the lock back if a lock that may not be held beside it is; whoever comes second sees the first one's."""
        for path in sorted(self.path.parent.iterdir()):
            if path == self.path or not self.against(path.name):
                continue
            other = RunLock(path.parent, ways_out=self.ways_out, name=path.name, environment=self.environment)
            holder = other._read()
            if path.exists() and not other._is_gone(holder):
                self.release()
                raise ConfigError(f"{self.named}: {describe_holder(holder)} {other._remedy()}")
            other._remove(holder)

    def release(self) -> None:
        """Give the lock back, if it is still held; a folder that has gone needs none."""
        if self._read().get("token") == self.token:
            self.path.unlink(missing_ok=True)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Count, on a thread of its own."""
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), name="run lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(BEAT):
            try:
                found = self._read()
                if found and found.get("token") != self.token:
                    self.on_lost()
                    return
                if found:
                    self.beats += 1
                    self._write(os.open(self.path, os.O_WRONLY))
            except OSError as error:  # a full disk, a server that restarts: what writes results will say so
                logger.debug("%s: %s", self.path, error)

    def _end_process(self) -> None:
        """End at once, without saving: the folder belongs to the other run."""
        sys.stderr.write(
            f"error: {self.path}: another run has taken this output ({describe_holder(self._read())}); stopping\n"
        )
        sys.stderr.flush()
        os._exit(LOST)

    def _content(self) -> dict[str, Any]:
        return {
            "host": platform.node(),
            "pid": os.getpid(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "process_start": process_start(os.getpid()),
            "space": process_space(),
            "folder": self.path.parent.stat().st_ino,
            "job": [[self.environment.get(name, "") for name in names] for names in _RESTARTS],
            "token": self.token,
            "beats": self.beats,
        }

    def _create(self) -> bool:
        """Make the file, if there is none."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        self._own = self._content()
        try:
            self._write(descriptor)
        except OSError:  # a full disk
            self.path.unlink(missing_ok=True)
            raise
        return True

    def _write(self, descriptor: int) -> None:
        """Write in one call, over the earlier content: a reader never meets an empty file."""
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(json.dumps({**self._own, "beats": self.beats}).encode() + b"\n")
            file.truncate()

    def _read(self) -> dict[str, Any]:
        return read_holder(self.path)

    def _is_gone(self, holder: Mapping[str, Any]) -> bool:
        if not holder:
            return self._stands_still(holder)
        if holder["folder"] != self.path.parent.stat().st_ino:
            return True  # copied with its folder
        if (holder["host"], holder["space"]) == (platform.node(), process_space()):
            return process_start(holder["pid"]) != holder["process_start"]
        for names, before in zip(_RESTARTS, holder["job"], strict=True):
            job, count = (self.environment.get(name, "") for name in names)
            if job not in ("", "none") and job == before[0] and _number(count) > _number(before[1]):
                return True
        return self._stands_still(holder)

    def _stands_still(self, holder: Mapping[str, Any]) -> bool:
        """Whether the count of a holder elsewhere does not change, or the file goes."""
        logger.warning("%s: %s; waiting up to %.0f s for a sign of it", self.path, describe_holder(holder), STALE_AFTER)
        until = time.monotonic() + STALE_AFTER
        while time.monotonic() < until:
            time.sleep(POLL)
            now = self._read()
            if not self.path.exists():
                return True
            if now != holder:
                return False
        return True

    def _remove(self, holder: Mapping[str, Any]) -> None:
        """Remove the lock of a holder that is gone, and no other: another process may have done so by now."""
        aside = self.path.with_name(f"{self.path.name}.{self.token}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        found = RunLock(self.path.parent)
        found.path = aside
        if found._read().get("token") != holder.get("token"):
            os.rename(aside, self.path)  # a new one: give it back
            return
        aside.unlink()
        logger.warning("%s: left behind by %s, taken over", self.path, describe_holder(holder))

    def _remedy(self) -> str:
        ways_out = self.ways_out or (
            f"writes into this folder. Choose another --output_dir, or wait for it to end (to test a run that trains: "
            f"--eval --resume {self.path.parent}/checkpoint-N.pth --output_dir OTHER)."
        )
        return f"{ways_out} If no such process is there, remove {self.path}"


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
