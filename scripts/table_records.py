"""Results of evaluations as records of one form, read from the files that the evaluations write.

`test.json` of run_class_finetuning.py gives a record for each metric; what it does not say is taken from the `run.json`
beside it and from that of the pre-training. Other evaluations write one JSON file a number, with the same entries.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.catalogue import CATALOGUE
from engine.errors import ConfigError
from engine.results import RESULTS

RUN, ROW = "run.json", "row.json"
ROW_ENTRIES = ("method", "backbone", "pretrained_on", "epochs", "column", "note")
TARGETS = {"mlp": "SIGMA-MLP", "dino_v1": "SIGMA-DINO", "pixel": "VideoMAE"}  # --target_type
BACKBONES = {"small": "ViT-S", "base": "ViT-B", "large": "ViT-L", "huge": "ViT-H"}  # in --model
SAME = {"K400": "Kinetics-400", "SSv2": "SSV2"}  # in tables, and as --data_set


@dataclass(frozen=True, kw_only=True)
class Record:
    """A number, and what it depends on.

    Attributes:
        task: "classification", "multilabel", "regression", "segmentation-clustering" and so on.
        data_set: as `--data_set` names it, or the name of the folder that the data lies in.
        metric: "top1", "mean_per_class", "mAP", "mae" or as the evaluation calls it.
        value: as written: % for accuracies.
        videos: tested ones; None if not said.
        views: CLIPSxCROPS of a video; "" if not said.
        probe: "finetune", "linear" or "frozen" (nothing was trained).
        checkpoint: SHA-256 of the weights; "" for random ones.
        list_hash: fingerprint or SHA-256 of the list.
        row: what `row.json` or the pre-training's `run.json` say of the row of a table: some of ROW_ENTRIES.
        train_videos: in the list that was trained on; None if not said.
        file: where it was read.
    """

    task: str
    data_set: str
    metric: str
    value: float
    file: Path
    probe: str
    videos: int | None = None
    views: str = ""
    checkpoint: str = ""
    list_hash: str = ""
    train_videos: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


def read_records(folders: Sequence[Path]) -> list[Record]:
    """Every record in and below some folders, each file once.

    Raises:
        ConfigError: a folder that is not there or has no result, or a file that is not readable.
    """
    records: list[Record] = []
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; give the --output_dir of an evaluation, or one above it")
        found = 0
        for file in sorted(folder.rglob("*.json")):
            read = list(_read(file))
            found += len(read)
            if file.resolve() not in seen:
                records += read
            seen.add(file.resolve())
        if not found:
            raise ConfigError(f"{folder}: no result in it; `{RESULTS}` is written when a test has ended")
    return records


def _read(file: Path) -> Iterator[Record]:
    if file.name == RESULTS:
        yield from _of_test(file, _json(file))
    elif file.name not in (RUN, ROW):
        content = _json(file, must=False)
        if isinstance(content, dict) and {"task", "metric", "value"} <= content.keys():
            yield _of_number(file, content)


def _json(file: Path, *, must: bool = True) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        if must:
            raise ConfigError(f"{file}: not readable as JSON ({error}): evaluate again, or delete it") from error
        return None


# ------------------------------------------------------------------------------------------------ test.json


def _of_test(file: Path, content: Any) -> Iterator[Record]:
    """A record for each metric of the weights themselves; their moving average is not in the tables."""
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: not the results of a test: evaluate again, or delete it")
    settings, weights = content.get("settings") or {}, (content.get("weights") or {}).get("") or {}
    run = _training_run(file, weights)
    args = run.get("args") or {}
    clips, crops = settings.get("test_num_segment"), settings.get("test_num_crop")
    common: dict[str, Any] = {
        "task": settings.get("task", "classification"),
        "data_set": str(args.get("data_set", "")),
        "file": file,
        "probe": "linear" if args.get("linear_probing") else "finetune",
        "videos": content.get("videos"),
        "views": f"{clips}x{crops}" if clips and crops else "",
        "checkpoint": weights.get("sha256", ""),
        "list_hash": (content.get("list") or {}).get("fingerprint", ""),
        "train_videos": _videos(run.get("train")),
        "options": {**args, **settings},
        "seeds": (args["seed"],) if "seed" in args else (),
        "versions": {name: run[name] for name in ("python", "torch", "numpy") if name in run},
        "commit": str(run.get("commit") or ""),
        "row": {**_pretraining(str(args.get("finetune") or ""), str(args.get("model") or "")), **_row(file)},
    }
    for name, value in content.items():
        part, _, metric = name.partition("/")
        if part == "test" and isinstance(value, int | float):
            yield Record(metric=metric, value=float(value), **common)


def _training_run(file: Path, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the run that trained the tested weights: beside these, or else beside the results."""
    places = [Path(str(weights["file"])).parent / RUN] if weights.get("file") else []
    for place in [*places, file.with_name(RUN)]:
        runs = _json(place, must=False) if place.is_file() else None
        if isinstance(runs, list) and runs:
            trained = [run for run in runs if not (run.get("args") or {}).get("eval")]
            return dict((trained or runs)[-1])
    return {}


