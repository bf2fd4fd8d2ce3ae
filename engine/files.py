"""Atomic file writing, folders that cannot be, and JSON without NaN."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import naming


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


def without_nan(value: Any) -> Any:
    """The value with None for every NaN and Inf in it, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list | tuple) else value
