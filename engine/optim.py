"""Parameter groups for the optimizer."""

import re
from typing import Any

import torch
from torch import nn

_BLOCK = re.compile(r"(?:encoder\.)?blocks\.(\d+)\.")


def layer_index(name: str, num_blocks: int) -> int:
    """Depth of a parameter of a classifier: 0 for the embedding, k + 1 for block k, num_blocks + 1 for the rest."""
    block = _BLOCK.match(name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith(("patch_embed.", "pos_embed", "cls_token", "mask_token")) else num_blocks + 1


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups of the trainable parameters by depth and by whether they are decayed.

    Vectors, biases and what the model's `no_weight_decay()` names are not decayed. The learning rate of depth i is
    scaled by layer_decay^(num_blocks + 1 - i): each group's `lr_scale`, which the schedule multiplies with. So does
    optim_factory.py of the released code (github.com/QUVA-Lab/SIGMA, commit 9876f09).

    Returns:
        Groups with `params`, `weight_decay`, `lr_scale` and `name`.
    """
    keep: set[str] = getattr(model, "no_weight_decay", set)()
    num_blocks = len({match[1] for name, _ in model.named_parameters() if (match := _BLOCK.match(name))})
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        ndim = len(getattr(parameter, "ds_shape", parameter.shape))  # in ZeRO stage 3 the tensor itself is empty
        decayed = ndim > 1 and not name.endswith(".bias") and name not in keep
        depth = layer_index(name, num_blocks) if layer_decay < 1 else num_blocks + 1
        key = f"layer_{depth}_{'decay' if decayed else 'no_decay'}"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "decayed": decayed,
                "params": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "lr_scale": layer_decay ** (num_blocks + 1 - depth),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    groups: list[dict[str, Any]], *, opt: str, lr: float, betas: tuple[float, float], eps: float, momentum: float
) -> torch.optim.Optimizer:
    """AdamW (decoupled decay) or SGD with Nesterov momentum, over `parameter_groups`' result.

    The fused forms are needed, not only faster: they can leave out an update by a flag on the device (see
    Backend.step).
    """
    if opt == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    if opt == "sgd":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True, fused=True)
        for group in groups:  # torch leaves these uninitialised if the very first update is left out
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    raise ValueError(f"--opt {opt}: choose from adamw, sgd")
