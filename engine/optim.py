"""Parameter groups and optimizer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sigma_video.options import (
    AT_LEAST_ONE,
    BETWEEN_0_AND_1,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    OptionError,
    Options,
    Rule,
    option,
)

from .errors import ConfigError
from .schedules import Schedule

# A weight moves by about the learning rate in an update of AdamW, and is well below 10.
_MOST = 1000.0
LEARNING_RATE = Rule(lambda value: 0 < value <= _MOST, f"must be positive and at most {_MOST:g}")
END_RATE = Rule(lambda value: 0 <= value <= _MOST, f"must be between 0 and {_MOST:g}")
EPSILON = Rule(lambda value: value >= 1e-30, "must be at least 1e-30: smaller ones vanish in float32")
_BLOCK = re.compile(r"(?:encoder\.)?blocks\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Options):
    """Batches, optimizer and schedule. Learning rates are base rates: times total batch / 256 (arXiv 1706.02677)."""

    batch_size: int = option(help="clips per GPU and forward pass", rule=AT_LEAST_ONE)
    update_freq: int = option(1, "batches accumulated for one update", rule=AT_LEAST_ONE)
    epochs: int = option(help="passes over the list of videos", rule=AT_LEAST_ONE)
    opt: str = option("adamw", "the optimizer: AdamW, or SGD with Nesterov momentum", choices=("adamw", "sgd"))
    opt_eps: float = option(1e-8, "number that AdamW adds to its denominator", rule=EPSILON)
    opt_betas: tuple[float, float] = option(help="decay rates of the two moments of AdamW", rule=RATE, metavar="BETA")
    momentum: float = option(0.9, "momentum of --opt sgd", rule=BETWEEN_0_AND_1)
    clip_grad: float | None = option(None, "largest gradient norm; default: not clipped", rule=POSITIVE, metavar="NORM")
    weight_decay: float = option(0.05, "decoupled weight decay of matrices; vectors have none", rule=NOT_NEGATIVE)
    weight_decay_end: float | None = option(
        None, "cosine from --weight_decay to this; default: constant", rule=NOT_NEGATIVE
    )
    lr: float = option(help="base learning rate: times total batch / 256", rule=LEARNING_RATE)
    warmup_lr: float = option(0.0, "base learning rate of the first step", rule=END_RATE)
    min_lr: float = option(help="base learning rate the cosine goes to", rule=END_RATE)
    warmup_epochs: int = option(help="epochs of linear warm-up", rule=NOT_NEGATIVE)
    warmup_steps: int = option(-1, "updates of linear warm-up; overrides --warmup_epochs if > 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps <= 0 and self.warmup_epochs >= self.epochs:
            raise OptionError(
                f"--warmup_epochs {self.warmup_epochs} leaves nothing of --epochs {self.epochs}: choose fewer to "
                "warm up"
            )

    def ignored(self) -> dict[str, str]:
        if self.opt == "sgd":
            found = dict.fromkeys(("opt_eps", "opt_betas"), "--opt sgd has none")
        else:
            found = {"momentum": f"--opt {self.opt} has none"}
        if self.warmup_steps > 0:
            found["warmup_epochs"] = f"--warmup_steps {self.warmup_steps} replaces it"
        return found

    def build(
        self, model: nn.Module, *, lr: float, layer_decay: float = 1.0, held_steps: Mapping[str, int] | None = None
    ) -> torch.optim.Optimizer:
        """The optimizer over a model's parameters, in the groups of `parameter_groups`; `lr` is the scaled rate."""
        groups = parameter_groups(model, weight_decay=self.weight_decay, layer_decay=layer_decay, held_steps=held_steps)
        optimizer = build_optimizer(
            groups,
            opt=self.opt,
            lr=lr,
            betas=self.opt_betas,
            eps=self.opt_eps,
            momentum=self.momentum,
        )
        # Not in the groups: loading a state would replace a tensor there by a copy, and hooks would keep the old one.
        optimizer.gates = [  # type: ignore[attr-defined]
            (group["held_steps"], gradient_gate(group["params"])) for group in groups if group["held_steps"]
        ]
        return optimizer

    def total_batch(self, world_size: int) -> int:
        """Clips of an update, over all ranks."""
        return self.batch_size * self.update_freq * world_size

    def schedule(self, *, num_batches: int, world_size: int) -> Schedule:
        """The run's schedule, with scaled learning rates.

        Args:
            num_batches: of the loader of one rank, in an epoch.

        Raises:
            ConfigError: too few batches for one update an epoch, a warm-up longer than the run, or a decay of whole
                weights in an update.
        """
        steps_per_epoch = num_batches // self.update_freq
        if steps_per_epoch < 1:
            raise ConfigError(f"--update_freq {self.update_freq}: the data has fewer batches than that; choose fewer")
        if self.warmup_steps >= self.epochs * steps_per_epoch:
            raise ConfigError(f"--warmup_steps {self.warmup_steps}: the run has {self.epochs * steps_per_epoch} steps")
        scale = self.total_batch(world_size) / 256
        decay = max(self.weight_decay, self.weight_decay_end or 0.0)
        if (step := max(self.lr, self.warmup_lr, self.min_lr) * scale * decay) >= 1:
            raise ConfigError(
                f"--lr {self.lr:g} x {self.total_batch(world_size)} / 256 x --weight_decay {decay:g} = {step:g}: an "
                "update would take away whole weights; it has to be far below 1, choose a lower --lr or --weight_decay"
            )
        return Schedule(
            lr=self.lr * scale,
            min_lr=self.min_lr * scale,
            warmup_lr=self.warmup_lr * scale,
            weight_decay=self.weight_decay,
            weight_decay_end=self.weight_decay if self.weight_decay_end is None else self.weight_decay_end,
            epochs=self.epochs,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=self.warmup_epochs,
            warmup_steps=self.warmup_steps,
        )


