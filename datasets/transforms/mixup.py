"""Mixup and CutMix on batches of clips, by timm's `Mixup`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.data import Mixup

from sigma_video.options import FRACTION, NOT_NEGATIVE, RATE, OptionError, Options, option

MixFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


SMOOTHING, MIXUP, CUTMIX = 0.1, 0.8, 1.0
_NOT = "0 where --task is not classification"


@dataclass(frozen=True, kw_only=True)
class MixupConfig(Options):
    """Mixing of clips and labels within a batch."""

    smoothing: float | None = option(
        None,
        f"label smoothing: this share of a label is spread over all classes; default: {SMOOTHING}, {_NOT}",
        rule=RATE,
    )
    mixup: float | None = option(
        None, f"alpha of Mixup's beta distribution; 0: off; default: {MIXUP}, {_NOT}", rule=NOT_NEGATIVE
    )
    cutmix: float | None = option(
        None, f"alpha of CutMix's beta distribution; 0: off; default: {CUTMIX}, {_NOT}", rule=NOT_NEGATIVE
    )
    cutmix_minmax: tuple[float, float] | None = option(
        None, "smallest and largest side of CutMix's box as parts of the frame's; overrides the alpha", rule=FRACTION
    )
    mixup_prob: float = option(1.0, "probability that a batch is mixed", rule=FRACTION)
    mixup_switch_prob: float = option(0.5, "probability of CutMix where both are on", rule=FRACTION)
    mixup_mode: str = option(
        "batch", "what shares one draw: the batch, a pair, an element", choices=("batch", "pair", "elem")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cutmix_minmax is not None and not self.cutmix_minmax[0] < self.cutmix_minmax[1]:
            low, high = self.cutmix_minmax
            raise OptionError(f"--cutmix_minmax {low} {high}: two parts of the frame, the smaller first")

    def ignored(self) -> dict[str, str]:
        found: dict[str, str] = {}
        mixes, cuts = self.mixup != 0, self.cutmix != 0 or self.cutmix_minmax is not None  # None: left to the task
        if not (mixes or cuts):
            found |= dict.fromkeys(("mixup_prob", "mixup_mode"), "mixing is off: --mixup 0 --cutmix 0")
        if self.mixup_prob == 0:
            found |= dict.fromkeys(("mixup", "cutmix", "cutmix_minmax", "mixup_mode"), "--mixup_prob 0 mixes nothing")
        if not (mixes and cuts):
            found["mixup_switch_prob"] = "it chooses between Mixup and CutMix, and one of them is off"
        if self.cutmix_minmax is not None:
            found["cutmix"] = "--cutmix_minmax replaces it"
        return found

    def check_batch(self, batch_size: int, num_sample: int) -> None:
        """Raise OptionError for an odd number of clips, of which one would have no partner."""
        if self.is_on and batch_size * num_sample % 2:
            raise OptionError(
                f"--batch_size {batch_size} x --num_sample {num_sample} is odd, and clips are mixed in pairs: "
                "choose an even --batch_size, or switch mixing off with --mixup 0 --cutmix 0"
            )

    def describe(self) -> str:
        """What is done to the labels of a batch, in words."""
        mixed = [f"Mixup {self.mixup:g}"] if self.mixup else []
        if self.cutmix_minmax is not None:
            mixed.append("CutMix {:g} to {:g}".format(*self.cutmix_minmax))
        elif self.cutmix:
            mixed.append(f"CutMix {self.cutmix:g}")
        mixing = f"mixed by {' and '.join(mixed)}" if mixed else "not mixed"
        return f"labels smoothed by {self.smoothing or 0:g}, {mixing}"

    def for_task(self, task: str, *, has_classes: bool) -> "MixupConfig":
        """The options with what they leave to the task.

        Args:
            task: its name, for messages.
            has_classes: whether every video has one class. Only then can labels be mixed and smoothed.

        Raises:
            OptionError: they shall be, and cannot.
        """
        if has_classes:
            defaults: dict[str, Any] = {"smoothing": SMOOTHING, "mixup": MIXUP, "cutmix": CUTMIX}
        else:
            defaults = dict.fromkeys(("smoothing", "mixup", "cutmix"), 0.0)
            wanted = [name for name in (*defaults, "cutmix_minmax") if getattr(self, name)]
            if wanted:
                raise OptionError(
                    f"--{wanted[0]} needs one class for every video, which --task {task} has not: leave it out"
                )
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    @property
    def is_on(self) -> bool:
        """Whether clips are mixed at all; of options that `for_task` has completed."""
        return bool(self.mixup or self.cutmix or self.cutmix_minmax is not None)


def build_mixup(config: MixupConfig, *, num_classes: int) -> MixFunction | None:
    """A function that mixes each clip with its partner from the other end of the batch, or None when mixing is off.

    timm draws from NumPy's global generator, so seed that, and save it with a checkpoint.

    Returns:
        None, or (clips (B, C, T, H, W) float, labels (B,) int) -> (mixed clips, soft targets (B, K) float): of the
        label smoothing, `smoothing / num_classes` is on all classes, the rest on the clip's own. The clips are
        overwritten.

    Raises:
        ValueError: at the call, an odd batch.
    """
    config = config.for_task("classification", has_classes=True)
    if not config.is_on:
        return None
    mix_images = Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        cutmix_minmax=config.cutmix_minmax,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch_prob,
        mode=config.mixup_mode,
        label_smoothing=config.smoothing,
        num_classes=num_classes,
    )

    def mix(clips_BCTHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(clips_BCTHW) % 2:
            raise ValueError(
                f"a batch of {len(clips_BCTHW)} clips cannot be mixed in pairs: choose an even --batch_size "
                "(times --num_sample), or switch mixing off with --mixup 0 --cutmix 0"
            )
        # timm boxes the last two of four dimensions; given five, it would cut time x height
        images = clips_BCTHW.flatten(1, 2)
        mixed, targets_BK = mix_images(images, labels_B)
        return mixed.view(clips_BCTHW.shape), targets_BK

    return mix
