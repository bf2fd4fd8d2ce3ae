"""Training state and the checkpoint schedule."""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, Options, option

from ..distributed.collectives import all_reduce_sum, gather_to_main
from ..distributed.ddp import Backend
from ..distributed.world import World, on_main_process
from ..errors import CheckpointError, NonFiniteError
from .adapters import merge_states
from .files import BEST, epoch_name, remove_older_steps, step_name
from .finite import find_nonfinite
from .io import AsyncWriter
from .random_state import random_state

logger = logging.getLogger(__name__)

STATE_KEYS = ("model", "model_ema", "optimizer")  # entries of a checkpoint that have to be finite


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Options):
    """When checkpoints are written, and which one a run resumes from."""

    resume: str = option("", "resume from this checkpoint", metavar="FILE")
    auto_resume: bool = option(
        True,
        "resume from the newest valid checkpoint in --output_dir",
        switch="pair",
        off="--no_auto_resume",
        off_help="never resume, and refuse a folder that holds checkpoints",
    )
    save_ckpt_freq: int = option(help="save every so many epochs, and at the end", rule=AT_LEAST_ONE, metavar="EPOCHS")
    save_ckpt_steps: int = option(0, "also save every so many updates; 0: do not", rule=NOT_NEGATIVE, metavar="STEPS")
    keep_ckpts: int = option(2, "checkpoints inside epochs that are kept, the newest", rule=AT_LEAST_ONE, metavar="N")


