"""The folder of a run: its log, its record and its results, as a run writes them. Imports no torch."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.results import RESULTS

LOG, RECORD, CONSOLE = "log.txt", "run.json", "console.txt"
FILES = {LOG, RECORD, RESULTS}  # one of them makes a folder that of a run
HIGHER, LOWER = "higher", "lower"
METRICS = {"top1": HIGHER, "map": HIGHER, "mae": LOWER, "loss": LOWER}  # what is better, the main ones first
TRAINING = ("train/", "train_epoch/")
_TESTED = re.compile(r"test(\w*)/(\w+)")
_SKIPPED = ("dry_run-", "wandb", "profile")  # folders inside that of a run


@dataclass(frozen=True)
class Run:
    """What a run has written so far.

    Attributes:
        records: the lines of its log, in the order of their steps.
        starts: its record, one entry for each start.
        result: of its test; {} if there is none.
    """

    folder: Path
    records: Sequence[dict[str, Any]] = ()
    starts: Sequence[dict[str, Any]] = ()
    result: dict[str, Any] | None = None

    @property
    def args(self) -> dict[str, Any]:
        """The options of the last start."""
        found = self.starts[-1].get("args") if self.starts else {}
        return found if isinstance(found, dict) else {}

    @property
    def step(self) -> int:
        """Optimizer steps done, as far as they have been logged."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def total_steps(self) -> int | None:
        """Of all epochs: as recorded, else from the length of the first epoch; None where that is not known yet."""
        recorded = self.starts[-1].get("total_steps") if self.starts else None
        if isinstance(recorded, int):
            return recorded
        ends = [record for record in self.records if any(key.startswith("train_epoch/") for key in record)]
        epochs = self.args.get("epochs")
        if not ends or not isinstance(epochs, int):
            return None
        return round(ends[-1]["step"] / (int(ends[-1].get("epoch") or 0) + 1) * epochs)

    @property
    def is_pretraining(self) -> bool:
        """Whether no test belongs to the run."""
        return "mask_ratio" in self.args

    def values(self, key: str) -> list[tuple[int, float | None]]:
        """Steps and values of a metric, where it was logged; None for NaN and Inf."""
        found = [(record["step"], record[key]) for record in self.records if key in record]
        return [(step, float(value) if _is_number(value) else None) for step, value in found]

    def validations(self) -> list[str]:
        """Keys of what was measured beside the training: validation, and whatever else runs online."""
        keys = dict.fromkeys(key for record in self.records for key in record if "/" in key)
        return [key for key in keys if not key.startswith(TRAINING)]

    def main_metric(self) -> str:
        """The key by which the run is judged: of the validation if there is one, else its training loss."""
        there = self.validations()
        for name in METRICS:
            for key in there:
                if _metric(key) == name:
                    return key
        return there[0] if there else "train/loss"

    def test_metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of the test by the suffix of the weights, as in `test.json`."""
        found: dict[str, dict[str, float]] = {}
        for key, value in (self.result or {}).items():
            match = _TESTED.fullmatch(key)
            if match and _is_number(value):
                found.setdefault(match[1], {})[match[2]] = float(value)
        return found

    def last(self, key: str) -> float | None:
        """The last value of a metric; None also where it was not finite."""
        values = self.values(key)
        return values[-1][1] if values else None

    def best(self, key: str) -> float | None:
        """The best finite value of a metric."""
        values = [value for _, value in self.values(key) if value is not None]
        better = min if METRICS.get(_metric(key)) == LOWER else max
        return better(values) if values else None


def _metric(key: str) -> str:
    """The name of a metric without the list that it was measured on; some tasks write it in capitals."""
    return key.rpartition("/")[2].lower()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def find_runs(top: Path) -> list[Path]:
    """Folders of runs in and below a folder, sorted.

    Raises:
        ConfigError: there is no such folder.
    """
    if not top.is_dir():
        raise ConfigError(f"{top}: no such folder; give the --output_dir of a run, or a folder above it")
    return sorted(_find(top))


def _find(top: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(top):
        below[:] = [name for name in below if not name.startswith((".", *_SKIPPED))]
        if FILES & set(files):
            yield Path(folder)


def read_run(folder: Path) -> Run:
    """A run, or as much of it as is there.

    Raises:
        ConfigError: a file that is not what such a run writes; or none with anything in it.
    """
    run = Run(folder, _read_log(folder / LOG), _read_starts(folder / RECORD), _read_result(folder / RESULTS))
    if not run.records and run.result is None:
        what = "is empty: nothing has been logged yet" if (folder / LOG).exists() else "is not there yet"
        raise ConfigError(f"{folder / LOG}: {what}; the first line is written after --print_freq steps")
    return run


def read_while_written(folder: Path) -> Run:
    """As `read_run`, of a run that may not have logged anything yet."""
    return Run(folder, _read_log(folder / LOG), _read_starts(folder / RECORD), _read_result(folder / RESULTS))


def _read_log(file: Path) -> list[dict[str, Any]]:
    """Lines of a log. The last one may be cut off: a run writes it, or was killed while it did."""
    if not file.is_file():
        return []
    lines = _text(file).splitlines()
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines) and records:
                break
            raise ConfigError(f"{file}: not the log of a run: line {number} is not JSON") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ConfigError(f"{file}: not a log of this code: line {number} has no `step`")
        records.append(record)
    return records


def _read_starts(file: Path) -> list[dict[str, Any]]:
    content = _json(file)
    if content is None:
        return []
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ConfigError(f"{file}: not the record of a run")
    return content


def _read_result(file: Path) -> dict[str, Any] | None:
    content = _json(file)
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{file}: not the results of a test")
    return content


def _json(file: Path) -> Any:
    """The content of a file; None if there is none."""
    if not file.is_file():
        return None
    try:
        return json.loads(_text(file))
    except ValueError as error:
        raise ConfigError(f"{file}: not readable as JSON ({error})") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not a text file in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names of runs: that of the folder, or where two are equal the path below what they have in common."""
    whole = [folder.resolve() for folder in folders]
    if len({folder.name for folder in whole}) == len(whole):
        return [folder.name or str(folder) for folder in whole]
    top = Path(os.path.commonpath(whole))
    return [str(folder.relative_to(top)) if folder != top else folder.name for folder in whole]
