"""Pre-training: the model's own losses on a batch of clips and masks."""

from typing import Any

import torch
from torch import nn

SCALARS = ("loss", "video_loss", "target_loss")


def pretraining_forward(model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    """The scalars of the model's output for `batch.clip` and `batch.mask`."""
    out = model(batch.clip, batch.mask)
    return {name: out[name] for name in SCALARS if name in out}
