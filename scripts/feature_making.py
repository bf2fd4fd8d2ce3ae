"""From a command line and a plan to features: the model, its loader, and the shards that one process makes."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)
from datasets.loading.batch import Batch
from datasets.loading.loaders import LoaderConfig, build_eval_loader
from engine.checkpointing.read_weights import StartConfig
from engine.distributed.ddp import autocast
from engine.distributed.world import World
from inference.features import Plan, extract
from inference.load import Loaded, load
from inference.sources import Sample, as_list
from inference.views import view_dataset, with_sampling_rate


def open_model(args: argparse.Namespace, world: World) -> Loaded:
    """The checkpoint of a command line. Every rank must call it."""
    start = StartConfig(model_key=args.model_key, trust_checkpoint=args.trust_checkpoint)
    sizes: Any = {"num_frames": args.num_frames, "input_size": args.input_size, "positions": args.positions}
    return with_sampling_rate(load(args.checkpoint, start, world=world, **sizes), args.sampling_rate)


def has_norm(args: argparse.Namespace, loaded: Loaded) -> bool:
    """Whether tokens go through the encoder's final norm; a fine-tuned classifier that pools has none."""
    return loaded.has_final_norm and not args.no_final_norm


def make(
    args: argparse.Namespace,
    plan: Plan,
    loaded: Loaded,
    world: World,
    *,
    num_workers: int,
    share: tuple[int, int] = (0, 1),
    rebuild: bool = False,
) -> np.ndarray | None:
    """`extract` with the model and the videos of a command line; see there.

    Args:
        num_workers: of the loader; a process that is a daemon may have none.
    """
    samples = [Sample(row.path, row.span) for row in plan.rows]
    dataset: Any = view_dataset(as_list(samples), loaded.clip, args.views)
    loader = LoaderConfig(num_workers=num_workers, decode_timeout=args.decode_timeout)
    kwargs = loader.kwargs(rank=0, world_size=1, device=world.device)  # a rank reads what its shards ask for

    def batches(places: Sequence[int]) -> Iterable[Batch]:
        loaded.model.to(world.device)
        return build_eval_loader(Subset(dataset, places), batch_size=plan.batch, **kwargs)

    def encode(clips: torch.Tensor) -> torch.Tensor:
        with autocast(world.device, plan.key["encoding"]["amp"]):
            tokens = [loaded.tokens(part, final_norm=has_norm(args, loaded)) for part in clips.split(args.batch_size)]
        found = torch.cat(tokens).float()
        return found if args.tokens else found.mean(dim=1)

    return extract(plan, world, batches=batches, encode=encode, rebuild=rebuild, share=share)