def _videos(described: Any) -> int | None:
    """The number of videos that the description of a list in `run.json` says."""
    found = re.search(r", ([\d,]+) videos\b", described) if isinstance(described, str) else None
    return int(found[1].replace(",", "")) if found else None


def _pretraining(weights: str, model: str) -> dict[str, Any]:
    """What the pre-training's own record says of the row: its list is known by its published length."""
    row: dict[str, Any] = {"backbone": backbone} if (backbone := _backbone(model)) else {}
    place = Path(weights).parent / RUN
    runs = _json(place, must=False) if weights and place.is_file() else None
    if not isinstance(runs, list) or not runs:
        return row
    args = runs[-1].get("args") or {}
    method = TARGETS.get(str(args.get("target_type")))
    if method and str(args.get("mask_type", "tube")).startswith("motion"):
        method += " (motion-guided masking)"
    videos = _videos(runs[-1].get("data"))
    for name, key in SAME.items():
        if videos is not None and CATALOGUE[key].num_train == videos:
            row["pretrained_on"] = name
    if isinstance(epochs := args.get("epochs"), int):
        epochs = table_epochs(epochs) * int(args.get("num_sample") or 1)  # repeated samples count as epochs
    return {**row, **({"method": method, "epochs": epochs} if method else {})}


def table_epochs(epochs: int) -> int:
    """Epochs as tables count them: the released scripts train for one more than they say, 801 for 800."""
    return epochs - 1 if epochs > 1 and epochs % 100 == 1 else epochs


def _backbone(model: str) -> str:
    return next((name for size, name in BACKBONES.items() if f"_{size}_" in model), "")


def _row(file: Path) -> dict[str, Any]:
    """`row.json` of the folder that a result lies in.

    Raises:
        ConfigError: it is not an object of ROW_ENTRIES.
    """
    place = file.with_name(ROW)
    if not place.is_file():
        return {}
    content = _json(place)
    if not isinstance(content, dict) or not content.keys() <= set(ROW_ENTRIES):
        raise ConfigError(f"{place}: must be one JSON object with some of {', '.join(ROW_ENTRIES)}")
    return content


# ------------------------------------------------------------------------------------------------ a number a file


def _of_number(file: Path, content: Mapping[str, Any]) -> Record:
    """A record of an evaluation that writes one file for each number."""
    value = content["value"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{file}: `value` is {value!r}, not a number: evaluate again, or delete it")
    weights = str(content.get("pretrained") or content.get("checkpoint") or "")
    return Record(
        task=str(content["task"]),
        data_set=str(content.get("data_set", "")),
        metric=str(content["metric"]),
        value=float(value),
        file=file,
        probe=str(content.get("probe", "frozen")),
        videos=content.get("videos", content.get("clips")),
        views=str(content.get("views", "")),
        checkpoint=str(content.get("checkpoint_sha256", "")),
        list_hash=str(content.get("list_sha256", "")),
        options=content.get("options") or {},
        seeds=tuple(content.get("seeds") or ()),
        versions=content.get("versions") or {},
        commit=str(content.get("commit") or ""),
        row={**_pretraining(weights, str(content.get("model", ""))), **_row(file)},
    )
