"""Process group set-up under torchrun, srun or a single process, work of one rank for all, and seeding."""

import datetime
import gc
import json
import logging
import os
import platform
import random
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

from ..errors import ConfigError
from .collectives import all_reduce_sum, broadcast_from_main, gather_objects
from .launch import LaunchEnv, read_launch_env

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=10)  # the nodes of a job may start minutes apart
LAST_READ_TIMEOUT = datetime.timedelta(minutes=1)
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)  # of every collective

EXPECTED = (OSError, RuntimeError, ValueError)  # any other error is a bug, and ends the rank that has it

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """Rank and device of this process, its rank on its node, and the world size."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on rank 0, the process that logs and writes files."""
        return self.rank == 0

    @property
    def is_node_main(self) -> bool:
        """True on one rank of every node: the first, local rank 0."""
        return self.local_rank == 0


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
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
        # After a restart torchrun's store still holds the addresses of the previous processes.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        _check_same_device(store, launch, device)
        store.set_timeout(COLLECTIVE_TIMEOUT)
        dist.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=COLLECTIVE_TIMEOUT,
            # NCCL connects now, where an error can be explained, and knows the GPU of a barrier.
            device_id=device if device.type == "cuda" else None,
        )
    except dist.DistBackendError as error:
        raise ConfigError(
            f"rank {launch.rank} of {launch.size} on {platform.node()}: {backend} cannot connect the "
            f"ranks: {textwrap.shorten(str(error), 600)} (NCCL_DEBUG=INFO in the environment makes it say more)"
        ) from error
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
    if launch.rank == 0:  # alone: if every rank asked for every other one, the store would answer size^2 times
        store.wait(names, RENDEZVOUS_TIMEOUT)
        ranks = [rank for rank, kind in enumerate(store.multi_get(names)) if kind != b"cuda"]
        store.set("ranks without a GPU", json.dumps(ranks))
    store.wait(["ranks without a GPU"], RENDEZVOUS_TIMEOUT)
    without = json.loads(store.get("ranks without a GPU"))
    if 0 < len(without) < launch.size:
        _leave_after_others(store, launch)
        raise ConfigError(
            f"ranks {without} of {launch.size} have no GPU and the others have: check their nodes with nvidia-smi, "
            "or use --device cpu"
        )


def _leave_after_others(store: dist.Store, launch: LaunchEnv) -> None:
    """Rank 0 may hold the store: it waits until every other rank has read what it needs and called this."""
    names = [f"rank {rank} needs nothing more" for rank in range(launch.size)]
    store.set(names[launch.rank], "")
    if launch.rank == 0:
        try:
            store.wait(names, LAST_READ_TIMEOUT)
        except dist.DistError as error:  # a rank that has died meanwhile reads nothing
            logger.debug("waiting for the other ranks: %s", error)


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


def on_main_process(world: World, work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and broadcast its result; an error there is raised on all ranks.

    Tensors in dictionaries and lists of the result are sent as such, and arrive in host memory: a file is read once,
    however many ranks there are.
    """
    outcome: tuple[T | None, Exception | None] = None, None
    if world.is_main:
        outcome = _outcome(work)
    result, error = broadcast_from_main(outcome)
    if error is not None:
        raise error
    return result


def main_process_first(world: World, work: Callable[[], T]) -> T:
    """Run `work` on all ranks: on rank 0 first, then on one of every other node, then on the rest.

    What the first one leaves on a shared file system the others find there, and what is kept on a node (a cache of
    downloads) is fetched once a node. `work` must contain no collective. An error is raised on all ranks.
    """
    outcome: tuple[T | None, Exception | None] = None, None
    turns = (world.is_main, world.is_node_main and not world.is_main, not world.is_node_main)
    for is_our_turn in turns if world.size > 1 else (True,):
        if is_our_turn:
            outcome = _outcome(work)
        raise_any(outcome[1], world)
    return cast("T", outcome[0])


def on_every_rank(world: World, work: Callable[[], T]) -> T:
    """Run `work` on all ranks at once; an error on one is raised on all of them, when each has done its own."""
    result, failure = _outcome(work)
    raise_any(failure, world)
    return cast("T", result)


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What `work` returns, or the error that it ends with."""
    try:
        return work(), None
    except EXPECTED as failure:
        return None, failure


def raise_any(error: Exception | None, world: World) -> None:
    """Wait for all ranks, and raise the error of the lowest one that has any, on all of them."""
    if int(all_reduce_sum(torch.tensor(int(error is not None), device=world.device))):
        raise next(failure for failure in gather_objects(error) if failure is not None)


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def announce(word: str) -> None:
    """Tell the ranks that `wait_for` this word. No collective: the others may be anywhere, or gone."""
    if dist.is_initialized():
        try:
            dist.distributed_c10d._get_default_store().set(word, "")
        except dist.DistError as error:  # the launcher, which keeps the store, has ended already
            logger.debug("announcing %s: %s", word, error)


def was_announced(word: str) -> bool:
    """Whether a rank has announced the word; asks the store, and waits for no rank."""
    if not dist.is_initialized():
        return False
    try:
        return bool(dist.distributed_c10d._get_default_store().check([word]))
    except dist.DistError as error:  # the launcher, which keeps the store, has ended already
        logger.debug("asking for %s: %s", word, error)
        return False


def wait_for(word: str, timeout: datetime.timedelta) -> bool:
    """Wait until a rank announces the word, or until none can, because the store is gone; False after `timeout`."""
    if dist.is_initialized():
        try:
            dist.distributed_c10d._get_default_store().wait([word], timeout)
        except dist.DistNetworkError as error:
            logger.debug("waiting for %s: %s", word, error)
        except dist.DistStoreError:
            return False
    return True


def use_deterministic_algorithms() -> None:
    """Use only deterministic algorithms in torch; it raises an error where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    torch.use_deterministic_algorithms(True)


def seed_everything(seed: int, rank: int) -> None:
    """Seed random, numpy and torch differently on every rank. Models are built before, with the same seed."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)  # noqa: NPY002  (timm's Mixup uses this generator)
    torch.manual_seed(seed + rank)
