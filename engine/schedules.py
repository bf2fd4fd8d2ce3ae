"""Learning rate and weight decay as pure functions of the optimizer step: nothing to save, nothing to resume."""

import math
from dataclasses import dataclass

import torch


def cosine_schedule(
    step: int,
    *,
    base: float,
    final: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    warmup_steps: int = -1,
    start: float = 0.0,
) -> float:
    """Linear warm-up from `start` to `base`, both included, then a cosine towards `final`.

    A warm-up of one step has `start`. `warmup_steps` > 0 takes the place of `warmup_epochs`. The step after the warm-up
    has `base` once more, and `final` would only be reached one step after the last: so does
    `cosine_scheduler` of the released code (utils.py, github.com/QUVA-Lab/SIGMA, commit 9876f09).

    Args:
        step: optimizer steps done, 0 ... epochs * steps_per_epoch - 1.
    """
    warmup = warmup_steps if warmup_steps > 0 else warmup_epochs * steps_per_epoch
    if step < warmup:
        return start + (base - start) * step / max(warmup - 1, 1)
    progress = min((step - warmup) / max(epochs * steps_per_epoch - warmup, 1), 1.0)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Schedule:
    """What the optimizer's groups get at each step. Learning rates are the scaled ones."""

    lr: float
    min_lr: float
    warmup_lr: float
    weight_decay: float
    weight_decay_end: float
    epochs: int
    steps_per_epoch: int
    warmup_epochs: int
    warmup_steps: int

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def warmup(self) -> int:
        """Optimizer steps of the warm-up."""
        return self.warmup_steps if self.warmup_steps > 0 else self.warmup_epochs * self.steps_per_epoch

    def lr_at(self, step: int) -> float:
        """Learning rate of a group with `lr_scale` 1."""
        return cosine_schedule(
            step,
            base=self.lr,
            final=self.min_lr,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            warmup_epochs=self.warmup_epochs,
            warmup_steps=self.warmup_steps,
            start=self.warmup_lr,
        )

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set every group's learning rate and weight decay; returns the unscaled learning rate."""
        lr = self.lr_at(step)
        decay = cosine_schedule(
            step,
            base=self.weight_decay,
            final=self.weight_decay_end,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            if group["decayed"]:
                group["weight_decay"] = decay
        return lr
