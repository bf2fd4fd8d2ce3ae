"""Pooled features of the lists, kept in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.probing import FirstEpoch, batches_of
from evaluation.probing.recipes import PROBES
from inference.features import Plan, Row, extract
from sigma_video.options import recorded

from .job import Job


def features(job: Job, part: str) -> np.ndarray:
    """Pooled features of a list (V, G, D), from the cache or into it."""
    config, videos = job.config, job.data.lists[part]
    augmented = part == "train" and PROBES[config.probe].trains
    views = {"clips": 1, "crops": 1} if part == "train" else {}
    dataset: Any = FirstEpoch(job.sight.train(videos)) if augmented else job.sight.test(videos, **views)
    clip, seen = job.sight.clip, job.sight.views
    number = clip.num_sample if augmented else 1 if views else seen.num_views
    final_norm = bool(config.encoder.final_norm)
    shown = f"augmented{number}" if augmented else "1x1" if views else f"{seen.test_num_segment}x{seen.test_num_crop}"
    name = f"{config.lists.data_set}-{part}-{shown}" + ("-normed" if final_norm else "")
    root = Path(config.output.cache_dir or Path(config.output.output_dir) / "features")

    def encode(clips: torch.Tensor) -> torch.Tensor:
        with job.autocast():
            return job.loaded.pooled(clips, final_norm=final_norm)

    plan = Plan(
        root / name,
        key={
            "checkpoint": job.loaded.digest,
            "list": {"fingerprint": videos.fingerprint, "data_set": config.lists.data_set},
            "views": views_key(job, augmented=augmented, shown=shown),
            "encoding": {"pooling": "mean", "final_norm": final_norm, "amp": job.amp},
        },
        rows=[Row(path, span, label) for (path, span), label in zip(videos.samples(), videos.labels, strict=True)],
        views=number,
        width=job.loaded.model.embed_dim,
        batch=max(config.output.forward_batch // number, 1),
        dtype=config.output.feature_dtype,
    )
    batches = batches_of(dataset, batch_size=plan.batch, **job.loader_kwargs(alone=True))
    found = extract(plan, job.world, batches=batches, encode=encode, rebuild=config.output.rebuild_features)
    assert found is not None  # of all shards
    return found


def views_key(job: Job, *, augmented: bool, shown: str) -> dict[str, Any]:
    """What decides which pixels of a sample are seen."""
    clip, views, config = job.sight.clip, job.sight.views, job.config
    names = ("num_frames", "sampling_rate", "fps", "input_size", "sampling", "short_side_size")
    options = recorded(clip) | recorded(views)
    key = {name: options[name] for name in names} | {"shown": shown, "images": job.sight.spec.images}
    if augmented:
        drawn = recorded(config.augmentation) | recorded(config.crops)
        key |= {name: drawn[name] for name in ("aa", "reprob", "min_crop_area", "crop_aspect")}
        key |= {"flip": views.flip, "seed": config.recipe.seed}
    return key
