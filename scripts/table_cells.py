"""The paper's tables: their columns, what is published for each cell, and what was measured.

Benchmark I is fine-tuning and linear probing, II unsupervised video object segmentation, III SEVERE (arXiv 2203.14221).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.catalogue import CATALOGUE
from datasets.lists.subsets import KNOWN_SUBSETS
from engine.errors import ConfigError

from .table_records import ROW, Record

PUBLISHED = Path(__file__).with_name("published.json")
EPOCHS = 800  # of the paper's pre-training, in the tables that do not name epochs
PAPER = ("SIGMA", "note on SIGMA")  # the sources whose rows are the paper's tables
# SHA-256 or fingerprint of official lists, where they are public: github.com/SMSD75/TimeT_clean, val.txt
OFFICIAL_LISTS = {"YTVOS": "5b1ebb10e2a5d66b2f1040957248a2fc2f291159d08e5cea1e36823fede07e26"}


@dataclass(frozen=True)
class Column:
    """A column, and the records that belong in it.

    Attributes:
        data_set: its name in the catalogue.
        views: these alone; "": any.
        subset: trained on the 10^3 samples of SEVERE.
        by_name: takes only what `row.json` says to be of this column.
    """

    name: str
    data_set: str
    metric: str
    probe: str
    views: str = ""
    subset: bool = False
    by_name: bool = False
    digits: int = 1

    def takes(self, record: Record) -> bool:
        """Whether a record is a value of this column. A column that `row.json` names is taken at its word."""
        named = record.row.get("column")
        known = KNOWN_SUBSETS.get(self.data_set)
        is_subset = known is not None and record.train_videos == known.size
        return (
            (record.data_set, record.metric, record.probe) == (self.data_set, self.metric, self.probe)
            and self.views in ("", record.views)
            and (named == self.name if named or self.by_name else is_subset == self.subset)
        )


def _tuned(name: str, data_set: str, metric: str = "top1", **more: Any) -> Column:
    return Column(name, data_set, metric, "finetune", **more)


@dataclass(frozen=True)
class Table:
    """A table; `by_pretraining`: its rows are told apart by pre-training data and epochs as well."""

    name: str
    title: str
    columns: tuple[Column, ...]
    by_pretraining: bool = False
    mean: str = ""  # name of the column of means


_LINEAR = {"SSv2": "SSV2", "K400": "Kinetics-400", "UCF101": "UCF101", "HMDB51": "HMDB51"}
_LINEAR |= {"IN-1K": "ImageNet-1K", "CIFAR-100": "CIFAR-100"}
_CLUSTERS = {"clustering": "miou_hungarian", "overclustering": "miou_overclustering_precision"}
TABLES = (
    Table(
        "finetuning",
        "Benchmark I: full fine-tuning, top-1 in %",
        (
            _tuned("K400 5x3", "Kinetics-400", views="5x3"),
            _tuned("K400 7x3", "Kinetics-400", views="7x3"),
            _tuned("SSv2 2x3", "SSV2", views="2x3"),
        ),
        by_pretraining=True,
    ),
    Table(
        "linear",
        "Benchmark I: linear probe, pre-trained on K400, top-1 in %",
        tuple(Column(name, data_set, "top1", "linear") for name, data_set in _LINEAR.items()),
    ),
    Table(
        "segmentation",
        "Benchmark II: unsupervised video object segmentation, mIoU in %",
        tuple(
            Column(f"{kind} {data_set}", data_set, metric, "frozen")
            for kind, metric in _CLUSTERS.items()
            for data_set in ("YTVOS", "DAVIS")
        ),
    ),
    Table(
        "severe",
        "Benchmark III: SEVERE, pre-trained on K400, in %; UCF-RC is an error, lower is better",
        (
            _tuned("SSv2", "SSV2", views="2x3"),
            _tuned("Gym99", "GYM99"),
            _tuned("UCF 10^3", "UCF101", subset=True),
            _tuned("Gym 10^3", "GYM99", subset=True),
            _tuned("FX-S1", "FXS1", "mean_per_class"),
            _tuned("UB-S1", "UBS1", "mean_per_class"),
            _tuned("UCF-RC", "UCFRep", "MAE", digits=3),
            _tuned("Charades", "Charades", "mAP"),
        ),
        mean="mean",
    ),
    Table(
        "ablation",
        "Ablations: fine-tuned on mini-SSv2, pre-trained there, top-1 in %",
        (_tuned("mini-SSv2", "SSV2", views="2x3", by_name=True),),
    ),
)


def severe_mean(values: Mapping[str, float]) -> float:
    """Mean of the eight columns of SEVERE, with the error of UCF-RC as 100 (1 - error)."""
    return sum(100 * (1 - value) if name == "UCF-RC" else value for name, value in values.items()) / len(values)


@dataclass
class Cell:
    """Published values with the source of each, the first being the one that counts; and what was measured."""

    published: list[tuple[float, str]] = field(default_factory=list)
    secondhand: bool = False  # all that is published
    computed: bool = False  # a mean that nobody prints
    measured: float | None = None
    record: Record | None = None
    marks: list[str] = field(default_factory=list)

    @property
    def value(self) -> float | None:
        return self.published[0][0] if self.published else None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None or self.value is None else self.measured - self.value


@dataclass
class Row:
    """A row; `of_paper`: the paper's own table has it, else it is context."""

    method: str
    backbone: str | None
    pretrained_on: str | None
    epochs: int | None
    cells: dict[str, Cell]
    of_paper: bool = False


