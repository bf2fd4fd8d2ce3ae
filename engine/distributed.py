"""Start-up from torchrun, srun or a plain process, and the few collectives that are used."""

import datetime
import gc
import logging
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from engine.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one process that prints and writes."""
        return self.rank == 0


def _from_environment() -> tuple[int, int, int]:
    """Rank, world size and local rank.

    torchrun's variables come first: inside one slurm task they are right and slurm's are not. Slurm's count only in a
    step that srun started with several tasks; in a shell of an allocation they are left-overs.
    """
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    if int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in env and env.get("SLURM_STEP_ID", "").isdigit():
        return int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), int(env["SLURM_LOCALID"])
    return 0, 1, 0


def choose_device(name: str, local_rank: int) -> torch.device:
    """`auto`: this rank's GPU if there is one, else the CPU. A GPU that is asked for must exist."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ConfigError(f"--device {name}: choose from auto, cpu, cuda")
    if available == 1 and "SLURM_PROCID" in os.environ:  # slurm may show each task its own GPU only
        local_rank = 0
    if local_rank >= available:
        raise ConfigError(
            f"--device cuda: local rank {local_rank} needs a GPU of its own, {available} found; "
            "start fewer processes, or use --device cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def distributed(device_name: str) -> Iterator[World]:
    """Join the process group if there is more than one process, and leave it again."""
    rank, size, local_rank = _from_environment()
    device = choose_device(device_name, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1:
        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise ConfigError(f"{size} processes, but MASTER_ADDR and MASTER_PORT are not set: start with torchrun")
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(minutes=30),
        )
    try:
        yield World(rank, size, local_rank, device)
    except BaseException as error:
        if size > 1:
            _leave_at_once(error)
        raise
    if dist.is_initialized():
        gc.collect()  # collect DDP's reducer first: its threads abort the interpreter if they outlive the group
        dist.destroy_process_group()
        time.sleep(0.2)


def _leave_at_once(error: BaseException) -> NoReturn:
    """End this process without leaving the group, which would wait for ranks that wait in a collective for this one.

    Its end is what tells the launcher to stop them.
    """
    if not isinstance(error, SystemExit):
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all ranks, in place; the tensor itself with one process."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_objects(obj: Any) -> list[Any]:
    """Every rank's picklable object, in rank order, on all ranks."""
    if not dist.is_initialized():
        return [obj]
    objects: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(objects, obj)
    return objects


def on_main_process(world: World, work: Callable[[], T]) -> T:
    """What `work` gives on the main process, on all ranks; what it refuses there is refused by all."""
    outcome: tuple[T | None, Exception | None] = None, None
    if world.is_main:
        try:
            outcome = work(), None
        except (OSError, RuntimeError, ValueError) as error:  # any other is a fault of ours, and ends this rank
            outcome = None, error
    result, refused = gather_objects(outcome)[0]
    if refused is not None:
        raise refused
    return result


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def main_process_first(world: World) -> Iterator[None]:
    """The main process goes through the block before the others: what it downloads they find in its cache."""
    if not world.is_main:
        barrier()
    yield
    if world.is_main:
        barrier()


def use_deterministic_algorithms() -> None:
    """Have torch use only algorithms that give the same bits every time, and fail where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it for that
    torch.use_deterministic_algorithms(True)


def seed_everything(seed: int, rank: int) -> None:
    """Seed random, numpy and torch; different on every rank. Models are made before, under the common seed."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)  # noqa: NPY002  (timm's Mixup draws from this generator)
    torch.manual_seed(seed + rank)
