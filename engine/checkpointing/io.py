"""One checkpoint file: a writer that leaves the old one or the whole new one, a reader that runs no code in it."""

import argparse
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .files import find_damage, remove_leftovers

logger = logging.getLogger(__name__)

RETRY_DELAYS = (1.0, 5.0)  # seconds before trying to write again: a network file system may have hiccups
_REFUSED_GLOBAL = re.compile(r"\bGLOBAL (\S+)")  # in what torch says of a pickle that needs more than tensors


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole when it gets its name: on the disk, and read back to compare its checksums.

    Raises:
        OSError, RuntimeError: it could not be written; a file that was there is as it was.
    """
    remove_leftovers(path.parent)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    if damage := find_damage(temporary):
        raise OSError(f"{temporary}: {damage}, though it was just written")
    os.replace(temporary, path)
    _sync_folder(path.parent)


class AsyncWriter:
    """Writes on a thread of its own, one file after the other, while training goes on.

    A file that cannot be written is tried again after RETRY_DELAYS; then `failed` is True, and `wait` raises.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._running: Future[None] | None = None
        self._error: CheckpointError | None = None

    def __enter__(self) -> "AsyncWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """What is being written when an error ends the run is written all the same."""
        if self._running is not None:
            self._running.result()

    @property
    def failed(self) -> bool:
        """True once a file could not be written."""
        return self._error is not None

    def submit(self, path: Path, content: Mapping[str, Any], *, then: Callable[[], None]) -> None:
        """Write `content`, which must not change any more, and call `then`; waits for what was submitted before.

        Raises:
            CheckpointError: that could not be written.
        """
        self.wait()
        self._running = self._threads.submit(self._write, path, content, then)

    def wait(self) -> None:
        """Until all is on the disk. Raises CheckpointError if it cannot be."""
        if self._running is not None:
            self._running.result()
            self._running = None
        if self._error is not None:
            raise self._error

    def _write(self, path: Path, content: Mapping[str, Any], then: Callable[[], None]) -> None:
        for pause in (*RETRY_DELAYS, None):
            try:
                write_checkpoint(path, content)
                then()
            except (OSError, RuntimeError) as error:  # RuntimeError: torch's archive writer
                if pause is None:
                    self._error = CheckpointError(
                        f"{path}: could not be written ({_reason(error)}). The checkpoints before it are whole: make "
                        "room, or see to the file system, then the same command goes on from the newest"
                    )
                    return
                logger.warning("%s: could not be written (%s); trying again in %g s", path, _reason(error), pause)
                time.sleep(pause)
            else:
                return


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, as `os.fsync` has a file's content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems know no such thing
        logger.debug("%s: %s", folder, error)
    finally:
        os.close(descriptor)


def read_checkpoint(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """The content of a checkpoint file, tensors in host memory.

    Only tensors and plain types are unpickled, unless the user says with `trust` (`--trust_checkpoint`) that any code
    which the file holds may run.

    Raises:
        CheckpointError: missing, damaged, or holding objects without `trust`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path}: may not be read by this user")
    if damage := find_damage(path):
        raise CheckpointError(f"{path}: {damage}")
    if trust:
        logger.warning("%s: --trust_checkpoint: whatever code this file holds is run", path)
    try:
        # argparse.Namespace holds plain values; the released checkpoints keep their options in one.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many types on a file that is not a checkpoint
        raise CheckpointError(f"{path}: {_explain_load_error(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    return content


def _explain_load_error(error: Exception) -> str:
    """Why `torch.load` failed, and what can be done if it is for an object that the file holds."""
    if refused := _REFUSED_GLOBAL.search(str(error)):
        return (
            f"holds an object of type {refused[1]}, which can run code when it is read. If you trust whoever made the "
            "file: --trust_checkpoint"
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"cannot be read as a checkpoint of tensors and plain values: {reason}"
