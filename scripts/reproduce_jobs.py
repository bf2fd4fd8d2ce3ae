"""A job of reproducing a table: its command, and whether it is done, which its outputs say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.files import replace_text

from .recipes import Recipe
from .reproduce_data import lists_are_written
from .table_records import ROW, RUN, read_records

JOB = "job.json"
NO_RESULTS = (JOB, ROW, RUN)  # what lies beside results


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command, and how to tell that it is done.

    Attributes:
        name: also of its log.
        folder: what it writes to.
        after: names of the jobs that it needs.
        identity: what decides its outputs; kept in JOB beside them.
        command: of a job without a recipe.
        variables, flags: for the recipe.
        checkpoint: of training, the file that others start from.
        last: of pre-training, its last file.
        metrics: that the results of an evaluation have to hold.
        row: for `row.json`.
        describes: batch, learning rate and so on.
    """

    name: str
    folder: Path
    after: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    recipe: Recipe | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    checkpoint: Path | None = None
    last: Path | None = None
    metrics: frozenset[str] = frozenset()
    row: Mapping[str, Any] = field(default_factory=dict)
    describes: str = ""
    gpu_hours: float | None = None

    def is_done(self) -> bool:
        """Whether its outputs are there.

        Raises:
            ConfigError: outputs of another command are in its folder.
        """
        if self._has_outputs():
            self.refuse_another()
        if self.recipe is None:
            return lists_are_written(self.folder)
        if self.last is not None:
            return self.last.is_file()
        results = [*self.folder.glob("*.json")] if self.folder.is_dir() else []
        if not any(file.name not in NO_RESULTS for file in results):
            return False
        return self.metrics <= {record.metric for record in read_records([self.folder])}

    def with_checkpoint(self, file: str) -> "Job":
        """The same, from a file that stands for the address in `variables`."""
        return replace(self, variables={**self.variables, "CHECKPOINT": file})

    def _has_outputs(self) -> bool:
        """Whether there is more than a job leaves that failed at its start: lists, checkpoints or results."""
        files = [*self.folder.iterdir()] if self.folder.is_dir() else []
        return any(
            file.suffix == ".csv"
            or file.name.startswith("checkpoint-")
            or (file.suffix == ".json" and file.name not in NO_RESULTS)
            for file in files
        )

    def refuse_another(self) -> None:
        """Raise ConfigError if its folder is marked as that of another command."""
        file = self.folder / JOB
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else self.identity
        except ValueError as error:
            raise ConfigError(f"{file}: not readable as JSON ({error}): remove {self.folder}") from error
        if found != json.loads(json.dumps(self.identity)):
            raise ConfigError(
                f"{file}: this folder is of another command ({_said(found)}; now {_said(self.identity)}): "
                "choose another --output_dir, or remove the folder"
            )

    def mark(self) -> None:
        """Write beside the outputs what they will be of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self.folder / JOB, json.dumps(self.identity) + "\n")
        if self.row:
            replace_text(self.folder / ROW, json.dumps(self.row) + "\n")


def _said(identity: Mapping[str, Any]) -> str:
    """What decides a job's outputs, in words."""
    if not isinstance(identity, Mapping) or "recipe" not in identity:
        return json.dumps(identity)
    return f"{identity['recipe']} " + note_of(identity.get("set", ()), identity.get("from", {})).get("note", "as it is")


def note_of(words: Sequence[str], origin: Mapping[str, Any]) -> dict[str, str]:
    """What sets a result apart from the recipe's, for the marks of the tables."""
    parts = [f"with {' '.join(words)}"] if words else []
    while origin:
        if origin.get("weights"):
            parts.append(f"weights {origin['weights'].partition('#')[0]}")
        if origin.get("set"):
            parts.append(f"{origin['recipe']} with {' '.join(origin['set'])}")
        origin = origin.get("from", {})
    return {"note": "; ".join(parts)} if parts else {}
