"""Pre-training: the model's outputs on a batch of clips and masks, with the frozen networks that stand beside it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Clips, their masks, and the number masked in each -> target features of the masked tokens.
Teacher = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
# Clips and their base masks, some for each -> masks that follow the motion, on the clips' device, with as many masked.
Guide = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PretrainingForward:
    """The method's forward pass on a batch.

    The frozen networks are called here and not inside the model: so they are never wrapped with it, saved or optimized.

    Args:
        teacher: gives the target features; None if the model has a target network of its own.
        guide: turns the batch's base masks into motion-guided ones; None if the masks are used as they are.
    """

    def __init__(self, *, teacher: Teacher | None = None, guide: Guide | None = None) -> None:
        self.teacher = teacher
        self.guide = guide

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """The model's outputs for `batch.clip` and `batch.mask`, which is in host memory: counting needs no wait.

        There may be several masks for each clip, one after another; teacher and guide see the clip once all the same.
        With the outputs comes `mask`, the one that was used.
        """
        mask, num_masked = batch.mask, int(batch.mask[0].sum())
        num_masks = len(mask) // len(batch.clip)
        clip = batch.clip if num_masks == 1 else batch.clip.repeat_interleave(num_masks, dim=0)
        if self.guide is not None:
            mask = self.guide(batch.clip, mask)
        features = None if self.teacher is None else self.teacher(batch.clip, mask, num_masked)
        return {**model(clip, mask, features, num_masked=num_masked), "mask": mask}
