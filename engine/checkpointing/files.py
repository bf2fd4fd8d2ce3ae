"""Checkpoint files of a run: names, the newest valid one, removal of old ones."""

import logging
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

BEST = "checkpoint-best.pth"
_FILE = re.compile(r"checkpoint-(\d+)(?:-step(\d+))?\.pth")
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
)  # raised by damaged archives


def epoch_name(epoch: int) -> str:
    """File name of the checkpoint after an epoch."""
    return f"checkpoint-{epoch}.pth"


def step_name(epoch: int, step: int) -> str:
    """File name of a temporary checkpoint after `step` steps of an epoch; 0: before its first step."""
    return f"checkpoint-{epoch}-step{step}.pth"


def newest_valid(output_dir: str | Path) -> Path | None:
    """The latest valid checkpoint of a run; damaged ones are skipped with a warning."""
    return next(valid_checkpoints(output_dir), None)


def valid_checkpoints(output_dir: str | Path) -> Iterator[Path]:
    """The valid checkpoints of a run, the latest first; damaged ones are skipped with a warning."""
    for _, path in reversed(_checkpoints(output_dir)):
        if damage := find_damage(path):
            logger.warning("%s: %s; trying the one before", path, damage)
        else:
            yield path


def newest_weights(output_dir: Path) -> Path | None:
    """The latest valid checkpoint of a run, or else its best one if that is all there is."""
    best = output_dir / BEST
    return newest_valid(output_dir) or (best if best.is_file() and not find_damage(best) else None)


def describe_missing(path: Path) -> str:
    """Why there is nothing at a path, and the checkpoints that are in its folder."""
    if path.is_symlink():
        return "a link to nothing"
    if not path.parent.is_dir():
        return f"no such checkpoint file or folder; there is no folder {path.parent} either"
    there = [file.name for _, file in _checkpoints(path.parent)]
    there += [BEST] * (path.parent / BEST).is_file()
    there = there or sorted(
        file.name for ending in ("*.pth", "*.safetensors", "*.ckpt") for file in path.parent.glob(ending)
    )
    if not there:
        return "no such checkpoint file or folder"
    shown = there if len(there) <= 8 else [*there[:3], "...", *there[-4:]]
    return f"no such checkpoint file or folder; in {path.parent} are {', '.join(shown)}"


def remove_older_steps(written: Path, *, keep: int) -> None:
    """Keep the newest `keep` checkpoints with steps in their names: the one just written, and valid ones before it.

    Damaged files do not count, so that another valid one remains if the newest turns out to be damaged.
    """
    older = [path for at, path in _checkpoints(written.parent) if at[1] != math.inf and at < _position(written)]
    kept = 1
    while older and kept < keep:
        if len(older) == 1:
            return  # nothing to remove: skip the verification
        kept += not find_damage(older.pop())
    for path in older:
        remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove partial files of a process that was killed while writing a checkpoint."""
    for path in folder.glob("checkpoint-*.pth.tmp"):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file; failure is only a warning, so that training continues."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: could not be removed (%s)", path, error.strerror)


def _position(path: Path) -> tuple[int, float]:
    """Epoch and step of a file; step is infinite for the end of an epoch."""
    match = _FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2]) if match[2] else math.inf


def _checkpoints(output_dir: str | Path) -> list[tuple[tuple[int, float], Path]]:
    """The checkpoints in a folder with their positions, in training order."""
    return sorted((_position(p), p) for p in Path(output_dir).glob("checkpoint-*.pth") if _FILE.fullmatch(p.name))


def find_damage(path: Path) -> str:
    """Describe the damage of a checkpoint file, '' if it is valid. Detects flipped bits: every member has a CRC."""
    try:
        if not path.is_file():  # opening a pipe would block
            return "damaged (a link to nothing)" if path.is_symlink() and not path.exists() else "not a file"
        if path.stat().st_size == 0:
            return "the file is empty"
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                legacy = file.read(2) == b"\x80\x02"  # torch's format before 1.6: no archive, no checksums
            return "" if legacy else "not a checkpoint, or cut off"
        with zipfile.ZipFile(path) as archive:
            if oversize := _unpacks_to_more(archive, path.stat().st_size):
                return oversize
            broken = archive.testzip()
    except _ARCHIVE_ERRORS as error:
        return f"damaged ({error})"
    return f"damaged: {broken} fails its checksum" if broken else ""


def _unpacks_to_more(archive: zipfile.ZipFile, size: int) -> str:
    """Describe an archive that is larger in memory than on disk, '' if it is not. torch stores without compression."""
    members = archive.infolist()
    if any("/code/__torch__" in member.filename for member in members):
        return "a TorchScript program, no checkpoint: give the file of weights that it was made of"
    compressed = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    total = sum(member.file_size for member in members)
    if compressed is not None:
        return (
            f"refused: {compressed.filename} is compressed, and all would unpack to {total / 2**30:.3g} GiB. "
            "torch.save does not compress; unpack it and save it anew if you trust it"
        )
    return f"refused: its members are {total / 2**30:.3g} GiB in a smaller file" if total > size else ""