def num_trainable(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(_numel(p) for p in model.parameters() if p.requires_grad)


def num_parameters(model: nn.Module) -> int:
    """All parameters."""
    return sum(map(_numel, model.parameters()))


def _numel(parameter: nn.Parameter) -> int:
    """In ZeRO stage 3 a parameter is empty outside a forward pass, and DeepSpeed notes its size."""
    return getattr(parameter, "ds_numel", parameter.numel())


def layer_index(name: str, num_blocks: int) -> int:
    """Layer index for layer-wise decay: 0 for the embedding, k + 1 for block k, num_blocks + 1 for the rest."""
    block = _BLOCK.match(name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith(("patch_embed.", "pos_embed", "cls_token", "mask_token")) else num_blocks + 1


def parameter_groups(
    model: nn.Module, *, weight_decay: float, layer_decay: float = 1.0, held_steps: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters by depth and by whether they are decayed.

    1-D parameters, biases and names in the model's `no_weight_decay()` get no weight decay. The learning rate of layer
    i is scaled by layer_decay^(num_blocks + 1 - i), in the group's `lr_scale`. So does optim_factory.py of the released
    code (github.com/QUVA-Lab/SIGMA, commit 9876f09).

    Args:
        held_steps: beginning of names -> number of steps at the start in which `Schedule.apply` leaves these parameters
            as they are.

    Returns:
        Groups with `params`, `weight_decay`, `lr_scale`, `held_steps` and `name`.
    """
    no_decay_names: set[str] = getattr(model, "no_weight_decay", set)()
    num_blocks = len({match[1] for name, _ in model.named_parameters() if (match := _BLOCK.match(name))})
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        ndim = len(getattr(parameter, "ds_shape", parameter.shape))  # with ZeRO stage 3 the tensor itself is empty
        decayed = ndim > 1 and not name.endswith(".bias") and name not in no_decay_names
        depth = layer_index(name, num_blocks) if layer_decay < 1 else num_blocks + 1
        held = next((steps for start, steps in (held_steps or {}).items() if name.startswith(start)), 0)
        key = f"layer_{depth}_{'decay' if decayed else 'no_decay'}" + (f"_held_{held}" if held else "")
        group = groups.setdefault(
            key,
            {
                "name": key,
                "decayed": decayed,
                "params": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "lr_scale": layer_decay ** (num_blocks + 1 - depth),
                "held_steps": held,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def gradient_gate(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """A number, 0 at first, that all later gradients of these parameters are multiplied by.

    So they add nothing to the gradient norm while they are held. It is on the parameters' device: whatever has been
    captured or compiled reads it anew in every step.

    AdamW counts these steps, so its moments are not corrected afterwards for their start at zero: the first update has
    0.45 times the learning rate with the decay rates 0.9 and 0.95, and 3.2 times with 0.9 and 0.999.
    """
    gate = torch.zeros((), device=parameters[0].device)
    for parameter in parameters:
        parameter.register_hook(gate.mul)
    return gate


def build_optimizer(
    groups: list[dict[str, Any]], *, opt: str, lr: float, betas: tuple[float, float], eps: float, momentum: float
) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum, for the result of `parameter_groups`.

    The fused implementations are required: they can skip an update by a flag on the device (see `Backend.step`).
    """
    if opt == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    if opt == "sgd":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True, fused=True)
        for group in groups:  # torch leaves these uninitialized if the first update is skipped
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    raise ValueError(f"--opt {opt}: choose from adamw, sgd")
