"""The records of a count, and the counts themselves."""

import csv
import io
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from engine.checkpointing.download import hash_of_weights
from engine.files import replace_text
from engine.record import code_commit
from evaluation.records import Record
from evaluation.repetition.annotations import Repetitions
from sigma_video.options import recorded

from .data import DATA_SET
from .options import RepetitionConfig

LIBRARIES = ("torch", "numpy", "scipy")


def make_records(
    config: RepetitionConfig,
    repetitions: Repetitions,
    values: Mapping[str, float],
    *,
    per_clip: Mapping[str, float],
    weights: str,
    pretrained: str,
) -> list[Record]:
    """A record for each value.

    Args:
        values: by metric.
        per_clip: of each video, its part of the MAE.
        weights: the file that was tested, '' where nothing is kept.
        pretrained: the file that these weights were fine-tuned from.
    """
    common: dict[str, Any] = {
        "task": "repetition",
        "clips": len(repetitions.names),
        "data_set": DATA_SET,
        "model": config.model,
        "checkpoint": weights,
        "checkpoint_sha256": hash_of_weights(weights),
        "list_file": str(repetitions.videos.file),
        "list_sha256": repetitions.sha256,
        "options": recorded(config),
        "seeds": [config.run.seed],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "commit": code_commit(),
        "probe": "finetune",
        "pretrained": pretrained,
    }
    return [
        Record(
            metric=metric, value=value, per_seed=[value], per_clip=dict(per_clip) if metric == "MAE" else {}, **common
        )
        for metric, value in values.items()
    ]


def write_counts(file: Path, repetitions: Repetitions, counted: np.ndarray) -> None:
    """`name,repetitions,counted` of every video."""
    text = io.StringIO()
    rows = zip(repetitions.names, repetitions.counts.tolist(), counted.tolist(), strict=True)
    csv.writer(text, lineterminator="\n").writerows([("name", "repetitions", "counted"), *rows])
    replace_text(file, text.getvalue())
