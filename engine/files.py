"""Atomic file writing, and JSON without NaN."""

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


def without_nan(value: Any) -> Any:
    """The value with None for every NaN and Inf in it, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list | tuple) else value
