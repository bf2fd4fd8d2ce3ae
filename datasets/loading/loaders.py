"""Data loaders of one rank.

Training samples are asked for by (epoch, index) and depend on nothing else, so a batch is the same whatever the number
of workers, and a global batch the same whatever the number of ranks it is split over.
"""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, Options, Rule, option

from .batch import WorkerCollate
from .orders import BalancedOrder, Order, ShuffledOrder
from .prefetch import DevicePrefetcher
from .samplers import EvalSampler, TrainSampler
from .workers import DECODE_TIMEOUT, SeededByEpoch, init_worker, set_timeout, stop_signals_blocked, watch_folder

# Said twice for each loader, over two lines; `LoaderConfig.describe` says it in the table of the data.
warnings.filterwarnings("ignore", message="This DataLoader will create")
_TIMEOUTS_PER_BATCH = 10  # of a clip: after so long without a batch the loader gives up
_LEAST_TIMEOUT = 5.0  # seconds; workers have to start before they can give a batch


Collate = Callable[[Sequence[Any]], Any]
WORKERS = Rule(lambda number: 0 <= number <= 1024, "must be between 0 and 1024")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Options):
    """How batches come about."""

    decoder: str = option(
        "auto", "library that decodes the videos; auto: PyAV", choices=("auto", "decord", "pyav", "torchcodec")
    )
    num_workers: int = option(10, "loader processes per rank", rule=WORKERS)
    decode_timeout: float = option(
        60.0,
        "end the run, naming the video, when reading a clip takes longer; 0: no limit",
        rule=NOT_NEGATIVE,
        metavar="SECONDS",
    )
    gpu_prefetch: bool = option(
        True,
        "copy and normalise the next batch on the GPU during a training step; on a CPU: no effect",
        switch="pair",
        off="--no_gpu_prefetch",
    )
    samples_per_epoch: int | None = option(
        None, "videos of an epoch; default: those of the list", rule=AT_LEAST_ONE, metavar="N"
    )
    pin_mem: bool = option(True, "page-locked host memory for batches", switch="pair", off="--no_pin_mem")

    def describe(self) -> str:
        """The workers of a process, in words."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        more = f", more than this machine's {cores} cores: see --num_workers" if self.num_workers > cores else ""
        return f"{self.num_workers} per process{more}"

    def kwargs(self, *, rank: int, world_size: int, device: torch.device) -> dict[str, Any]:
        """Keyword arguments of `build_train_loader` and `build_eval_loader` for one rank."""
        return {
            "rank": rank,
            "world_size": world_size,
            "num_workers": self.num_workers,
            "pin_memory": self.pin_mem and device.type == "cuda",
            "decode_timeout": self.decode_timeout,
        }

    def order(self, num_videos: int, *, seed: int, labels: Sequence[int] | None = None) -> Order:
        """The order of the training videos; with `labels`, their classes, all classes come equally often."""
        if labels is None:
            return ShuffledOrder(num_videos, length=self.samples_per_epoch, seed=seed)
        return BalancedOrder(labels, length=self.samples_per_epoch, seed=seed)

    def prefetched(self, loader: DataLoader, device: torch.device) -> DataLoader | DevicePrefetcher:
        """`loader`, with its batches copied ahead to a GPU where that is not switched off."""
        return DevicePrefetcher(loader, device) if self.gpu_prefetch and device.type == "cuda" else loader


def _build_loader(
    dataset: Dataset,
    sampler: Sampler,
    *,
    batch_size: int,
    drop_last: bool,
    num_workers: int,
    pin_memory: bool,
    seed: int,
    rank: int,
    decode_timeout: float,
    clips: int = 1,
    collate: Collate | None = None,
) -> DataLoader:
    set_timeout(decode_timeout)  # where this process reads the videos itself
    patience = max(_TIMEOUTS_PER_BATCH * clips * decode_timeout, _LEAST_TIMEOUT) if decode_timeout else 0
    return _DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate or WorkerCollate(reuse=pin_memory),
        worker_init_fn=functools.partial(
            init_worker,
            seed=seed,
            rank=rank,
            timeout=decode_timeout,
            folder=watch_folder() if num_workers else None,
        ),
        persistent_workers=num_workers > 0,
        prefetch_factor=2 if num_workers > 0 else None,
        timeout=patience if num_workers else 0,
        # without one of its own, every start of an iteration would draw from torch's global generator, and a run
        # that is resumed in mid-epoch would see other random numbers than one that is not interrupted
        generator=torch.Generator().manual_seed(seed),
    )


def build_train_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    decode_timeout: float = DECODE_TIMEOUT,
    order: Order | None = None,
    collate: Collate | None = None,
) -> DataLoader:
    """The training loader of one rank; `loader.sampler` is its TrainSampler.

    Args:
        batch_size: videos of one rank.
        order: see `TrainSampler`.
        decode_timeout: seconds after which a worker that reads one clip counts as stuck; 0: never.
        collate: samples -> batch; default: a `Batch`.
    """
    sampler = TrainSampler(
        len(dataset),  # type: ignore[arg-type]
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=seed,
        order=order,
    )
    return _build_loader(
        SeededByEpoch(dataset, seed=seed, rank=rank),
        sampler,
        batch_size=batch_size,
        drop_last=True,
        num_workers=num_workers,
        pin_memory=pin_memory,
        seed=seed,
        rank=rank,
        decode_timeout=decode_timeout,
        collate=collate,
    )


def build_eval_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    decode_timeout: float = DECODE_TIMEOUT,
) -> DataLoader:
    """The evaluation loader of one rank; `batch_size` counts videos, each of which brings all its views."""
    sampler = EvalSampler(
        len(dataset),  # type: ignore[arg-type]
        rank=rank,
        world_size=world_size,
    )
    return _build_loader(
        dataset,
        sampler,
        batch_size=batch_size,
        drop_last=False,
        num_workers=num_workers,
        pin_memory=pin_memory,
        seed=0,
        rank=rank,
        decode_timeout=decode_timeout,
        clips=getattr(dataset, "num_clips", 1),
    )


class _DataLoader(DataLoader):
    """Starts its workers with stop signals blocked, so that signals to all processes of a run do not end them."""

    def __iter__(self) -> Any:
        with stop_signals_blocked():
            return super().__iter__()
