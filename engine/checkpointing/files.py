"""The checkpoint files of a run: their names, which is the newest that is whole, and which are no longer needed."""

import logging
import math
import re
import zipfile
import zlib
from pathlib import Path

logger = logging.getLogger(__name__)

BEST = "checkpoint-best.pth"
_FILE = re.compile(r"checkpoint-(\d+)(?:-step(\d+))?\.pth")
_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)  # of a damaged archive


def epoch_name(epoch: int) -> str:
    """Name of the checkpoint at the end of an epoch."""
    return f"checkpoint-{epoch}.pth"


def step_name(epoch: int, step: int) -> str:
    """Name of a checkpoint that later ones replace: after so many steps of an epoch, 0: before it begins."""
    return f"checkpoint-{epoch}-step{step}.pth"


def newest_valid(output_dir: str | Path) -> Path | None:
    """The checkpoint made last in training that is whole; damaged ones are reported and passed over."""
    for _, path in reversed(_checkpoints(output_dir)):
        damage = find_damage(path)
        if not damage:
            return path
        logger.warning("%s: %s; trying the one before", path, damage)
    return None


def remove_older_steps(written: Path, *, keep: int) -> None:
    """Of the files with steps in their names keep the one just written and whole ones before it, `keep` in all.

    Damaged ones do not count: should the one just written turn out to be damaged too, there is still another.
    """
    older = [
        path for place, path in _checkpoints(written.parent) if place[1] != math.inf and place < _position(written)
    ]
    kept = 1
    while older and kept < keep:
        if len(older) == 1:
            return  # nothing to remove, so it need not be read
        kept += not find_damage(older.pop())
    for path in older:
        remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while it wrote a checkpoint left behind."""
    for path in folder.glob("checkpoint-*.pth.tmp"):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file that is no longer needed; training does not stop because it cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: could not be removed (%s)", path, error.strerror)


def _position(path: Path) -> tuple[int, float]:
    """Where in training a file was made: its epoch, and the steps done in that, all of them if it does not say."""
    match = _FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2]) if match[2] else math.inf


def _checkpoints(output_dir: str | Path) -> list[tuple[tuple[int, float], Path]]:
    """The checkpoints in a folder with their places, the earliest first."""
    return sorted((_position(p), p) for p in Path(output_dir).glob("checkpoint-*.pth") if _FILE.fullmatch(p.name))


def find_damage(path: Path) -> str:
    """What is wrong with a checkpoint's archive, '' if nothing is. Finds flipped bytes too: every member has a CRC."""
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return "damaged (a link to nothing)" if path.is_symlink() and not path.exists() else "not a file"
        if path.stat().st_size == 0:
            return "the file is empty"
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                legacy = file.read(2) == b"\x80\x02"  # torch's format before 1.6: no archive, nothing to verify
            return "" if legacy else "not a checkpoint, or cut off"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except _ARCHIVE_ERRORS as error:
        return f"damaged ({error})"
    return f"damaged: {broken} fails its checksum" if broken else ""
