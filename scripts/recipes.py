"""The recipes of scripts/pretrain, finetune and eval: what their headers say, and the commands that they run."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from run_class_finetuning import FinetuningConfig
from run_probing import ProbingConfig
from run_repetition_counting import RepetitionConfig
from run_segmentation import SegmentationConfig
from run_sigma_pretraining import PretrainingConfig

SCRIPTS = Path(__file__).resolve().parent
KINDS = ("pretrain", "finetune", "eval")
CONFIGS: Mapping[str, type] = {  # of the entry scripts that recipes run
    "run_sigma_pretraining.py": PretrainingConfig,
    "run_class_finetuning.py": FinetuningConfig,
    "run_probing.py": ProbingConfig,
    "run_segmentation.py": SegmentationConfig,
    "run_repetition_counting.py": RepetitionConfig,
}
_BATCH = re.compile(r"^TOTAL_BATCH=(\d+) BATCH_SIZE=\$\{BATCH_SIZE:-(\d+)\}$", re.MULTILINE)
_FIELD = re.compile(r"# (\S.{0,9}?) {2,}(\S.*)")
_MORE = re.compile(r"# {10,}(\S.*)")
_CELL = re.compile(r"(\w+), ([^,:]+), (ViT-\w): (.*?)(?=,? \w+, [^,:]+, ViT-\w: |$)")
_VALUE = re.compile(r"(\S[^,]*?) (\d+\.\d+)(?: from (\w+))?(?:,|$)")


@dataclass(frozen=True)
class RecipeCell:
    """A cell column of a table for one size of model, and what the paper prints in it.

    Attributes:
        published: (method, data of the pre-training or "", value).
    """

    table: str
    column: str
    backbone: str
    published: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe as its header describes it.

    Attributes:
        name: KIND/FILE, such as finetune/ssv2_vit_b.
        summary: its first line.
        fields: the other lines by their title, such as "Batch" and "Hours".
    """

    name: str
    summary: str
    fields: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The folder that it lies in, one of KINDS."""
        return self.name.partition("/")[0]

    @property
    def file(self) -> Path:
        return SCRIPTS / f"{self.name}.sh"

    @property
    def data(self) -> str:
        """The data that it takes: the name of its lists or folder in the header's command."""
        found = re.search(r"DATA_PATH=(?:lists|data)/([\w-]+)", self.fields["8 GPUs"])
        return found[1] if found else ""

    @property
    def row(self) -> dict[str, Any]:
        """Of pre-training: the row of the tables, by method, backbone, pretrained_on and epochs."""
        method, backbone, pretrained_on, epochs = self.fields["Row"].split(", ")
        return dict(method=method, backbone=backbone, pretrained_on=pretrained_on, epochs=int(epochs.split()[0]))

    @cached_property
    def cells(self) -> tuple[RecipeCell, ...]:
        """Of an evaluation: the cells that it fills."""
        return tuple(
            RecipeCell(table, column, backbone, tuple((m, f, float(v)) for m, v, f in _VALUE.findall(values)))
            for table, column, backbone, values in _CELL.findall(self.fields.get("Cells", ""))
        )

    @property
    def gpu_hours(self) -> float | None:
        """Hours on one GPU; None if nobody has measured them."""
        found = re.match(r"(\d+) GPU hours", self.fields["Hours"])
        return float(found[1]) if found else None

    @property
    def released(self) -> str:
        """Address of the released weights that can stand in for this pre-training; "" if there are none."""
        return self.fields.get("Released", "").replace(" ", "")

    @cached_property
    def batch(self) -> tuple[int, int] | None:
        """The total batch and how much of it a GPU takes at a time; None where nothing is read in batches."""
        found = _BATCH.search(self.file.read_text(encoding="utf-8"))
        return (int(found[1]), int(found[2])) if found else None

    def command(self, **variables: object) -> list[str]:
        """The words that it runs with these variables: the launcher's, the entry script and its flags.

        Raises:
            ConfigError: the recipe cannot be run with them.
        """
        foreign = {"ONE_OF_SEVERAL", "BATCH_SIZE", "GPUS", "NNODES", "OUTPUT_DIR", "DEVICE", "NUM_WORKERS"}
        environment = {name: value for name, value in os.environ.items() if name not in foreign}
        environment |= {"SHOW_COMMAND": "1", **{name: str(value) for name, value in variables.items()}}
        done = subprocess.run(["bash", self.file], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConfigError(f"{self.name}: {done.stderr.strip().removeprefix('error: ')}")
        return shlex.split(done.stdout)


def read_recipe(file: Path) -> Recipe:
    """A recipe's header."""
    lines = file.read_text(encoding="utf-8").splitlines()
    fields: dict[str, str] = {}
    for line in lines[2:]:
        if found := _FIELD.match(line):
            title = found[1]
            fields[title] = found[2]
        elif found := _MORE.match(line):
            fields[title] += f" {found[1]}"
        elif not line.startswith("#"):
            break
    return Recipe(f"{file.parent.name}/{file.stem}", lines[1].removeprefix("# "), fields)


def read_recipes() -> dict[str, Recipe]:
    """All of them, by name."""
    files = [file for kind in KINDS for file in sorted((SCRIPTS / kind).glob("*.sh"))]
    return {recipe.name: recipe for recipe in map(read_recipe, files)}


def split_command(words: Sequence[str]) -> tuple[type, list[str]]:
    """The configuration class of a command's entry script, and the flags behind it."""
    place, script = next((i, Path(word).name) for i, word in enumerate(words) if Path(word).name in CONFIGS)
    return CONFIGS[script], list(words[place + 1 :])
