"""How the heads are trained: options, and what each probe and data set takes where none is given."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.optim import END_RATE, LEARNING_RATE
from sigma_video.options import (
    AT_LEAST_ONE,
    FRACTION,
    NOT_NEGATIVE,
    RATE,
    Options,
    option,
)


@dataclass(frozen=True)
class Candidate:
    """A head of the sweep: its base learning rate (for a batch of 256) and its weight decay."""

    lr: float
    weight_decay: float

    def describe(self) -> str:
        """In words, for logs and records."""
        return f"lr {self.lr:g}, weight decay {self.weight_decay:g}"


@dataclass(frozen=True, kw_only=True)
class RecipeConfig(Options):
    """How heads are trained. What is None is the probe's: see `PROBES`."""

    epochs: int | None = option(None, "passes over the training samples; default: the probe's", rule=AT_LEAST_ONE)
    batch_size: int | None = option(
        None, "samples of a training step, over all ranks; default: 384 (linear), 256", rule=AT_LEAST_ONE
    )
    lrs: tuple[float, ...] | None = option(
        None, "base learning rates of the sweep, for 256 samples a step; default: the probe's", rule=LEARNING_RATE
    )
    weight_decays: tuple[float, ...] | None = option(
        None, "weight decays of the sweep, each with each of --lrs; default: the probe's", rule=NOT_NEGATIVE
    )
    warmup_epochs: float | None = option(
        None, "epochs of linear warm-up; default: the probe's", rule=NOT_NEGATIVE, metavar="EPOCHS"
    )
    min_lr: float | None = option(
        None, "base learning rate at the end of the cosine; default: the probe's", rule=END_RATE
    )
    dropout: float | None = option(None, "before the last layer; default: 0.5 (pooler1), 0", rule=RATE)
    probe_heads: int | None = option(
        None, "attention heads of the probe; default: 12 (pooler1), 16 (attentive4)", rule=AT_LEAST_ONE
    )
    train_fc_norm: bool = option(
        True, "linear: train the weights of the norm before the linear layer, as SIGMA; MME does not", switch="pair"
    )
    holdout: float = option(
        0.1, "part of the training list on which one of several heads is chosen; never on the test list", rule=FRACTION
    )
    refit: bool = option(True, "train the chosen head again, on the whole training list", switch="pair")
    seed: int = option(0, "of the hold-out, initial heads, order and augmentation", rule=NOT_NEGATIVE)

    @property
    def candidates(self) -> list[Candidate]:
        """The heads of the sweep; of a completed recipe."""
        assert self.lrs and self.weight_decays
        return [Candidate(lr, decay) for lr in self.lrs for decay in self.weight_decays]

    def lr_scale(self, step: int, *, steps_per_epoch: int) -> tuple[float, float]:
        """Factors (a, b): a head's learning rate at a step is a * lr + b * min_lr, both scaled by the batch."""
        assert self.epochs and self.batch_size and self.warmup_epochs is not None
        scale = self.batch_size / 256
        warmup = min(round(self.warmup_epochs * steps_per_epoch), self.epochs * steps_per_epoch)
        if step < warmup:
            return scale * (step + 1) / warmup, 0.0
        progress = (step - warmup) / max(self.epochs * steps_per_epoch - warmup, 1)
        high = 0.5 * (1 + math.cos(math.pi * progress))
        return scale * high, scale * (1 - high)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe of `--probe`, with what it decides; what it does is a row of `PROBE_FUNCTIONS` in run_probing.py.

    Attributes:
        recipe: values of the options that it decides, by flag.
        epochs: passes over the training list, by data set; "": of any other.
        views: clips x crops of a test video where they are not the data set's own, by data set; "": of any other.
        without_effect: flags that it refuses.
        trains: whether it trains heads, on augmented clips.
        reads_tokens: whether it reads all tokens of a clip, not their mean, which is what is kept in files.
    """

    recipe: Mapping[str, Any]
    epochs: Mapping[str, int]
    without_effect: Sequence[str]
    views: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    trains: bool = True
    reads_tokens: bool = False


OF_TRAINING = (  # flags of heads, of their training, and of the clips that are drawn for it
    *("train_fc_norm", "dropout", "probe_heads", "num_sample", "min_crop_area", "smoothing", "flip", "epochs"),
    *("batch_size", "lrs", "weight_decays", "warmup_epochs", "min_lr", "holdout", "refit", "seed"),
    *("aa", "reprob", "crop_aspect", "mixup", "cutmix"),
)
OF_NEIGHBOURS = ("neighbours", "temperature")
OF_CACHE = ("cache_dir", "rebuild_features", "feature_dtype")
ON_FEATURES: Mapping[str, Any] = {
    "batch_size": 384,
    "lrs": (1e-3, 5e-3, 1e-2, 5e-2),
    "weight_decays": (0.05,),
    "warmup_epochs": 5.0,
    "min_lr": 1e-6,
    "dropout": 0.0,
    "smoothing": 0.1,
    "aa": "none",
    "reprob": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "crop_aspect": 4 / 3,
}
PROBES = {
    "linear": Probe(
        recipe={**ON_FEATURES, "num_sample": 2, "final_norm": False},
        epochs={"SSV2": 30, "Kinetics-400": 30, "ImageNet-1K": 50, "": 100},
        without_effect=("mixup", "cutmix", "dropout", "probe_heads", *OF_NEIGHBOURS),
    ),
    "pooler1": Probe(
        recipe={
            "batch_size": 256,
            "lrs": (4e-5, 1e-4, 4e-4, 1e-3, 2.5e-3),
            "weight_decays": (1e-5,),
            "min_lr": 0.0,
            "dropout": 0.5,
            "smoothing": 0.1,
            "probe_heads": 12,
            "aa": "rand-m9-n2-mstd0.5-inc1",
            "reprob": 0.0,
            "mixup": 0.8,
            "cutmix": 1.0,
            "min_crop_area": 0.3,
            "crop_aspect": 2.0,
            "num_sample": 1,
            "final_norm": True,
        },
        epochs={"Kinetics-400": 150, "": 50},
        views={"Kinetics-400": (4, 3), "SSV2": (1, 3)},
        without_effect=("train_fc_norm", *OF_NEIGHBOURS, *OF_CACHE),
        reads_tokens=True,
    ),
    "attentive4": Probe(
        recipe={
            "batch_size": 256,
            "lrs": (5e-3, 3e-3, 1e-3, 3e-4, 1e-4),
            "weight_decays": (0.01, 0.1, 0.4, 0.8),
            "warmup_epochs": 0.0,
            "min_lr": 0.0,
            "dropout": 0.0,
            "smoothing": 0.0,
            "probe_heads": 16,
            "aa": "rand-m7-n4-mstd0.5-inc1",
            "reprob": 0.25,
            "mixup": 0.0,
            "cutmix": 0.0,
            "min_crop_area": 0.3,
            "crop_aspect": 4 / 3,
            "num_sample": 1,
            "final_norm": True,
        },
        epochs={"": 20},
        views={"Kinetics-400": (8, 3), "SSV2": (2, 3)},
        without_effect=("train_fc_norm", *OF_NEIGHBOURS, *OF_CACHE),
        reads_tokens=True,
    ),
    "knn": Probe(
        recipe={**ON_FEATURES, "num_sample": 1, "final_norm": True},
        epochs={"": 1},
        views={"": (1, 1)},
        without_effect=OF_TRAINING,
        trains=False,
    ),
}


def defaults_for(probe: str, data_set: str, *, epochs: int | None) -> dict[str, Any]:
    """Values of the options that a probe decides, by flag.

    Linear: SIGMA's released recipe for SSv2, with epochs and learning rates that were chosen here for the other data
    sets, whose settings are not public. pooler1: VideoGLUE (arXiv 2307.03166, appendix). attentive4: V-JEPA 2
    (arXiv 2506.09985, and the configurations of its repository). k-NN: DINO's evaluation.

    Args:
        epochs: that are given, if any: the warm-up may depend on them.
    """
    row = PROBES[probe]
    number = row.epochs.get(data_set, row.epochs[""])
    clips, crops = row.views.get(data_set, row.views.get("", (None, None)))
    values = {"epochs": number, "test_num_segment": clips, "test_num_crop": crops, **row.recipe}
    if probe == "pooler1":
        values["warmup_epochs"] = 0.05 * (epochs or number)
    return {"min_crop_area": 0.08 if data_set == "ImageNet-1K" else 0.25, **values}


def filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all flags, with defaults where they are None."""
    return {**values, **{name: value for name, value in defaults.items() if values.get(name) is None}}


def best_of(scores: Sequence[float]) -> int:
    """The place of the highest score; of equal ones the first."""
    return max(range(len(scores)), key=scores.__getitem__)
