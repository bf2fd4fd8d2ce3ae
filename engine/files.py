"""Atomic file writing, folders that cannot be, and JSON without NaN."""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ConfigError, naming

MIN_FREE = 1 << 12  # bytes that have to be free at the start; `--dry_run` says what checkpoints need


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically: a process killed while writing leaves the old file intact."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def no_folder(path: str | Path, error: OSError) -> str:
    """Why a folder cannot be made or written to, for a message."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"a link to {os.readlink(path)}, where nothing is: make that folder"
    if os.path.exists(path) and not os.path.isdir(path):
        return "a file, not a folder: choose another name"
    return f"cannot be written to ({error.strerror})"


def make_folder(flag: str, folder: str, *, written: Sequence[str] = (), replaced: Sequence[str] = ()) -> None:
    """Make a folder that results will be written to, and see whether they can be.

    Args:
        flag: that names the folder, for messages.
        written: names of files in it that are written to.
        replaced: patterns of files that others take the place of.

    Raises:
        ConfigError: it cannot be written to; something else has the name of a file.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # a full disk makes files, and fails to fill them
            file.write(bytes(MIN_FREE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"--{flag} {folder}: {no_folder(folder, error)}") from error
    folders = [path for pattern in replaced for path in Path(folder).glob(pattern) if path.is_dir()]
    for path in [*folders, *(Path(folder) / name for name in written)]:
        if path.exists() and not path.is_file():
            raise ConfigError(
                f"--{flag} {folder}: {path} is in the way: not a file. Remove it, or choose another folder"
            )
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"--{flag} {folder}: {path} may not be written by this user. Choose another folder")


def without_nan(value: Any) -> Any:
    """The value with None for every NaN and Inf in it, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list | tuple) else value
