"""Checkpoints of a model with low-rank adapters (LoRA, arXiv 2106.09685), as peft adds them to linear layers.

`model` holds what every tool reads: the weights of the model without adapters, each adapter added to the weight of its
layer, W + B A. What training resumes from is beside it: W, A and B.
"""

from collections.abc import Mapping
from typing import Any

import torch

State = dict[str, torch.Tensor]

_BASE = ".base_layer."  # names in the modules of peft
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"
ENTRIES = {"model": "lora", "model_ema": "lora_ema"}  # of a checkpoint: weights -> what they are merged of


def merge(state: Mapping[str, torch.Tensor]) -> tuple[State, State]:
    """Weights without adapters, in their usual layout, and the tensors of `state` that they do not hold.

    Merged weights are in host memory, wherever the others are: a small GPU need not hold both, and the same adapters
    give the same bits everywhere. Adapters have the scale 1 (`lora_alpha` equals the rank).
    """
    weights: State = {}
    parts: State = {}
    for name, value in state.items():
        layer, base, kind = name.partition(_BASE)
        if name.endswith((_DOWN, _UP)):
            parts[name] = value
        elif base and kind == "weight":
            weights[f"{layer}.weight"] = value.cpu() + state[layer + _UP].cpu() @ state[layer + _DOWN].cpu()
            parts[name] = value
        else:
            weights[f"{layer}.{kind}" if base else name] = value
    return weights, parts


def split(weights: Mapping[str, torch.Tensor], parts: Mapping[str, torch.Tensor]) -> State:
    """The state that `merge` was given, from what it returned."""
    layers = {name.removesuffix(f"{_BASE}weight") for name in parts if name.endswith(f"{_BASE}weight")}
    state = dict(parts)
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".")
        if layer not in layers:
            state[name] = value
        elif kind != "weight":
            state[f"{layer}{_BASE}{kind}"] = value
    return state


def merge_states(content: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's content with the weights of a model with adapters merged, and their parts in entries of their own.

    The average of the weights has the frozen W of the weights themselves, which are kept once.
    """
    merged = dict(content)
    for entry, beside in ENTRIES.items():
        if entry in content:
            weights, parts = merge(content[entry])
            if parts:
                kept = {name: value for name, value in parts.items() if entry == "model" or _BASE not in name}
                merged |= {entry: weights, beside: kept}
    return merged


def split_states(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content that `merge_states` was given, from what it returned; of a checkpoint without adapters, itself."""
    found = dict(content)
    for entry, beside in ENTRIES.items():
        if beside in content:
            found[entry] = split(content[entry], {**content["lora"], **content[beside]})
    return found
