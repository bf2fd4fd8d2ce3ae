"""One JSON file for each number that an evaluation gives, with everything that it depends on."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Record:
    """A number and where it comes from.

    Attributes:
        value: in the unit in which tables print it.
        per_clip: value of every clip by name, or of every object as CLIP:LABEL; {} where predictions lie beside it.
        probe: what was trained: "frozen" (nothing), a probe on frozen weights, or "finetune" (all weights).
        views: CLIPSxCROPS of a video; "" where there are none.
        checkpoint, checkpoint_sha256: of the weights; "" for random ones.
        list_sha256: of the list file's bytes.
        pretrained: the weights that such a training started from.
        seeds, per_seed: seeds of the evaluation, and the value by each.
    """

    task: str
    metric: str
    value: float
    clips: int
    per_clip: dict[str, float]
    data_set: str
    model: str
    checkpoint: str
    checkpoint_sha256: str
    list_file: str
    list_sha256: str
    options: dict[str, Any]
    seeds: Sequence[int]
    per_seed: Sequence[float]
    versions: dict[str, str]
    commit: str
    probe: str = "frozen"
    views: str = ""
    pretrained: str = ""

    def write(self, folder: Path) -> Path:
        """Write `TASK-METRIC.json` into a folder; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (re.sub(r"[^\w.-]+", "_", f"{self.task}-{self.metric}") + ".json")
        scratch = path.with_suffix(".tmp")
        scratch.write_text(
            json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )  # complete or not there
        scratch.replace(path)
        return path


def hash_of_file(path: Path) -> str:
    """SHA-256 of a small file, as `sha256sum` gives it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
