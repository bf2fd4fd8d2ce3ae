"""Features on Ray: a task makes one shard; its worker loads the model for the first and keeps it."""

import argparse
import functools
import logging
import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.errors import DATA_ERRORS
from engine.distributed.launch import LaunchEnv
from engine.distributed.world import World, choose_device
from engine.errors import USER_ERRORS, ConfigError, one_line
from inference.features import Plan, missing_shards
from inference.load import Loaded
from models import ModelError
from scripts.data.processes import Result, Task
from scripts.data.ray_engine import run_with_ray
from scripts.feature_making import make, open_model

logger = logging.getLogger(__name__)

_TOLD: tuple[type[Exception], ...] = (*USER_ERRORS, *DATA_ERRORS, ModelError)  # by what they say alone


@dataclass(frozen=True)
class ShardMaker:
    """What a worker calls with a `share` of the plan: number of a shard, and of all.

    Attributes:
        work: pickled: the command line, its plan, the kind of device and the folder that relative paths start from.
    """

    work: bytes

    def __call__(self, share: tuple[int, int]) -> Result:
        try:
            args, plan, loaded, world = _opened(self.work)
            make(args, plan, loaded, world, num_workers=0, share=share)  # a worker is a daemon, without children
        except _TOLD as error:
            return {"error": one_line(str(error))}
        return {}


@functools.lru_cache(maxsize=1)
def _opened(work: bytes) -> tuple[argparse.Namespace, Plan, Loaded, World]:
    """What the shards of a worker have in common.

    Raises:
        ConfigError: the command's folder is not on this machine; the checkpoint is another one by now.
    """
    args, plan, device, folder = pickle.loads(work)
    if not os.path.isdir(folder):
        raise ConfigError(f"{folder}: not on all machines of the Ray cluster: start the command in a folder that is")
    os.chdir(folder)
    world = World(0, 1, 0, choose_device(device, LaunchEnv(0, 1, 0, "python")))
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    loaded = open_model(args, world)
    if loaded.digest != plan.key["checkpoint"]:
        raise ConfigError(f"{args.checkpoint}: it was overwritten meanwhile: give the same command with another folder")
    return args, plan, loaded, world


def make_with_ray(args: argparse.Namespace, plan: Plan, world: World) -> None:
    """Make the shards of a plan, several, that are missing; `extract` puts them together.

    Raises:
        ConfigError: a shard cannot be made; Ray does not start.
    """
    shards = plan.shards()
    left = missing_shards(plan, world, rebuild=args.rebuild)
    tasks = [Task(str(number), (number, len(shards))) for number in left]
    gpus = torch.cuda.device_count() if world.device.type == "cuda" else 0
    maker = ShardMaker(pickle.dumps((args, plan, world.device.type, str(Path.cwd()))))
    if left:
        logger.info("%s: %d of %d shards are there", plan.folder, len(shards) - len(left), len(shards))
    results = run_with_ray(tasks, maker, workers=args.workers, timeout=math.inf, gpus=gpus)
    for done, (task, result) in enumerate(results, start=1):
        if "error" in result:
            shard = shards[int(task.key)]
            raise ConfigError(f"rows {shard.start} to {shard.stop - 1}: {result['error']}")
        logger.info("features: %d of %d shards", len(shards) - len(left) + done, len(shards))
