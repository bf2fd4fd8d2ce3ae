"""What the results of a test belong to: the weights, the list and the views.

They are written beside the numbers, and a test counts as done only where all of them are those of the run at hand.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

RESULTS = "test.json"
CHUNK = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class TestedOn:
    """What decides the results of a test, besides the weights.

    Attributes:
        list_file, fingerprint: of the list that is tested.
        settings: the options that decide which clips are seen, and in which precision.
    """

    list_file: str
    fingerprint: str
    settings: Mapping[str, Any]

    def origin(self, weights: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """Entries for `test.json`.

        Args:
            weights: by the suffix of their results: the file, or folder, and the key of the weights in it.
        """
        hashes = {file: hash_of(Path(file)) for file in {file for file, _ in weights.values()}}
        return {
            "weights": {
                suffix: {"file": file, "key": key, "sha256": hashes[file]} for suffix, (file, key) in weights.items()
            },
            "list": {"file": self.list_file, "fingerprint": self.fingerprint},
            "settings": dict(self.settings),
        }


def hash_of(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` gives it; of a folder: over the names and hashes of its files."""
    found = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            found.update(f"{file.relative_to(path).as_posix()}\0{hash_of(file)}\n".encode("utf-8", "surrogateescape"))
        return found.hexdigest()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def predictions_name(suffix: str) -> str:
    """File name of the predictions that belong to the results of a suffix."""
    return f"test{suffix}_predictions.npz"


def is_tested(output_dir: str | Path, origin: Mapping[str, Any]) -> bool:
    """Whether the results in a folder are of this origin; if there are others, the log says what differs."""
    path = Path(output_dir) / RESULTS
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        logger.warning("%s: not readable, testing again", path)
        return False
    missing = [name for suffix in origin["weights"] if not (path.with_name(name := predictions_name(suffix))).exists()]
    if missing:
        logger.info("%s: without %s beside it, testing again", path, ", ".join(missing))
        return False
    different = [part for part, ours in _comparable(origin).items() if _comparable(found).get(part) != ours]
    if different:
        logger.info("%s is of another %s: testing again", path, " and ".join(different))
    return not different


def _comparable(origin: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that have to agree, by what they are called: a file may have been moved, or named otherwise."""
    weights, tested = origin.get("weights"), origin.get("list")
    hashes = (
        {suffix: entry.get("sha256") if isinstance(entry, dict) else None for suffix, entry in weights.items()}
        if isinstance(weights, dict)
        else None
    )
    return {
        "checkpoint": hashes,
        "list": tested.get("fingerprint") if isinstance(tested, dict) else None,
        "choice of views": origin.get("settings"),
    }
