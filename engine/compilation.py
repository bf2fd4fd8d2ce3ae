"""Per-block torch.compile (`--compile`)."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from .errors import ConfigError

# Graphs per block: encoder and decoder, with and without stochastic depth, evaluation, smaller last batches.
_RECOMPILE_LIMIT = 32


def compile_blocks(device: torch.device, *stacks: Iterable[nn.Module]) -> None:
    """Compile the blocks of each stack in place, lazily and with static shapes.

    Regional compilation instead of the whole model: identical blocks share compiled code, which takes seconds; DDP
    overlaps the all-reduce of one block with the backward pass of the next; activation checkpointing works unchanged.
    Parameter names and module state do not change.

    Raises:
        ConfigError: torch cannot compile on this machine.
    """
    _check_compiler(device)
    for stack in stacks:
        for block in stack:
            block.compile(dynamic=False)
    # All blocks share one code object and thus one limit. (torch.compiler.config has no such setting in torch 2.10.)
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _RECOMPILE_LIMIT)


def _check_compiler(device: torch.device) -> None:
    """Compile a trivial function: torch checks for a compiler only then, and its own message is a page long."""
    if device.type == "cpu" and " " in torch.__file__:  # torch 2.13 does not quote the path for the linker
        raise ConfigError(
            f"--compile: torch cannot compile from {Path(torch.__file__).parent}, because of the blank in that path: "
            "create the environment in another folder, or leave the flag out"
        )
    try:
        torch.compile(torch.add, dynamic=False)(torch.zeros(2, device=device), 1)
    except RuntimeError as error:  # raised for a missing compiler, headers or Triton
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--compile: torch cannot compile for {device.type} here ({reason}): install a C++ compiler "
            "(apt-get install g++), on a GPU also triton, or leave the flag out"
        ) from error