class Ema(Protocol):
    """Exponential moving average of the weights, in `module`; timm's ModelEmaV3 implements it."""

    module: nn.Module

    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Update the average after an optimizer step."""


@dataclass
class TrainState:
    """Everything a run needs to resume exactly where it stopped."""

    backend: Backend
    ema: Ema | None = None
    epoch: int = -1  # last finished epoch
    step: int = 0  # optimizer steps done
    best: float = -1.0  # best value of the selecting metric so far; below 0 before the first validation
    validated_on: str = ""  # fingerprint of the list that `best` is of; "": there is none
    scaler_skips: int = 0  # of these, skipped by the fp16 loss scaler: the schedule does not advance on them
    steps_per_epoch: int = 0
    total_batch: int = 0  # videos per update over all ranks
    # Set after loading a checkpoint from inside the epoch after `epoch`, or, with the key "validate", from before the
    # validation of `epoch` itself: see `Checkpointer`.
    unfinished: dict[str, Any] | None = None
    file: Path | None = None  # the checkpoint that holds, or will hold, this state; None before the first

    @property
    def step_in_epoch(self) -> int:
        """Optimizer steps done in the epoch after `epoch`."""
        return self.step - (self.epoch + 1) * self.steps_per_epoch

    def content(self) -> dict[str, Any]:
        """Content for a checkpoint file. Every rank must call this; only the result on rank 0 is complete."""
        content = {
            **self.backend.training_state(),
            "epoch": self.epoch,
            "step": self.step,
            "scaler_skips": self.scaler_skips,
            "best": self.best,
            "validated_on": self.validated_on,
            "steps_per_epoch": self.steps_per_epoch,
            "total_batch": self.total_batch,
            **({"model_ema": self.ema.module.state_dict()} if self.ema else {}),
        }
        return merge_states(content)


@dataclass(frozen=True)
class Checkpointer:
    """Saves checkpoints asynchronously into the output folder.

    - `checkpoint-E.pth` after epoch E, every `save_every` epochs and after the last one; never removed.
    - `checkpoint-best.pth`: the best validation so far.
    - `checkpoint-E-stepS.pth` after S steps of epoch E; the newest `keep` of them remain. Saved every `save_steps`
      optimizer steps, on preemption, and before validation. At the last step of an epoch it is named step 0 of the
      next epoch, unless there is a `checkpoint-E.pth`.
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
        """True once a file could not be written; `finish` raises the reason."""
        return self.writer.failed

    def after_epoch(self, state: TrainState, *, last: bool, improved: bool = False, stopping: bool = False) -> None:
        """Save if due. Every rank must call this: the file holds the random state of each.

        Args:
            improved: this epoch has the best validation so far.
            stopping: the run is about to exit before its last epoch.
        """
        if last or (state.epoch + 1) % self.save_every == 0:
            self._save(state, epoch_name(state.epoch), also_best=improved)
            return
        if improved:
            self._save(state, BEST)
        if stopping or self._is_due(state.step):
            self._save(state, step_name(state.epoch + 1, 0), temporary=True)

    def is_due_in_epoch(self, state: TrainState) -> bool:
        """True if `after_step` is due; never at the last step of an epoch, which `after_epoch` saves."""
        return bool(self.output_dir) and self._is_due(state.step) and state.step_in_epoch < state.steps_per_epoch

    def after_step(self, state: TrainState, *, sampler: Mapping[str, int], meter: Mapping[str, Any]) -> None:
        """Save inside an epoch. Every rank must call this.

        Args:
            sampler: state of the sampler, the same on all ranks.
            meter: running sums of this rank, to continue the epoch's means from.
        """
        unfinished = {"step": state.step_in_epoch, "sampler": dict(sampler), "meters": gather_to_main(dict(meter))}
        self._save(state, step_name(state.epoch + 1, state.step_in_epoch), temporary=True, unfinished=unfinished)

    def before_validation(self, state: TrainState, record: Mapping[str, float]) -> None:
        """Save after training and before validating an epoch, with the metrics still to be logged."""
        unfinished = {"validate": dict(record)}
        self._save(state, step_name(state.epoch, state.steps_per_epoch), temporary=True, unfinished=unfinished)

    def finish(self) -> None:
        """Wait until all files are on disk. Every rank must call this.

        Raises:
            CheckpointError: on rank 0, a file could not be written; the other ranks raise SystemExit.
        """
        error = None
        try:
            self.writer.wait()  # only rank 0 writes
        except CheckpointError as failure:
            error = failure
        failed = int(all_reduce_sum(torch.tensor(int(error is not None), device=self.world.device)))
        if error is not None:
            raise error
        if failed:
            raise SystemExit(2)

    def _is_due(self, step: int) -> bool:
        return self.save_steps > 0 and step % self.save_steps == 0

    def _save(
        self, state: TrainState, name: str, *, also_best: bool = False, temporary: bool = False, **extra: Any
    ) -> None:
        """Save as `name`; with `temporary` only the newest are kept, with `also_best` also as `checkpoint-best.pth`."""
        if not self.output_dir:
            return
        self.finish()
        rng = gather_to_main(random_state(self.world.device))
        content = state.content()
        on_main_process(self.world, lambda: _check_finite(content, name, state.step))
        if not self.world.is_main:
            return
        path = state.file = Path(self.output_dir) / name
        position = f"{state.epoch + 1} epochs"
        if state.step_in_epoch > 0:
            position += f" and {state.step_in_epoch} of {state.steps_per_epoch} steps of the next"
        position += f", {state.step} steps in all"

        def when_written() -> None:
            logger.info("saved %s (%s)", path, position)
            if also_best:
                _link_or_copy(path, path.with_name(BEST))
            if temporary:
                remove_older_steps(path, keep=self.keep)

        # Training changes the weights while they are being written, so the writer gets copies.
        copied = _copy_to_host({**content, "args": self.args, "rng": rng, **self.extra, **extra})
        self.writer.submit(path, copied, then=when_written)


def _check_finite(content: Mapping[str, Any], name: str, step: int) -> None:
    if bad := find_nonfinite({key: content[key] for key in STATE_KEYS if key in content}):
        raise NonFiniteError(
            f"{name}: not saved: after step {step} {bad} is not finite (NaN or Inf). Checkpoints that were saved "
            "earlier are intact. Try a lower --lr, a longer --warmup_epochs, --clip_grad 1, or --amp none"
        )


def _link_or_copy(path: Path, other: Path) -> None:
    """Hard-link a file to a second name atomically; copy it if the file system has no hard links."""
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
