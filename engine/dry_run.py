"""`--dry_run`: each step of the run once, at small scale, and an estimate of what the whole run needs."""

import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpointing.checkpoint import Checkpointer
from .checkpointing.io import read_checkpoint
from .checkpointing.resume import restore
from .config import RunConfig
from .distributed.collectives import all_reduce_sum, gather_to_main
from .distributed.world import World, barrier, on_main_process
from .errors import NonFiniteError
from .evaluation import Evaluator
from .memory import GIB, most_resident
from .monitoring.console import format_seconds
from .monitoring.metrics import log_table, setup_logging
from .resilience.nonfinite import RollbackRequested
from .training import Trainer

logger = logging.getLogger(__name__)

STEPS = 3  # the first warms up; of the others the faster one counts
SLOW_STEP = 10.0  # seconds on a CPU, where warming up is a small part of such a step: it is the only one


@contextmanager
def scratch_output(run: RunConfig, world: World) -> Iterator[RunConfig]:
    """With `--dry_run`, let the run write into a new folder inside `--output_dir`, and remove it afterwards.

    Yields the options with the folders that are to be used. What is in `--output_dir` is neither resumed nor touched;
    folders on the way to it that were not there go again. Without `--output_dir` nothing is written, not even to
    `--log_dir`.
    """
    if not run.dry_run:
        yield run
        return
    if not run.output_dir:
        yield replace(run, log_dir=None)
        return
    output_dir = Path(run.output_dir)
    missing = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
    name = on_main_process(world, lambda: f"dry_run-{os.getpid()}")
    scratch = output_dir / name
    events = str(scratch / "events") if run.log_dir else None
    try:
        yield replace(run, output_dir=str(scratch), log_dir=events)
        barrier()
    finally:
        setup_logging(world, "")  # closes the scratch folder's console.txt
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in missing:
            _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:  # another process was faster, or has put something there
        logger.debug("%s: %s", folder, error)


@dataclass(frozen=True)
class Passes:
    """Passes of a run over a list that is evaluated, of which the dry run does one batch, if this rank has any."""

    name: str
    loader: Any
    number: int  # in the whole run
    evaluate: Callable[[Sequence[Any]], None]  # batches

    def seconds(self, device: torch.device) -> float:
        """All the passes, judged by the list's first batch."""
        began = time.perf_counter()
        batches = list(itertools.islice(self.loader, 1))
        if device.type == "cuda":  # compiling and loading of libraries happen once
            warm_up = time.perf_counter()
            self.evaluate(batches)
            torch.cuda.synchronize(device)
            began += time.perf_counter() - warm_up
        self.evaluate(batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) * len(self.loader) * self.number


def evaluation_passes(
    evaluator: Evaluator, models: Mapping[str, nn.Module], numbers: Mapping[str, int]
) -> list[Passes]:
    """What a run evaluates besides its training; `numbers` says how often each list, if there is such a list."""
    return [
        Passes(name, evaluator.loaders[name], number, partial(evaluator.evaluate_batches, models))
        for name, number in numbers.items()
        if name in evaluator.loaders
    ]


def rehearse(trainer: Trainer, loader: Any, *, world: World, evaluations: Sequence[Passes] = ()) -> None:
    """A few updates, a checkpoint saved and loaded, a batch evaluated; then a table of what the run needs.

    Args:
        loader: of one rank, as for `fit`.

    Raises:
        NonFiniteError: the gradient is not finite from the start, and `--on_nonfinite` does not let that pass.
    """
    step_time, data_time, num_steps = _train(trainer, loader)
    clips_per_second = trainer.meter.clips_per_step / step_time
    rows = {"time per step": f"{step_time:.3f} s (data {data_time:.3f}), {clips_per_second:.1f} clips/s"}
    rows |= _save_and_load(trainer, world, validates=any(passes.name == "val" for passes in evaluations))
    training = (trainer.schedule.total_steps - trainer.state.step + num_steps) * step_time
    log_table("dry run", rows | _time_of_run({"training": training}, evaluations, world) | memory_by_rank(world))


def rehearse_test(evaluations: Sequence[Passes], *, world: World) -> None:
    """`rehearse` for a run that only tests."""
    log_table("dry run", _time_of_run({}, evaluations, world) | memory_by_rank(world))


