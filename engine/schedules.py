"""Learning rate and weight decay schedules: pure functions of the step, without state to save."""

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

    A one-step warm-up has `start`. `warmup_steps` > 0 overrides `warmup_epochs`. As in `cosine_scheduler` of the
    released code (utils.py, github.com/QUVA-Lab/SIGMA, commit 9876f09), the first step after the warm-up has `base`
    again, and `final` would be reached one step after the last.

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
    """Learning rate and weight decay per optimizer step. Learning rates are already scaled by the total batch."""

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
        """Total optimizer steps."""
        return self.epochs * self.steps_per_epoch

    @property
    def warmup(self) -> int:
        """Warm-up steps."""
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

    @staticmethod
    def in_use(optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """What `apply` has set, by the names of the released code's log: lowest learning rate, weight decay."""
        groups = optimizer.param_groups
        decays = [group["weight_decay"] for group in groups if group["decayed"]]
        return {"min_lr": min(group["lr"] for group in groups), "weight_decay": max(decays, default=0.0)}

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set every group's learning rate and weight decay; returns the unscaled learning rate.

        A group that is held (see `parameter_groups`) has a closed gate, the rate 0, and no decay, which SGD's momentum
        would keep.
        """
        lr = self.lr_at(step)
        decay = cosine_schedule(
            step,
            base=self.weight_decay,
            final=self.weight_decay_end,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
        )
        for held_steps, gate in getattr(optimizer, "gates", ()):
            gate.fill_(step >= held_steps)
        for group in optimizer.param_groups:
            held = step < group.get("held_steps", 0)
            group["lr"] = 0.0 if held else lr * group["lr_scale"]
            if group["decayed"]:
                group["weight_decay"] = 0.0 if held else decay
        return lr
