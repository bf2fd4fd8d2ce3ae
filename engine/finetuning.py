"""Fine-tuning and linear probing: classification losses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sigma_video.options import BETWEEN_0_AND_1, Options, Rule, option

Mixup = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Options):
    """What is done with a classifier: fine-tuning, linear probing, or testing alone."""

    model_ema: bool = option(False, "average the weights over the updates, test both")
    model_ema_decay: float = option(0.9999, "decay of the moving average in an update", rule=BETWEEN_0_AND_1)
    model_ema_force_cpu: bool = option(False, "keep the average in host memory")
    layer_decay: float = option(
        0.75,
        "learning-rate factor from block to block",
        rule=Rule(lambda value: 0 < value <= 1, "must be above 0 and at most 1 (1: no decay)"),
    )
    linear_probing: bool = option(False, "train only fc_norm and head")
    eval: bool = option(False, "test only")
    disable_eval_during_finetuning: bool = option(False, "no validation after each epoch")
    dist_eval: bool = option(False, "implied: testing is always split over the ranks")

    def parts(self) -> list[str]:
        """The lists that are needed."""
        if self.eval:
            return ["test"]
        return ["train", "test"] if self.disable_eval_during_finetuning else ["train", "val", "test"]


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
