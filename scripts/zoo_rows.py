"""The rows of zoo.json: released weights, where they lie, what is known of them. Used by zoo.py, publish.py."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpointing.download import Show, fetch
from engine.errors import ConfigError
from sigma_video.command_line import did_you_mean

ROWS = Path(__file__).with_name("zoo.json")


@dataclass(frozen=True, kw_only=True)
class ZooRow:
    """Released weights.

    Attributes:
        data, epochs: of the pre-training; epochs None: not said.
        finetuned_on: "" if they are not fine-tuned.
        repository: on the host, as OWNER/NAME.
        licence: as the page says on which they lie, or NOT_STATED.
        file: of the weights, in the repository.
        beside: other files of the same folder, which tell what the weights do not.
        bytes, sha256: of the file; None where no public page says them.
        numbers: top-1 in % that `source` prints, by data and views.
        recipe: below scripts, with which they are fine-tuned or, if they are, tested; with `flags` behind it.
    """

    name: str
    method: str
    backbone: str
    data: str
    epochs: int | None
    repository: str
    licence: str
    file: str
    bytes: int | None
    sha256: str | None
    numbers: Mapping[str, float]
    source: str
    recipe: str
    finetuned_on: str = ""
    beside: Sequence[str] = ()
    flags: Sequence[str] = ()
    note: str = ""
    host: str

    @property
    def address(self) -> str:
        """Of the file, with its hash behind it if that is known, as `--finetune` takes it."""
        place = f"{self.host}{self.repository}/resolve/main/{self.file}"
        return f"{place}#sha256={self.sha256}" if self.sha256 else place

    @property
    def lists(self) -> str:
        """DATA_PATH of the recipe."""
        found = re.match(r"finetune/([a-z0-9]+)_", self.recipe)
        return f"lists/{found[1]}" if found else ""

    @property
    def command(self) -> str:
        """Two lines: fetch the weights; fine-tune them, or test them if they are fine-tuned."""
        run = f"DATA_PATH={self.lists} CHECKPOINT=$weights bash scripts/{self.recipe}.sh"
        return f"weights=$(.venv/bin/python scripts/zoo.py fetch {self.name})\n{' '.join([run, *self.recipe_flags])}"

    @property
    def recipe_flags(self) -> list[str]:
        """Behind the recipe's own, which they replace."""
        return [*self.flags, *(["--eval"] if self.finetuned_on else [])]

    def fetch(self, show: Show) -> Path:
        """The file in the cache, or its folder if others belong to it; downloaded if it is not there.

        Args:
            show: see `engine.checkpointing.download.fetch`.

        Raises:
            CheckpointError: not reachable, cut off, or another file than this one.
        """
        file = fetch(self.address, size=self.bytes, show=show)
        place = self.address.partition("#")[0].rpartition("/")[0]
        for name in self.beside:
            fetch(f"{place}/{name}", folder=file.parent)
        return file.parent if self.beside else file


@dataclass(frozen=True)
class Zoo:
    """All rows by name, what does not exist, and the sources of numbers that are not those of published.json."""

    rows: Mapping[str, ZooRow]
    missing: Sequence[str]
    sources: Mapping[str, str]

    def row(self, name: str) -> ZooRow:
        """Raises ConfigError for a name that is in no row."""
        if name not in self.rows:
            raise ConfigError(f"{name}: not in the zoo.{did_you_mean(name, self.rows) or ' `list` names all of it.'}")
        return self.rows[name]

    def licence_of(self, base_model: str) -> str:
        """The licence of a model by its name here, or as OWNER/NAME; "" if it is not in the zoo."""
        known = {row.repository: row.licence for row in self.rows.values()}
        return self.rows[base_model].licence if base_model in self.rows else known.get(base_model, "")


def read_zoo(file: Path = ROWS) -> Zoo:
    """The rows of a file as zoo.json."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows = [ZooRow(host=content["host"], **row) for row in content["rows"]]
    return Zoo({row.name: row for row in rows}, content["missing"], content["sources"])
