"""Pre-training forward pass: masks, frozen teacher features, model outputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# (clips, masks, number of masked tokens per mask) -> target features of the masked tokens.
Teacher = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
# (clips, base masks, one or more per clip) -> motion-guided masks on the device, with as many masked tokens.
Guide = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PretrainingForward:
    """Forward pass of the model and the frozen networks on a batch.

    The frozen networks are called here and not inside the model, so that they are not wrapped, saved or optimized.

    Args:
        teacher: computes the target features; None if the model has its own target network.
        guide: computes motion-guided masks from the base masks; None to use the masks of the batch.
    """

    def __init__(self, *, teacher: Teacher | None = None, guide: Guide | None = None) -> None:
        self.teacher = teacher
        self.guide = guide

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """Model outputs for `batch.clip` (B, C, T, H, W) and `batch.mask` (B * masks per clip, N), and `mask` as used.

        The mask is in host memory: counting the masked tokens does not synchronize with the device. With several masks
        per clip, teacher and guide still process each clip once.
        """
        return self.outputs(model, batch, int(batch.mask[0].sum()))

    def outputs(self, model: nn.Module, batch: Any, num_masked: int) -> dict[str, torch.Tensor]:
        """The same, for a mask of which nobody can count the masked tokens of a row."""
        mask = batch.mask
        num_masks = len(mask) // len(batch.clip)
        clip = batch.clip if num_masks == 1 else batch.clip.repeat_interleave(num_masks, dim=0)
        if self.guide is not None:
            mask = self.guide(batch.clip, mask)
        features = None if self.teacher is None else self.teacher(batch.clip, mask, num_masked)
        return {**model(clip, mask, features, num_masked=num_masked), "mask": mask}
