"""The records of a probe, and the classes it predicted."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from engine.checkpointing.download import hash_of_weights, is_address
from engine.errors import NonFiniteError
from engine.record import code_commit
from engine.tasks.scores import mean_per_class, top_k
from evaluation.records import Record
from sigma_video.options import recorded

from .job import Job, Outcome


def make_records(job: Job, outcome: Outcome) -> list[Record]:
    """A record of the data set's own metric for each set of scores; the others are in its options."""
    config, test, views = job.config, job.data.lists["test"], job.sight.views
    weights, labels, metric = config.start.finetune, job.labels("test"), job.sight.spec.metric
    seen = recorded(job.sight.clip) | recorded(views)  # with what data set and encoder say
    options = {**recorded(config), **seen, "amp": job.amp, "train_samples": len(job.data.lists["train"])}
    names = ("torch", "torchvision", "numpy", "av")
    common: dict[str, Any] = {
        "task": f"probe-{config.probe}-{config.lists.data_set}",
        "probe": config.probe,
        "views": f"{views.test_num_segment}x{views.test_num_crop}",
        "clips": len(test),
        "per_clip": {},
        "data_set": config.lists.data_set,
        "model": str(job.loaded.args.get("model") or "") if weights else config.encoder.model,
        "checkpoint": weights,
        "checkpoint_sha256": hash_of_weights(weights) if is_address(weights) or Path(weights).exists() else "",
        "list_file": str(test.file),
        "list_sha256": test.fingerprint,
        "seeds": (config.recipe.seed,),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "commit": code_commit(),
    }
    records = []
    for ending, scores in outcome.scores.items():
        if not np.isfinite(scores).all():
            raise NonFiniteError("the predictions are NaN or Inf: choose smaller --lrs, or --amp none")
        values = {"top1": top_k(scores, labels, 1), "top5": top_k(scores, labels, 5)}
        values["mean_per_class"] = mean_per_class(scores, labels)
        own: Any = {"value": values[metric], "per_seed": (values[metric],)}
        all_options = options | outcome.chosen | {"all_metrics": values}
        records.append(Record(metric=metric + ending, options=all_options, **own, **common))
    return records


def write_predictions(job: Job, outcome: Outcome, folder: Path) -> None:
    """`predictions.npz` for the probe: the class of every test sample, and its label."""
    found = {f"predicted{ending}": scores.argmax(axis=1) for ending, scores in outcome.scores.items()}
    stem = f"probe-{job.config.probe}-{job.config.lists.data_set}"
    np.savez_compressed(folder / f"{stem}-predictions.npz", labels=job.labels("test"), **found)
