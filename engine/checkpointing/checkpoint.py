"""The state of training, and when it is saved."""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..distributed.ddp import Backend
from ..distributed.world import World, gather_objects
from ..errors import CheckpointError
from .files import BEST, epoch_name, remove_older_steps, step_name
from .io import AsyncWriter
from .random_state import random_state

logger = logging.getLogger(__name__)


class Ema(Protocol):
    """An average of a model's weights over the updates: `module` has them (timm's ModelEmaV3 is one)."""

    module: nn.Module

    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Take in the weights after an update."""


@dataclass
class TrainState:
    """Where training stands: all that is needed to go on as if nothing had happened."""

    backend: Backend
    ema: Ema | None = None
    epoch: int = -1  # the last one finished
    step: int = 0  # optimizer steps done
    best: float = -1.0  # best validation accuracy so far, in percent; below 0 before the first
    scaler_skips: int = 0  # of these, left out by fp16's loss scaler: the schedule does not move by them
    steps_per_epoch: int = 0
    total_batch: int = 0  # videos of an update, over all ranks
    # Of the epoch after `epoch`, where it was cut off; or, with "validate", of `epoch` itself: see `Checkpointer`.
    unfinished: dict[str, Any] | None = None

    @property
    def step_in_epoch(self) -> int:
        """Optimizer steps done of the epoch after `epoch`."""
        return self.step - (self.epoch + 1) * self.steps_per_epoch

    def content(self) -> dict[str, Any]:
        """What a checkpoint file holds of it; every rank must call this, and only the main process's is complete."""
        return {
            **self.backend.training_state(),
            "epoch": self.epoch,
            "step": self.step,
            "scaler_skips": self.scaler_skips,
            "best": self.best,
            "steps_per_epoch": self.steps_per_epoch,
            "total_batch": self.total_batch,
            **({"model_ema": self.ema.module.state_dict()} if self.ema else {}),
        }


@dataclass(frozen=True)
class Checkpointer:
    """Saves into the output folder, while training goes on.

    - `checkpoint-E.pth` after epoch E, every `save_every` epochs and after the last: these stay.
    - `checkpoint-best.pth`, with the best validation accuracy so far.
    - `checkpoint-E-stepS.pth` after S steps of epoch E, of which the newest `keep` stay: every `save_steps` optimizer
      steps, where the run is asked to stop, and before a validation. Where such a step is the last of its epoch it is
      step 0 of the next, unless there is a `checkpoint-E.pth` of it.
    """

    output_dir: str
    save_every: int
    world: World
    args: dict[str, Any]
    extra: dict[str, Any]
    save_steps: int = 0
    keep: int = 2
    writer: AsyncWriter = field(default_factory=AsyncWriter)

    @property
    def failed(self) -> bool:
        """True once a file could not be written; `finish` says why."""
        return self.writer.failed

    def after_epoch(self, state: TrainState, *, last: bool, improved: bool = False, stopping: bool = False) -> None:
        """Save if it is due. Every rank must call this: each one's random state goes into the file.

        Args:
            improved: no epoch before had a better validation accuracy.
            stopping: the run ends here, before its time.
        """
        if last or (state.epoch + 1) % self.save_every == 0:
            self._save(state, epoch_name(state.epoch), also_best=improved)
            return
        if improved:
            self._save(state, BEST)
        if stopping or self._is_due(state.step):
            self._save(state, step_name(state.epoch + 1, 0), temporary=True)

    def is_due_in_epoch(self, state: TrainState) -> bool:
        """True where `after_step` is to be called: never at the last step of an epoch, which is not done with then."""
        return bool(self.output_dir) and self._is_due(state.step) and state.step_in_epoch < state.steps_per_epoch

    def after_step(self, state: TrainState, *, sampler: Mapping[str, int], meter: Mapping[str, Any]) -> None:
        """Save inside an epoch. Every rank must call this.

        Args:
            sampler: state of the order of the samples, the same on all ranks.
            meter: sums of this rank, from which the epoch's means go on.
        """
        unfinished = {"step": state.step_in_epoch, "sampler": dict(sampler), "meters": gather_objects(dict(meter))}
        self._save(state, step_name(state.epoch + 1, state.step_in_epoch), temporary=True, unfinished=unfinished)

    def before_validation(self, state: TrainState, record: Mapping[str, float]) -> None:
        """Save an epoch that is trained and not yet validated, with what is to be logged of it."""
        unfinished = {"validate": dict(record)}
        self._save(state, step_name(state.epoch, state.steps_per_epoch), temporary=True, unfinished=unfinished)

    def finish(self) -> None:
        """Wait until all is on the disk. Every rank must call this.

        Raises:
            CheckpointError: it cannot be; elsewhere than on the main process, which says why, SystemExit.
        """
        error = None
        try:
            self.wait()
        except CheckpointError as failure:
            error = failure
        failed = any(gather_objects(error is not None))
        if error is not None:
            raise error
        if failed:
            raise SystemExit(2)

    def wait(self) -> None:
        """`finish` of this process alone; only the main process writes."""
        self.writer.wait()

    def _is_due(self, step: int) -> bool:
        return self.save_steps > 0 and step % self.save_steps == 0

    def _save(
        self, state: TrainState, name: str, *, also_best: bool = False, temporary: bool = False, **extra: Any
    ) -> None:
        """Save under a name, of which with `temporary` only the newest are kept, and with `also_best` as the best."""
        if not self.output_dir:
            return
        self.finish()
        rng = gather_objects(random_state(self.world.device))
        content = state.content()
        if not self.world.is_main:
            return
        path = Path(self.output_dir) / name
        place = f"epoch {state.epoch}, step {state.step}"

        def when_written() -> None:
            logger.info("saved %s (%s)", path, place)
            if also_best:
                _link_or_copy(path, path.with_name(BEST))
            if temporary:
                remove_older_steps(path, keep=self.keep)

        # Training changes the weights while they are written, so the writer gets copies of its own.
        copied = _copy_to_host({**content, "args": self.args, "rng": rng, **self.extra, **extra})
        self.writer.submit(path, copied, then=when_written)


def _link_or_copy(path: Path, other: Path) -> None:
    """Give a file a second name, in one step; where the file system knows no links, a copy."""
    temporary = other.with_name(other.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, other)


def _copy_to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy_to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy_to_host(item) for item in value)
    return value