def published_rows(table: Table) -> list[Row]:
    """The rows of a table with what is published, those of the paper first, in the order of its pages."""
    entries = [entry for entry in json.loads(PUBLISHED.read_text())["values"] if entry["table"] == table.name]
    entries.sort(key=lambda entry: (entry.get("secondhand", False), entry["source"] not in PAPER))
    rows: dict[tuple[Any, ...], Row] = {}
    names = [column.name for column in table.columns] + [table.mean] * bool(table.mean)
    for entry in entries:
        pretraining = (entry["pretrained_on"], entry["epochs"])
        key = (entry["method"], entry["backbone"], *(pretraining if table.by_pretraining else ()))
        row = rows.setdefault(
            key, Row(entry["method"], entry["backbone"], *pretraining, cells={name: Cell() for name in names})
        )
        row.of_paper |= entry["source"] in PAPER
        for name, value in entry["values"].items():
            cell = row.cells[name]
            cell.secondhand = entry.get("secondhand", False) and not (cell.published and not cell.secondhand)
            cell.published.append((value, ", ".join(filter(None, [entry["source"], entry.get("note")]))))
    for row in rows.values():
        _add_means(table, row)
    return sorted(rows.values(), key=lambda row: not row.of_paper)


def _add_means(table: Table, row: Row) -> None:
    """The mean of published values, where nobody prints one, and of measured values; of whole rows alone."""
    if not table.mean:
        return
    mean, cells = row.cells[table.mean], {name: cell for name, cell in row.cells.items() if name != table.mean}
    published = {name: cell.value for name, cell in cells.items() if cell.value is not None}
    if not mean.published and len(published) == len(cells):
        mean.published, mean.computed = [(severe_mean(published), "computed")], True
    measured = {name: cell.measured for name, cell in cells.items() if cell.measured is not None}
    if len(measured) == len(cells):
        mean.measured = severe_mean(measured)


def fill(records: Sequence[Record]) -> tuple[dict[str, list[Row]], list[str]]:
    """All tables with the measured values, and a line for each result that has no cell.

    Raises:
        ConfigError: two records of one cell.
    """
    tables = {table.name: published_rows(table) for table in TABLES}
    used: set[int] = set()
    for table in TABLES:
        for record in records:
            for column in (column for column in table.columns if column.takes(record)):
                row = _row_of(table, tables[table.name], record)
                if row is not None:
                    _place(table, row.cells[column.name], record, column)
                    used.add(id(record))
        for row in tables[table.name]:
            _add_means(table, row)
    return tables, _unplaced(records, used)


def _row_of(table: Table, rows: Iterable[Row], record: Record) -> Row | None:
    """The row of a record. A row whose backbone or pre-training data nobody states takes those of any."""
    row = record.row
    keys = ("method",) + (("pretrained_on", "epochs") if table.by_pretraining else ())
    of_keys = (r for r in rows if all(getattr(r, key) == row.get(key) for key in keys))
    of_size = (r for r in of_keys if r.backbone in (None, row.get("backbone")))
    return next((r for r in of_size if r.pretrained_on in (None, row.get("pretrained_on"))), None)


def _place(table: Table, cell: Cell, record: Record, column: Column) -> None:
    if cell.record is not None:
        raise ConfigError(
            f"{table.name}, {column.name}: two results of one cell, {cell.record.file} and {record.file}: give folders "
            "with one of them"
        )
    cell.measured, cell.record, cell.marks = record.value, record, marks_of(record, column)


def marks_of(record: Record, column: Column) -> list[str]:
    """What sets a measured value apart from the published ones: its note, another list, or other views than usual."""
    spec, marks = CATALOGUE[column.data_set], [str(record.row["note"])] if record.row.get("note") else []
    if spec.num_val is not None and record.videos != spec.num_val:
        tested = "an unknown number of" if record.videos is None else f"{record.videos:,}"
        marks.append(f"{tested} videos, the official list has {spec.num_val:,}")
    official = OFFICIAL_LISTS.get(column.data_set)
    if official is not None and record.list_hash != official:
        marks.append(f"list {record.list_hash[:12] or 'unknown'}, the official one is {official[:12]}")
    if column.data_set == "Charades" and record.task == "multilabel" and record.options.get("view_pooling") != "max":
        marks.append("views are averaged, SEVERE takes their maximum")
    usual = f"{spec.test_num_segment}x{spec.test_num_crop}"
    if record.row.get("epochs") not in (None, EPOCHS) and not column.views:
        marks.append(f"pre-trained for {record.row['epochs']} epochs, the paper for {EPOCHS}")
    if not column.views and record.views not in ("", usual):
        marks.append(f"{record.views} views, usual are {usual}")
    return marks


def _unplaced(records: Sequence[Record], used: set[int]) -> list[str]:
    """A line for each file none of whose numbers is in a table, nor one of the same evaluation beside it."""
    placed = {(record.file.parent, record.task) for record in records if id(record) in used}
    files: dict[Path, list[Record]] = {}
    for record in records:
        if (record.file.parent, record.task) not in placed:
            files.setdefault(record.file, []).append(record)
    return [_why_unplaced(file, of_file) for file, of_file in files.items()]


def _why_unplaced(file: Path, records: Sequence[Record]) -> str:
    first = records[-1]
    columns = {(column.data_set, column.metric) for table in TABLES for column in table.columns}
    if not any((record.data_set, record.metric) in columns for record in records):
        metrics = ", ".join(dict.fromkeys(record.metric for record in records))
        return f"{file}: no table has {metrics} of {first.data_set or 'an unknown data set'}"
    named = "".join(f", {key} {value}" for key, value in first.row.items())
    return f"{file}: in no table ({first.data_set}, {first.probe}{named}); `{ROW}` beside it can say which row it is"
