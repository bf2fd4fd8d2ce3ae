"""Per-block torch.compile (`--compile`, `--no_compile`): whether, and how."""

import dataclasses
import logging
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..config import RunConfig, TrainingConfig
from ..distributed.collectives import gather_objects
from ..distributed.world import World
from ..errors import ConfigError
from ..resilience.preemption import SIGNALS

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=TrainingConfig)

# Graphs per block: encoder and decoder, with and without stochastic depth, evaluation, smaller last batches.
_RECOMPILE_LIMIT = 32


def with_compilation(config: C, world: World) -> C:
    """The options with `compile` decided, equally on all ranks; every rank must call it.

    Without `--compile` and `--no_compile` a GPU compiles, unless torch cannot there, which gives a warning and the same
    run uncompiled, or `compiles_by_default` says no. All ranks compile or none does: a rank that does not would let the
    others wait in every step, and its numbers would differ from theirs in rounding.

    Raises:
        ConfigError: `--compile`, and torch cannot compile on the machine of some rank.
    """
    run = config.run
    wanted = compiles_by_default(run, world.device) if run.compile is None else run.compile
    if wanted:
        reasons = gather_objects(_reason_not_to(world.device))
        failed = [rank for rank, reason in enumerate(reasons) if reason]
        if failed:
            where = f"rank {failed[0]} of {world.size}: " if world.size > 1 else ""
            if run.compile:
                raise ConfigError(f"--compile: {where}{reasons[failed[0]]}, or leave the flag out")
            logger.warning(
                "the transformer blocks are not compiled, so training is slower: %s%s; --no_compile for no warning",
                where,
                reasons[failed[0]],
            )
        wanted = not failed
    return dataclasses.replace(config, run=dataclasses.replace(run, compile=wanted))


def compiles_by_default(run: RunConfig, device: torch.device) -> bool:
    """Whether blocks are compiled where no flag says so: on a GPU.

    Not with `--deterministic`: generated kernels are chosen by timing them, so another start may sum in another order.
    Not with DeepSpeed, whose hooks inside the blocks have not been tried with compiled ones on a GPU.
    """
    return device.type == "cuda" and not run.deterministic and not run.enable_deepspeed


def compile_blocks(*stacks: Iterable[nn.Module]) -> None:
    """Compile the blocks of each stack in place, lazily and with static shapes.

    Regional compilation instead of the whole model: identical blocks share compiled code, which takes seconds; DDP
    overlaps the all-reduce of one block with the backward pass of the next; activation checkpointing works unchanged.
    Parameter names and module state do not change.
    """
    settings = torch._dynamo.config
    # Inside DDP torch cuts a graph at the borders of DDP's buckets, for the all-reduce of one to overlap the backward
    # pass of the rest. Blocks overlap with one another already; a block of ViT-B would be cut in two.
    settings.optimize_ddp = False
    for stack in stacks:
        for block in stack:
            block.compile(dynamic=False)
    # All blocks share one code object and thus one limit. (torch.compiler.config has no such setting in torch 2.10.)
    settings.recompile_limit = max(settings.recompile_limit, _RECOMPILE_LIMIT)


def _reason_not_to(device: torch.device) -> str:
    """Why torch cannot compile here, with the remedy, in one line; "" if it can.

    Compiles a trivial function: torch checks for a compiler only then, and its own message is a page long.
    """
    if device.type == "cpu" and " " in torch.__file__:  # torch 2.13 does not quote the path for the linker
        return (
            f"torch cannot compile from {Path(torch.__file__).parent}, because of the blank in that path: "
            "create the environment in another folder"
        )
    # Here torch starts the processes that compile, and they inherit the blocked signals. Slurm sends these to every
    # process of a job, and without its compiling processes a run would fail before it has saved.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        torch.compile(torch.add, dynamic=False)(torch.zeros(2, device=device), 1)
    except Exception as error:  # noqa: BLE001  # no compiler, headers or Triton, an old GPU: each has its own type
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        needed = "a C compiler, Python's headers (apt-get install gcc python3-dev) and triton"
        remedy = needed if device.type == "cuda" else "a C++ compiler (apt-get install g++)"
        return f"torch cannot compile for {device.type} here ({reason}): install {remedy}"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ""
