"""Checkpoint file input and output: atomic, verified, asynchronous writes; reads that execute no code."""

import argparse
import logging
import os
import pickle
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import CheckpointError, NewerFormatError
from .files import describe_missing, find_damage, remove, remove_leftovers

logger = logging.getLogger(__name__)

FORMAT_KEY = "format_version"  # files without it, older ones and those of other programs, are read as ever
FORMAT_VERSION = 1  # to be raised when a file would be misread by code that does not know of the change
MAX_REPEATED = 1 << 28  # bytes of a tensor that is larger than its storage
RETRY_DELAYS = (1.0, 5.0)  # seconds before retrying a write: network file systems fail temporarily
_REFUSED_GLOBAL = re.compile(r"\bGLOBAL (\S+)")  # in torch's error for a pickle with other objects than tensors


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: fsync, verify checksums by reading back, then rename.

    Raises:
        OSError, RuntimeError: it could not be written; an existing file is unchanged.
    """
    remove_leftovers(path.parent)
    temporary = path.with_name(path.name + ".tmp")
    try:
        _write_whole(temporary, content)
        _keep_later_format(path)
        os.replace(temporary, path)
    except (OSError, RuntimeError):
        remove(temporary)  # on a full disk it takes the room that is needed to go on
        raise
    _sync_folder(path.parent)


def _keep_later_format(path: Path) -> None:
    """Rename a file of a later format that is about to be replaced: this code cannot say that it has what that has."""
    try:
        version = torch.load(path, map_location="cpu", weights_only=True, mmap=True)[FORMAT_KEY]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError):
        return  # there is none, or it has no format
    if isinstance(version, int) and version > FORMAT_VERSION:
        kept = path.with_name(f"{path.name}.format-{version}")
        os.replace(path, kept)
        logger.warning("%s has a later format: kept as %s", path, kept)


def _write_whole(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save({FORMAT_KEY: FORMAT_VERSION, **content}, recorder)
        except RuntimeError as error:  # of torch's archive writer, which does not pass the reason on
            raise recorder.error or error from error
        file.flush()
        os.fsync(file.fileno())
    if damage := find_damage(path):
        raise OSError(f"{path}: {damage}, though it was just written")


class _Recorder:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class AsyncWriter:
    """Writes checkpoints on a background thread, one after the other.

    A failed write is retried after RETRY_DELAYS; then `failed` is True and `wait` raises.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._running: Future[None] | None = None
        self._error: CheckpointError | None = None

    def __enter__(self) -> "AsyncWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Complete a pending write, also if an error ends the run."""
        if self._running is not None:
            self._running.result()

    @property
    def failed(self) -> bool:
        """True once a file could not be written."""
        return self._error is not None

    def submit(self, path: Path, content: Mapping[str, Any], *, then: Callable[[], None]) -> None:
        """Write `content`, which must not change any more, then call `then`. Waits for the previous write first.

        Raises:
            CheckpointError: the previous write failed.
        """
        self.wait()
        self._running = self._threads.submit(self._write, path, content, then)

    def wait(self) -> None:
        """Wait until all files are on disk. Raises CheckpointError if a write failed."""
        if self._running is not None:
            self._running.result()
            self._running = None
        if self._error is not None:
            raise self._error

    def _write(self, path: Path, content: Mapping[str, Any], then: Callable[[], None]) -> None:
        for delay in (*RETRY_DELAYS, None):
            try:
                write_checkpoint(path, content)
                then()
            except (OSError, RuntimeError) as error:  # torch's archive writer raises RuntimeError
                if delay is None:
                    self._error = CheckpointError(
                        f"{path}: could not be written ({_reason(error)}). Earlier checkpoints are intact: free some "
                        "space or repair the file system, then the same command resumes from the newest"
                    )
                    return
                logger.warning("%s: could not be written (%s); trying again in %g s", path, _reason(error), delay)
                time.sleep(delay)
            else:
                return


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _sync_folder(folder: Path) -> None:
    """fsync a folder, so that renames in it are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # not supported by some network file systems
        logger.debug("%s: %s", folder, error)
    finally:
        os.close(descriptor)


def read_checkpoint(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint file; tensors are in host memory.

    Only tensors and plain types are unpickled, unless `trust` (`--trust_checkpoint`) allows the file to run code.

    Raises:
        CheckpointError: missing, damaged, or contains other objects without `trust`.
        NewerFormatError: of a later format.
    """
    path = Path(path)
    if not path.is_file():
        reason = "no such checkpoint file, but a folder" if path.is_dir() else describe_missing(path)
        raise CheckpointError(f"{path}: {reason}")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path}: not readable by this user")
    if damage := find_damage(path):
        raise CheckpointError(f"{path}: {damage}")
    if trust:
        logger.warning("%s: --trust_checkpoint: any code in this file is executed", path)
    try:
        # The released checkpoints store their options in an argparse.Namespace, which holds plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many types for a file that is no checkpoint
        raise CheckpointError(f"{path}: {_explain_load_error(error)}") from error
    if isinstance(content, torch.nn.Module):  # only with trust
        content = content.state_dict()
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    version = content.get(FORMAT_KEY, FORMAT_VERSION)
    if version not in range(1, FORMAT_VERSION + 1):
        raise NewerFormatError(
            f"{path}: has format version {version}, and this code reads versions up to {FORMAT_VERSION}: update this "
            "code to the one that wrote the file"
        )
    _check_sizes(content, path)
    return content


def _check_sizes(content: Any, path: Path) -> None:
    """Raise CheckpointError for a tensor that repeats a small storage: copied, it would fill the memory."""
    if isinstance(content, torch.Tensor):
        size = content.numel() * content.element_size()
        if size > MAX_REPEATED and content.layout == torch.strided and size > content.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: refused: a tensor of shape {tuple(content.shape)}, {size / 2**30:.3g} GiB, which "
                "repeats fewer numbers"
            )
    elif isinstance(content, Mapping | list | tuple):
        for item in content.values() if isinstance(content, Mapping) else content:
            _check_sizes(item, path)


def _explain_load_error(error: Exception) -> str:
    """Why `torch.load` failed, and the remedy if the file contains an object."""
    if refused := _REFUSED_GLOBAL.search(str(error)):
        return (
            f"holds an object of type {refused[1]}, which can execute code when unpickled. If you trust the source of "
            "the file: --trust_checkpoint"
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "TorchScript" in reason:
        return "a TorchScript program, no checkpoint: give the file of weights that it was made of"
    if "inline_container" in reason or "PytorchStreamReader" in reason:
        return "an archive of another kind, such as an exported program or a .npz, no checkpoint"
    return f"cannot be read as a checkpoint of tensors and plain values: {reason}"
