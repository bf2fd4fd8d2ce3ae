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

from ..errors import ConfigError
from .launch import LaunchEnv, read_launch_env

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=10)  # the machines of a job do not start in the same minute
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)  # of every collective

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


def choose_device(name: str, launch: LaunchEnv) -> torch.device:
    """`auto`: this rank's GPU if there is one, else the CPU. A GPU that is asked for must exist."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ConfigError(f"--device {name}: choose from auto, cpu, cuda")
    # Slurm may show each task its own GPU only, which is number 0 for all of them.
    number = 0 if available == 1 and launch.launcher == "srun" else launch.local_rank
    if number >= available:
        raise ConfigError(
            f"--device cuda: local rank {number} needs a GPU of its own, {available} found; "
            "start fewer processes, or use --device cpu"
        )
    return torch.device("cuda", number)


@contextmanager
def distributed(device_name: str) -> Iterator[World]:
    """Join the process group if there is more than one process, and leave it again.

    Raises:
        ConfigError: no GPU for this rank, variables of the launcher that contradict each other, or processes that do
            not find each other.
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
            gc.collect()  # collect DDP's reducer first: its threads abort the interpreter if they outlive the group
            dist.destroy_process_group()
            time.sleep(0.2)


@contextmanager
def _torchrun_env(launch: LaunchEnv) -> Iterator[None]:
    """Under srun alone, torchrun's variables, which torch and DeepSpeed read."""
    added = {k: v for k, v in launch.torchrun_env.items() if k not in os.environ} if launch.launcher == "srun" else {}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _init_process_group(launch: LaunchEnv, device: torch.device) -> None:
    """Meet the other processes, and make the process group with them."""
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
        # After a restart torchrun's store still holds the addresses of processes that are gone.
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
            f"{launch.master_addr}, MASTER_PORT {launch.master_port} within {RENDEZVOUS_TIMEOUT}. Did all start, can "
            f"all reach this address, is the port free there? ({str(error).splitlines()[0]})"
        ) from error


def _check_same_device(store: dist.Store, launch: LaunchEnv, device: torch.device) -> None:
    """Raise ConfigError if some ranks have a GPU and others do not: each kind would wait for the other for ever."""
    names = [f"device of rank {rank}" for rank in range(launch.size)]
    store.set(names[launch.rank], device.type)
    store.wait(names, RENDEZVOUS_TIMEOUT)
    without = [rank for rank, kind in enumerate(store.multi_get(names)) if kind != b"cuda"]
    if 0 < len(without) < launch.size:
        raise ConfigError(
            f"ranks {without} of {launch.size} have no GPU and the others have: look at their machines (nvidia-smi), "
            "or use --device cpu"
        )


def _exit_immediately(error: BaseException) -> NoReturn:
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
