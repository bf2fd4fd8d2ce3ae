"""Mixup and CutMix on batches of clips, by timm's `Mixup`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.data import Mixup

from sigma_video.options import FRACTION, NOT_NEGATIVE, RATE, OptionError, Options, option

MixFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class MixupConfig(Options):
    """Mixing of clips and labels within a batch."""

    smoothing: float = option(0.1, "label smoothing: this share of a label is spread over all classes", rule=RATE)
    mixup: float = option(0.8, "alpha of Mixup's beta distribution; 0: off", rule=NOT_NEGATIVE)
    cutmix: float = option(1.0, "alpha of CutMix's beta distribution; 0: off", rule=NOT_NEGATIVE)
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
        cuts = self.cutmix > 0 or self.cutmix_minmax is not None
        if not self.is_on:
            found |= dict.fromkeys(("mixup_prob", "mixup_mode"), "mixing is off: --mixup 0 --cutmix 0")
        if not (self.mixup > 0 and cuts):
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
        mixed = [f"Mixup {self.mixup:g}"] if self.mixup > 0 else []
        if self.cutmix_minmax is not None:
            mixed.append("CutMix {:g} to {:g}".format(*self.cutmix_minmax))
        elif self.cutmix > 0:
            mixed.append(f"CutMix {self.cutmix:g}")
        mixing = f"mixed by {' and '.join(mixed)}" if mixed else "not mixed"
        return f"labels smoothed by {self.smoothing:g}, {mixing}"

    @property
    def is_on(self) -> bool:
        """Whether clips are mixed at all."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None


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
