"""Process group set-up under torchrun, srun or a single process, collectives, and seeding."""

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

from ..errors import ConfigError
from .launch import LaunchEnv, read_launch_env

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=10)  # the nodes of a job may start minutes apart
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)  # of every collective

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank and device of this process, and the world size."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on rank 0, the process that logs and writes files."""
        return self.rank == 0


def choose_device(name: str, launch: LaunchEnv) -> torch.device:
    """Device of this rank; `auto` is the GPU if there is one, else the CPU. Raises ConfigError without the GPU."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ConfigError(f"--device {name}: choose from auto, cpu, cuda")
    # Slurm may expose only one GPU to each task, which has index 0 in every task.
    number = 0 if available == 1 and launch.launcher == "srun" else launch.local_rank
    if number >= available:
        raise ConfigError(
            f"--device cuda: local rank {number} needs a GPU of its own, {available} found; "
            "start fewer processes, or use --device cpu"
        )
    return torch.device("cuda", number)


@contextmanager
def distributed(device_name: str) -> Iterator[World]:
    """Context manager: initialize the process group if there are several processes, and destroy it on exit.

    Raises:
        ConfigError: no GPU for this rank, inconsistent variables of the launcher, or a rendezvous that times out.
    """
    launch = read_launch_env(os.environ)
    device = choose_device(device_name, launch)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _torchrun_env(launch):
        if launch.size > 1:
            _init_process_group(launch, device)
        try:
            yield World(launch.rank, launch.size, launch.local_rank, device)
        except BaseException as error:
            if launch.size > 1:
                _exit_immediately(error)
            raise
        if dist.is_initialized():
            gc.collect()  # free DDP's reducer first: its threads abort the interpreter if they outlive the group
            dist.destroy_process_group()
            time.sleep(0.2)


@contextmanager
def _torchrun_env(launch: LaunchEnv) -> Iterator[None]:
    """Set torchrun's variables, which torch and DeepSpeed read, under srun."""
    added = {k: v for k, v in launch.torchrun_env.items() if k not in os.environ} if launch.launcher == "srun" else {}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _init_process_group(launch: LaunchEnv, device: torch.device) -> None:
    """Rendezvous with the other processes and initialize the process group."""
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
        # After a restart torchrun's store still holds the addresses of the previous processes.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        _check_same_device(store, launch, device)
        store.set_timeout(COLLECTIVE_TIMEOUT)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    except dist.DistError as error:
        raise ConfigError(
            f"rank {launch.rank} of {launch.size}, started by {launch.launcher}: not all of them met at MASTER_ADDR "
            f"{launch.master_addr}, MASTER_PORT {launch.master_port} within {RENDEZVOUS_TIMEOUT}. Did all ranks "
            f"start, can all reach this address, is the port free there? ({str(error).splitlines()[0]})"
        ) from error


def _check_same_device(store: dist.Store, launch: LaunchEnv, device: torch.device) -> None:
    """Raise ConfigError if only some ranks have a GPU: NCCL and Gloo ranks would wait for each other forever."""
    names = [f"device of rank {rank}" for rank in range(launch.size)]
    store.set(names[launch.rank], device.type)
    store.wait(names, RENDEZVOUS_TIMEOUT)
    without = [rank for rank, kind in enumerate(store.multi_get(names)) if kind != b"cuda"]
    if 0 < len(without) < launch.size:
        raise ConfigError(
            f"ranks {without} of {launch.size} have no GPU and the others have: check their nodes with nvidia-smi, "
            "or use --device cpu"
        )


def _exit_immediately(error: BaseException) -> NoReturn:
    """Exit without destroying the process group, which would wait for ranks that wait for this one in a collective.

    The launcher notices the exit and stops the other ranks.
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
    """All-gather of picklable objects, in rank order."""
    if not dist.is_initialized():
        return [obj]
    objects: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(objects, obj)
    return objects


def on_main_process(world: World, work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and broadcast its result; an error there is raised on all ranks."""
    outcome: tuple[T | None, Exception | None] = None, None
    if world.is_main:
        try:
            outcome = work(), None
        except (OSError, RuntimeError, ValueError) as failure:  # any other error is a bug and ends this rank
            outcome = None, failure
    result, error = gather_objects(outcome)[0]
    if error is not None:
        raise error
    return result


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def main_process_first(world: World) -> Iterator[None]:
    """Rank 0 runs the block before the others, so that they find its downloads in the cache."""
    if not world.is_main:
        barrier()
    yield
    if world.is_main:
        barrier()


def use_deterministic_algorithms() -> None:
    """Use only deterministic algorithms in torch; it raises an error where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    torch.use_deterministic_algorithms(True)


def seed_everything(seed: int, rank: int) -> None:
    """Seed random, numpy and torch differently on every rank. Models are built before, with the same seed."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)  # noqa: NPY002  (timm's Mixup uses this generator)
    torch.manual_seed(seed + rank)
