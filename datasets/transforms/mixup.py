"""Mixup and CutMix on batches of clips, by timm's `Mixup`."""

from collections.abc import Callable, Sequence

import torch
from timm.data import Mixup

MODES = ("batch", "pair", "elem")
MixFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def build_mixup(
    *,
    mixup: float,
    cutmix: float,
    cutmix_minmax: Sequence[float] | None,
    prob: float,
    switch_prob: float,
    mode: str,
    smoothing: float,
    num_classes: int,
) -> MixFunction | None:
    """A function that mixes each clip with its partner from the other end of the batch, or None when mixing is off.

    timm draws from NumPy's global generator, so seed that, and save it with a checkpoint.

    Args:
        mixup, cutmix: alphas of the Beta distributions; 0 switches one off.
        cutmix_minmax: smallest and largest side of the CutMix box as parts of the frame's; replaces the alpha.
        prob: probability of mixing a batch (or a pair or an element, as `mode` says).
        switch_prob: probability of CutMix where both are on.
        mode: "batch", "pair" or "elem": what shares one draw.
        smoothing: label smoothing: `smoothing / num_classes` on all classes, the rest on the clip's own.
        num_classes: K.

    Returns:
        None, or (clips (B, C, T, H, W) float, labels (B,) int) -> (mixed clips, soft targets (B, K) float).
        The clips are overwritten.

    Raises:
        ValueError: an unknown mode, or bounds that are not two rising parts of the frame; at the call, an odd batch.
    """
    if mode not in MODES:
        raise ValueError(f"--mixup_mode {mode}: choose from {', '.join(MODES)}")
    if cutmix_minmax is not None and not (len(cutmix_minmax) == 2 and 0 <= cutmix_minmax[0] < cutmix_minmax[1] <= 1):
        raise ValueError(f"--cutmix_minmax {cutmix_minmax}: two parts of the frame, the smaller first")
    if mixup <= 0 and cutmix <= 0 and cutmix_minmax is None:
        return None
    mix_images = Mixup(
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        cutmix_minmax=cutmix_minmax,
        prob=prob,
        switch_prob=switch_prob,
        mode=mode,
        label_smoothing=smoothing,
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
