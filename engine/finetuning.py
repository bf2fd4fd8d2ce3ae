"""Fine-tuning and linear probing: classification losses."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Mixup = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class ClassificationForward:
    """Cross-entropy in float32, with mixup or with label smoothing.

    Args:
        mixup: (clips, labels) -> (mixed clips, soft targets (B, K)); None to disable.
        smoothing: label smoothing without mixup (mixup smooths its own targets).
    """

    def __init__(self, mixup: Mixup | None, smoothing: float) -> None:
        self.mixup = mixup
        self.smoothing = smoothing

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """`loss`, and without mixup also `top1`: accuracy in percent."""
        if self.mixup is not None:
            clips, targets = self.mixup(batch.clip, batch.label)
            return {"loss": F.cross_entropy(model(clips).float(), targets)}
        logits = model(batch.clip).float()
        return {
            "loss": F.cross_entropy(logits, batch.label, label_smoothing=self.smoothing),
            "top1": 100 * (logits.argmax(dim=1) == batch.label).float().mean(),
        }
