"""The loop that pre-training and fine-tuning share."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from engine.backend import Backend
from engine.checkpoint import Checkpointer, TrainState
from engine.errors import CheckpointError
from engine.metrics import Meter, RunLog
from engine.quarantine import Quarantine
from engine.schedules import Schedule
from engine.sight import Sight

logger = logging.getLogger(__name__)

# The (possibly wrapped) model and a batch in; a dict with "loss" out. Its scalars are averaged and logged.
Forward = Callable[[nn.Module, Any], dict[str, torch.Tensor]]


class Watch(Protocol):
    """Looks at the outputs of log steps; returns numbers to log beside the means."""

    def __call__(self, out: Mapping[str, torch.Tensor], *, step: int, after_warmup: bool) -> dict[str, float]: ...


@dataclass(frozen=True)
class Trainer:
    """What an update needs besides the data."""

    backend: Backend
    state: TrainState
    schedule: Schedule
    meter: Meter
    log: RunLog
    quarantine: Quarantine
    checkpointer: Checkpointer
    forward: Forward
    update_freq: int
    watch: Watch | None = None
    sight: Sight | None = None

    def train_one_epoch(self, loader: Any, epoch: int) -> dict[str, float]:
        """One pass over `loader`, or the rest of it where training was cut off inside the epoch.

        Returns:
            The record of the last steps, not yet written, and the means of the whole epoch.
        """
        self.backend.model.train()
        self.meter.restart_clock()  # validation and saving are not part of a step's time
        batches = iter(loader)
        for left in reversed(range(self.schedule.steps_per_epoch - self.state.step_in_epoch)):
            step = self.state.step
            is_log_step = self.meter.is_log_step(step) or left == 0
            lr, watched = self.update(batches, epoch, watch=self.watch if is_log_step else None)
            if is_log_step or self.backend.device.type == "cpu":  # elsewhere this would wait for the device
                self.backend.check_finite(step)
            if is_log_step:
                self.quarantine.check()
                record = self.meter.flush(step, epoch=epoch, lr=lr, watched=watched)
                if left:
                    self.log.write(step + 1, **record)
            if self.checkpointer.is_due_in_epoch(self.state):
                self.save_in_epoch(loader.sampler)
        return {**record, **self.meter.epoch_means()}

    def save_in_epoch(self, sampler: Any) -> None:
        """A checkpoint from which the epoch goes on behind this step."""
        self.backend.check_finite(self.state.step)
        done = self.state.step_in_epoch * self.update_freq
        self.checkpointer.after_step(self.state, sampler=sampler.state_dict(done), meter=self.meter.state_dict())

    def go_on_in_epoch(self, sampler: Any) -> None:
        """Put sampler and meters where the checkpoint that was made inside an epoch has them.

        Raises:
            CheckpointError: the order of the samples is another one now.
        """
        unfinished, self.state.unfinished = self.state.unfinished, None
        if unfinished is None:
            return
        try:
            sampler.load_state_dict(unfinished["sampler"])
        except ValueError as error:
            raise CheckpointError(f"{error}, or go on from the end of an epoch with --resume") from error
        self.meter.load_state_dicts(unfinished["meters"], world=self.quarantine.world)

    def update(self, batches: Iterator[Any], epoch: int, *, watch: Watch | None) -> tuple[float, dict[str, float]]:
        """One optimizer step from `update_freq` batches: the learning rate, and what `watch` saw in the last of them.

        Without `watch` it does not wait for the device.
        """
        backend, state = self.backend, self.state
        lr = self.schedule.apply(backend.optimizer, state.step)
        for micro in range(self.update_freq):
            waited = time.perf_counter()
            batch = next(batches)
            self.meter.add_data_time(time.perf_counter() - waited)
            self.quarantine.record(batch.failures, epoch=epoch)
            batch = batch.to(backend.device)
            with backend.accumulating(last=micro == self.update_freq - 1):
                with backend.autocast():
                    out = self.forward(backend.model, batch)
                backend.backward(out["loss"], update_freq=self.update_freq)
            self.meter.add({name: value / self.update_freq for name, value in out.items() if value.ndim == 0})
        # Without a warm-up the first epoch counts as one: an untrained model stands at chance, and should.
        warmed_up = state.step >= max(self.schedule.warmup, self.schedule.steps_per_epoch)
        watched = watch(out, step=state.step, after_warmup=warmed_up) if watch else {}
        if self.sight is not None:
            self.sight.before_step(batch, out, step=state.step)
        self.meter.add({"grad_norm": backend.step()})
        self.meter.count_step()
        state.step += 1
        if state.ema is not None and not backend.left_out_last():
            state.ema.update(backend.module, step=state.step)
        if self.sight is not None:
            self.sight.after_step(state.step)
        return lr, watched


def fit(
    trainer: Trainer,
    loader: Any,
    *,
    validate: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Train from where the state stands to the last epoch, validating after each, checkpointing when due.

    Args:
        loader: of one rank; its `sampler` has `set_epoch`, `state_dict` and `load_state_dict`.
        validate: metrics of the current model, such as `val/top1` in percent; the best of these is kept in the state.
    """
    state, epochs = trainer.state, trainer.schedule.epochs
    if state.epoch + 1 >= epochs:
        logger.info("training is finished already: epoch %d of %d is done", state.epoch + 1, epochs)
    trainer.go_on_in_epoch(loader.sampler)
    for epoch in range(state.epoch + 1, epochs):
        loader.sampler.set_epoch(epoch)
        record = trainer.train_one_epoch(loader, epoch)
        state.epoch = epoch
        if validate is not None:
            results = validate()
            state.best = max(state.best, results["val/top1"])
            record.update(results)
            logger.info("epoch %d  %s  best %.2f", epoch, _line(results), state.best)
        trainer.log.write(state.step, **record)
        trainer.checkpointer.after_epoch(state, last=epoch + 1 == epochs)
    if trainer.sight is not None:
        trainer.sight.close()
    trainer.log.close()


def _line(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in values.items())
