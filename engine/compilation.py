"""Compiled transformer blocks, for `--compile`."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from .errors import ConfigError

_RECOMPILE_LIMIT = (
    32  # of a block, at most: of encoder and decoder, without stochastic depth, in evaluation, its last batches
)


def compile_blocks(device: torch.device, *stacks: Iterable[nn.Module]) -> None:
    """Compile the blocks of each stack, in place, when they first run; for shapes that stay as they are.

    Block by block and not the network as one: equal blocks share what is compiled, so that it takes seconds; DDP sends
    the gradients of one block while those of the next are computed; and recomputation works as it does without. Names
    of weights and the state of the modules do not change.

    Raises:
        ConfigError: nothing can be compiled on this machine.
    """
    _check_compiler(device)
    for stack in stacks:
        for block in stack:
            block.compile(dynamic=False)
    # All blocks share one code object, and so one limit. (torch.compiler.config has this setting too, but not in torch
    # 2.10.)
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _RECOMPILE_LIMIT)


def _check_compiler(device: torch.device) -> None:
    """Compile next to nothing: torch looks for a compiler only then, and its own message is a page long."""
    if device.type == "cpu" and " " in torch.__file__:  # torch 2.13 hands it to the linker as several words
        raise ConfigError(
            f"--compile: torch cannot compile from {Path(torch.__file__).parent}, because of the blank in that path: "
            "make the environment in another folder, or leave the flag out"
        )
    try:
        torch.compile(torch.add, dynamic=False)(torch.zeros(2, device=device), 1)
    except RuntimeError as error:  # what torch raises for all that can be missing: a compiler, headers, Triton
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--compile: torch cannot compile for {device.type} here ({reason}): install a C++ compiler "
            "(apt-get install g++), on a GPU also triton, or leave the flag out"
        ) from error
