"""The model of a checkpoint as a subject of pictures, and how its clips are sampled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datasets.catalogue import CATALOGUE
from datasets.masks.masks import MaskConfig
from datasets.sampling import PRETRAINING_RATE
from engine.checkpointing.read_weights import read_weights
from engine.errors import as_config_error
from models.weights.load import native_state
from models.weights.rebuild import describe

from .clips import Sampling
from .subject import Subject, build_model


def load_subject(
    checkpoint: str,
    *,
    trust: bool = False,
    device: str = "auto",
    clusters: int = 6,
    seed: int = 0,
    num_clips: int = 1,
    sampling_rate: int | None = None,
) -> tuple[Subject, Sampling]:
    """The model of a checkpoint, and how its clips are sampled.

    Args:
        trust: unpickle objects too.
        device: "auto", "cpu" or "cuda".
        clusters, seed, num_clips: see Subject and Sampling.
        sampling_rate: every so many frames of a video; default: as in the training.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: it holds no model of this project.
    """
    weights = read_weights(checkpoint, trust=trust)
    state = native_state(weights.tensors)
    with as_config_error(checkpoint):
        model = build_model(state, weights.args)
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    given: Mapping[str, Any] = weights.args
    ratio = given.get("mask_ratio")
    masks = MaskConfig(mask_type=_mask_type(given), mask_ratio=ratio if isinstance(ratio, float) else 0.9)
    text = f"{Path(checkpoint).name}: {describe(state)}"
    subject = Subject(model.to(place), text, masks, clusters=clusters, seed=seed, device=place)
    _, num_frames, size, _ = subject.encoder.clip_shape
    distance = (sampling_rate, None) if sampling_rate else _distance(given)
    return subject, Sampling(num_frames, size, *distance, num_clips)


def _distance(given: Mapping[str, Any]) -> tuple[int | None, float | None]:
    """Frames between those of a clip, or frames a second, as in the training."""
    spec = CATALOGUE.get(str(given.get("data_set")))
    stride, fps = given.get("sampling_rate"), given.get("fps")
    if isinstance(fps, float):
        return None, fps
    if spec is not None and spec.sampler == "uniform":
        return None, None
    return stride if isinstance(stride, int) else spec.sampling_rate if spec else PRETRAINING_RATE, None


def _mask_type(given: Mapping[str, Any]) -> str:
    """Of the training; the masks that follow motion start from tubes, which are shown in their place."""
    return "random" if given.get("mask_type") == "random" else "tube"
