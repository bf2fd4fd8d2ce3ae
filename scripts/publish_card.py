"""What a published model's card says beyond that of the converter: base model, data, results. Used by publish.py."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from .table_records import Record

ACCURACIES = {"top1": "accuracy", "top5": "top_5_accuracy"}  # by their names on the hub
TRAINED = {"finetune": "fine-tuned", "frozen": "frozen weights"}


def labels(records: Sequence[Record]) -> dict[str, float]:
    """What was measured on what -> the value."""
    return {f"{_data(record)}, {_said(record)}": record.value for record in records}


def complete(card: Path, *, name: str, base_model: str, datasets: Sequence[str], records: Sequence[Record]) -> None:
    """Put what is known into a card's header, and the name into its text.

    Args:
        name: of the repository, ORG/NAME, or of the folder.
        base_model: ORG/NAME; "" if there is none.
        records: of these weights alone.
    """
    title = name.rpartition("/")[2]
    made = ModelCard(card.read_text(encoding="utf-8"))
    data: Any = made.data  # which takes what ModelCardData has
    if base_model:
        data.base_model = base_model
    if datasets:
        data.datasets = [slug(name) for name in datasets]
    if records:
        data.model_name = title
        data.eval_results = [_result(record) for record in records]
    made.text = re.sub(r"\A(\s*)# .*", lambda found: f"{found[1]}# {title}", made.text)
    if title != name:
        made.text = made.text.replace("THIS_FOLDER", name)
    card.write_text(str(made).rstrip() + "\n", encoding="utf-8")


def _result(record: Record) -> EvalResult:
    is_class = record.task in ("classification", "multilabel")
    return EvalResult(
        task_type="video-classification" if is_class else slug(record.task),
        dataset_type=slug(_data(record)),
        dataset_name=_data(record),
        metric_type=ACCURACIES.get(record.metric, record.metric),
        metric_name=_said(record),
        metric_value=record.value,
    )


def _data(record: Record) -> str:
    return record.data_set or "data that the result does not name"


def _said(record: Record) -> str:
    """Metric, and what it depends on."""
    parts = [
        record.metric,
        TRAINED.get(record.probe, f"{record.probe} probe"),
        f"{record.views} views" if record.views else "",
        f"{record.videos} videos" if record.videos else "",
        f"list {record.list_hash[:12]}" if record.list_hash else "",
        f"commit {record.commit[:12]}" if record.commit else "",
    ]
    return ", ".join(filter(None, parts))


def slug(name: str) -> str:
    """As the hub writes it."""
    return re.sub(r"[^\w./-]+", "-", name).strip("-").lower()
