"""The graph of jobs behind cells: lists, pre-training, then what fills the cells."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.lists.subsets import KNOWN_SUBSETS
from engine.errors import ConfigError
from engine.flags import build_parser, parse
from sigma_video.options import OptionError, recorded

from .recipes import Recipe, split_command
from .reproduce_data import DATA
from .reproduce_jobs import Job, note_of
from .reproduce_settings import Override, Settings
from .table_cells import TABLES, Column
from .table_records import table_epochs


class Planner:
    """Collects the jobs of cells, each once, in an order in which they can run."""

    def __init__(self, settings: Settings, recipes: Mapping[str, Recipe]) -> None:
        self.settings = settings
        self.recipes = recipes
        self.jobs: dict[str, Job] = {}
        self.used: set[Override] = set()

    def add_cell(self, recipe: Recipe, start: Recipe) -> Job:
        """The job that fills a cell, and all that it needs."""
        name = f"{recipe.name.replace('/', '-')}-of-{start.file.stem}"
        if name in self.jobs:
            return self.jobs[name]
        before: list[Job] = []
        weights = self.settings.weights.get(start.file.stem)
        if before_it := recipe.fields.get("After"):
            before.append(self.add_cell(self.recipes[before_it], start))
        elif weights is None:
            before.append(self.add_pretraining(start))
        origin: Mapping[str, Any] = before[0].identity if before else {"weights": weights}
        checkpoint = str(before[0].checkpoint) if before else weights
        data = self._add_lists(recipe.data)
        before += [data] if data else []
        words = self._overrides(recipe)
        row = {**start.row, **self._row_of_cells(recipe), **note_of(words, origin)}
        return self._add(
            recipe,
            name,
            self.settings.out / "results" / recipe.file.stem / start.file.stem,
            variables={"DATA_PATH": str(self._data_path(recipe.data)), "CHECKPOINT": str(checkpoint)},
            words=words,
            after=before,
            identity={"recipe": recipe.name, "set": words, "from": origin},
            row=row,
            metrics=frozenset(column.metric for column in _columns(recipe)),
        )

    def add_pretraining(self, recipe: Recipe) -> Job:
        name = f"pretrain-{recipe.file.stem}"
        if name in self.jobs:
            return self.jobs[name]
        data, words = self._add_lists(recipe.data), self._overrides(recipe)
        return self._add(
            recipe,
            name,
            self.settings.out / "pretrain" / recipe.file.stem,
            variables={"DATA_PATH": str(self._data_path(recipe.data) / "train.csv")},
            words=words,
            after=[data] if data else [],
            identity={"recipe": recipe.name, "set": words},
        )

    def _add(
        self,
        recipe: Recipe,
        name: str,
        folder: Path,
        *,
        variables: Mapping[str, str],
        words: Sequence[str],
        after: Sequence[Job],
        identity: Mapping[str, Any],
        row: Mapping[str, Any] | None = None,
        metrics: frozenset[str] = frozenset(),
    ) -> Job:
        own = {"GPUS": str(self.settings.gpus), "NNODES": str(self.settings.nodes), "OUTPUT_DIR": str(folder)}
        own |= {"DEVICE": self.settings.device, **variables, **self.settings.batch_per_gpu(recipe)}
        cls, flags = split_command(recipe.command(**own))
        try:
            config = recorded(parse(cls, [*flags, *words]))
        except OptionError as error:
            raise ConfigError(f"{recipe.name}: {error}") from error
        epochs, every = int(config.get("epochs") or 0), int(config.get("save_ckpt_freq") or 1)
        whole = table_epochs(epochs) if epochs else 0
        trains = "update_freq" in config and not config.get("eval")
        kept = whole if trains and whole % every == 0 else epochs
        self.jobs[name] = Job(
            name=name,
            folder=folder,
            after=tuple(job.name for job in after),
            identity=identity,
            recipe=recipe,
            variables=own,
            flags=tuple(words),
            checkpoint=folder / f"checkpoint-{kept - 1}.pth" if trains else None,
            last=folder / f"checkpoint-{epochs - 1}.pth" if recipe.kind == "pretrain" else None,
            metrics=metrics,
            row=row or {},
            describes=_described(config, ranks=self.settings.gpus * self.settings.nodes, trains=trains),
            gpu_hours=None if words else recipe.gpu_hours,
        )
        return self.jobs[name]

    def _add_lists(self, data: str) -> Job | None:
        """The job that writes lists; None for data that are read as they are."""
        source, folder = DATA[data], self._data_path(data)
        if not source.form:
            return None
        return self.jobs.setdefault(
            f"prepare-{data}",
            Job(
                name=f"prepare-{data}",
                folder=folder,
                identity={"lists": data},
                command=source.command(self.settings.data_root, folder),
                describes=f"from {self.settings.data_root / source.folder}",
            ),
        )

    def _data_path(self, data: str) -> Path:
        source = DATA[data]
        return self.settings.out / "lists" / data if source.form else self.settings.data_root / source.folder

    def _overrides(self, recipe: Recipe) -> list[str]:
        """The words that --set adds to a recipe's command: of its scope, and if that names no recipe, that it knows."""
        if not self.settings.overrides:
            return []
        cls, _ = split_command(recipe.command(DATA_PATH="-", CHECKPOINT="-"))
        known = set(build_parser(cls)._option_string_actions)
        words: list[str] = []
        for override in self.settings.overrides:
            if override.fits(recipe) and override.flag in known:
                self.used.add(override)
                words += override.words
        return words

    def check_overrides(self) -> None:
        """Raise ConfigError if a flag of --set belongs to no job."""
        for override in self.settings.overrides:
            if override not in self.used:
                scope = f"{override.scope}." if override.scope else ""
                raise ConfigError(
                    f"--set {scope}{override.flag[2:]}: no job of this table has the flag {override.flag}"
                )

    def _row_of_cells(self, recipe: Recipe) -> dict[str, str]:
        """The column's name where a subset has to be told from its whole: a replica has not the published length."""
        subsets = [column.name for column in _columns(recipe) if column.subset and column.data_set in KNOWN_SUBSETS]
        return {"column": subsets[0]} if subsets else {}


def _columns(recipe: Recipe) -> Iterator[Column]:
    names = {(cell.table, cell.column) for cell in recipe.cells}
    yield from (column for table in TABLES for column in table.columns if (table.name, column.name) in names)


def _described(config: Mapping[str, Any], *, ranks: int, trains: bool) -> str:
    """Batch, learning rate and epochs."""
    gpus = "GPU" if ranks == 1 else "GPUs"
    if not trains:
        return f"on {ranks} {gpus}"
    size, accumulated = config["batch_size"], config["update_freq"]
    total = ranks * size * accumulated
    parts = f"{ranks} {gpus} x {size}" + (f" x {accumulated}" if accumulated > 1 else "")
    return f"batch {total} = {parts}, lr {config['lr'] * total / 256:.3g}, {config['epochs']} epochs"
