"""Fine-tuning and linear probing: classification losses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sigma_video.options import BETWEEN_0_AND_1, OptionError, Options, Rule, option

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
    random_encoder: bool = option(False, "let --linear_probing probe random weights, as a baseline")
    eval: bool = option(False, "only test the given weights")
    disable_eval_during_finetuning: bool = option(False, "no validation after each epoch")
    dist_eval: bool = option(False, "implied: testing is always split over the ranks")

    def ignored(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not self.model_ema:
            found |= dict.fromkeys(("model_ema_decay", "model_ema_force_cpu"), "there is no --model_ema")
        if self.linear_probing:
            why = "--linear_probing trains only fc_norm and head"
            found |= dict.fromkeys(("layer_decay", "drop", "attn_drop_rate", "drop_path"), why)
        else:
            found["random_encoder"] = "there is no --linear_probing"
        return found

    def describe(self) -> str:
        """What is done, in words."""
        if self.eval:
            return "test only: nothing is trained"
        encoder = "random and frozen" if self.random_encoder else "frozen"
        if self.linear_probing:
            return f"linear probe: fc_norm and head are trained, the encoder is {encoder}"
        return "fine-tuning: all weights are trained"

    def check_run(self, *, zero_stage: int | None, weights: str) -> None:
        """Raise OptionError for what this task cannot be done with.

        Args:
            zero_stage: of DeepSpeed, if it trains.
            weights: the file that training starts from, '' for none.
        """
        if self.model_ema and zero_stage == 3:
            raise OptionError(
                "--model_ema averages whole weights, which no rank has in --zero_stage 3: choose stage 2, or leave it "
                "out"
            )
        if self.linear_probing and not (self.eval or weights or self.random_encoder):
            raise OptionError(
                "--linear_probing trains a head on a frozen encoder, which without weights would be random: give "
                "--finetune PATH, or --random_encoder if this baseline is meant"
            )
        if self.random_encoder and weights and not self.eval:
            raise OptionError(f"--random_encoder probes random weights, not those of {weights}: leave one of them out")

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