def _time_of_run(parts: dict[str, float], evaluations: Sequence[Passes], world: World) -> dict[str, str]:
    """The sum of the parts and of the evaluations."""
    parts = parts | {passes.name: passes.seconds(world.device) for passes in evaluations}
    words = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in parts.items())
    return {"time of the run": f"about {format_seconds(sum(parts.values()))} ({words})"}


def _train(trainer: Trainer, loader: Any) -> tuple[float, float, int]:
    """Seconds of an update after the first, of these those that it waited for its data, and how many were made."""
    trainer.backend.model.train()
    batches = _endless(loader)
    times: list[tuple[float, float]] = []
    of_run, trainer.meter.total_steps = trainer.meter.total_steps, STEPS  # on the console
    while len(times) < STEPS and not _is_slow(times, trainer.backend.world):
        number = len(times)
        trainer.meter.restart_clock()
        lr, sums = trainer.update(batches, 0, is_log_step=number + 1 == STEPS)
        trainer.step_log.start(number, epoch=0, lr=lr, sums=sums, after_warmup=False, is_written=False)
        try:
            record = trainer.step_log.finish()  # waits for the device
        except RollbackRequested as request:  # to where? nothing has been saved
            raise NonFiniteError(str(request)) from request
        times.append((record["train/step_time"], record["train/data_time"]))
    trainer.meter.total_steps = of_run
    return *min(times[1:] or times), len(times)


def _is_slow(times: Sequence[tuple[float, float]], world: World) -> bool:
    """Whether the first update says enough, the same on all ranks."""
    if len(times) != 1 or world.device.type != "cpu":
        return False
    return bool(all_reduce_sum(torch.tensor(float(times[0][0] > SLOW_STEP))))


def _endless(loader: Any) -> Iterator[Any]:
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def _save_and_load(trainer: Trainer, world: World, *, validates: bool) -> dict[str, str]:
    """A checkpoint as the run writes them, where it writes any: its size and times, and the room that all will need."""
    checkpointer, state = trainer.checkpointer, trainer.state
    if not checkpointer.output_dir:
        return {"checkpoints": "none: no --output_dir"}
    folder, epoch = Path(checkpointer.output_dir), state.epoch
    state.epoch = max(epoch, 0)  # the file is named after it
    began = time.perf_counter()
    with checkpointer.writer:
        checkpointer.after_epoch(state, last=True)
        checkpointer.finish()
    saved = time.perf_counter()
    (path,) = folder.glob("checkpoint-*.pth")
    restore(state, on_main_process(world, lambda: read_checkpoint(path)), world=world, path=path)
    loaded = time.perf_counter()
    state.epoch = epoch
    size, free = path.stat().st_size, shutil.disk_usage(folder).free
    number = num_checkpoints(checkpointer, trainer.schedule.epochs, validates=validates)
    if number * size > free:
        logger.warning("the checkpoints of the run will not fit: %.2f GiB are free", free / GIB)
    return {
        "checkpoint": f"{size / GIB:.3f} GiB, saved in {saved - began:.2f} s, loaded in {loaded - saved:.2f} s",
        "disk for checkpoints": f"{number} x = {number * size / GIB:.2f} GiB; {free / GIB:.1f} GiB are free",
    }


def num_checkpoints(checkpointer: Checkpointer, epochs: int, *, validates: bool) -> int:
    """Files of a whole run that is not stopped, at most: see `Checkpointer`."""
    lasting = -(-epochs // checkpointer.save_every)
    passing = checkpointer.keep if checkpointer.save_steps or validates else 0
    return lasting + passing + validates


def memory_by_rank(world: World) -> dict[str, str]:
    """Peak memory of every rank so far, of its GPU, or of its process; on rank 0."""
    if world.device.type == "cuda":
        device = world.device
        peak = torch.cuda.max_memory_reserved(device) / GIB
        used = f"{peak:.2f} of {torch.cuda.get_device_properties(device).total_memory / GIB:.1f} GiB of GPU memory"
    else:
        used = f"{most_resident() / GIB:.2f} GiB of host memory"
    return {f"memory of rank {rank}": text for rank, text in enumerate(gather_to_main(used))}
