"""Which cells of a table are made: the part that is asked for, of rows that have a recipe of pre-training."""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import ConfigError

from .recipes import Recipe
from .table_cells import Column, Row, Table, published_rows


@dataclass(frozen=True)
class Choice:
    """The part of a table that is made; None: all."""

    method: str | None = None
    backbone: str | None = None
    column: str | None = None
    pretrained_on: str | None = None

    def takes(self, row: Row, column: Column) -> bool:
        wanted = (self.method, self.backbone, self.column, self.pretrained_on)
        found = (row.method, row.backbone, column.name, row.pretrained_on)
        return all(want in (None, value) for want, value in zip(wanted, found, strict=True))


def chosen_cells(
    table: Table, recipes: Mapping[str, Recipe], choice: Choice
) -> tuple[list[tuple[Recipe, Recipe]], list[str]]:
    """(evaluation, pre-training) of each cell that is made, and those that have no recipe.

    A cell is made if the paper prints it; and one that it does not print, from the same training as one that it does.

    Raises:
        ConfigError: nothing is left.
    """
    by_cell: dict[tuple[str, str, str | None], Recipe] = {
        (c.table, c.column, c.backbone): recipe for recipe in recipes.values() for c in recipe.cells
    }
    made: dict[tuple[str, str], tuple[Recipe, Recipe]] = {}  # a recipe may fill several cells
    without: list[str] = []
    for row in published_rows(table):
        start = _pretraining(row, recipes) if row.of_paper else None
        if start is None:
            continue
        printed = [column for column in table.columns if row.cells[column.name].published]
        trained = {by_cell[key].name for c in printed if (key := (table.name, c.name, row.backbone)) in by_cell}
        for column in (column for column in table.columns if choice.takes(row, column)):
            recipe = by_cell.get((table.name, column.name, row.backbone))
            if recipe is None and column in printed:
                without.append(f"{row.method} {row.backbone}, {column.name}")
            elif recipe is not None and (column in printed or recipe.fields.get("After") in trained):
                made[recipe.name, start.name] = recipe, start
    if not made:
        raise ConfigError(f"{table.name} has no cell with a recipe that fits {_shown(choice)}: leave one of them out")
    return list(made.values()), without


def _shown(choice: Choice) -> str:
    flags = {"--method": choice.method, "--model": choice.backbone, "--column": choice.column}
    given = {**flags, "--pretrained_on": choice.pretrained_on}
    return ", ".join(f"{flag} {value}" for flag, value in given.items() if value is not None)


def _pretraining(row: Row, recipes: Mapping[str, Recipe]) -> Recipe | None:
    """Where a table does not say what its rows were pre-trained on, it is K400."""
    for recipe in recipes.values():
        if recipe.kind == "pretrain":
            own = recipe.row
            if (own["method"], own["backbone"]) == (row.method, row.backbone) and (
                own["pretrained_on"] == (row.pretrained_on or "K400") and row.epochs in (None, own["epochs"])
            ):
                return recipe
    return None
