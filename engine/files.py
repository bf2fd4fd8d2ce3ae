"""Atomic file writing."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically: a process killed while writing leaves the old file intact."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
