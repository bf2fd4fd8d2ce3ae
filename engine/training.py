"""The training loop of pre-training and fine-tuning: `fit`, `Trainer.train_one_epoch`, `Trainer.update`."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import nn

from .checkpointing.checkpoint import Checkpointer, TrainState
from .distributed.ddp import Backend
from .errors import CheckpointError, NonFiniteError
from .log_steps import Diagnostics, StepLog
from .monitoring.metrics import Meter, RunLog
from .monitoring.monitor import TrainingMonitor
from .optim import num_trainable
from .resilience.bad_videos import BadVideoLog
from .resilience.nonfinite import NonFiniteGuard, RollbackRequested
from .resilience.preemption import Preempted, PreemptionHandler
from .resilience.watchdog import heartbeat, watchdog
from .schedules import Schedule
from .tasks.task import Selection

logger = logging.getLogger(__name__)

# (model, possibly wrapped, and batch) -> outputs with a scalar "loss". All scalar outputs are averaged and logged.
ForwardFn = Callable[[nn.Module, Any], dict[str, torch.Tensor]]
# -> metrics of the current model, with `Selection.metric` under "val/".
ValidateFn = Callable[[], dict[str, float]]


def fit(trainer: "Trainer", loader: Any, *, validate: ValidateFn | None = None, every: int = 1) -> None:
    """Train from the current state to the last epoch; validate after epochs, save checkpoints when due.

    Args:
        loader: this rank's data loader; its `sampler` has `set_epoch`, `state_dict` and `load_state_dict`.
        validate: the best value of the metric that `trainer.selection` names is kept in the state.
        every: epochs from one validation to the next; the last one is validated in any case.

    Raises:
        Preempted: the process received a signal to stop and saved; the same command resumes.
    """
    state, epochs = trainer.state, trainer.schedule.epochs
    if state.epoch + 1 >= epochs and not state.unfinished:
        logger.info("training is finished already: epoch %d of %d is done", state.epoch + 1, epochs)
    with trainer.checkpointer.writer, trainer.preemption, watchdog(trainer.stall_timeout):
        if state.unfinished and "validate" in state.unfinished:  # resumed between an epoch and its validation
            record, state.unfinished = state.unfinished["validate"], None
            trainer.finish_epoch(record, validate)
        while state.epoch + 1 < epochs:
            try:
                trainer.resume_in_epoch(loader.sampler)
                loader.sampler.set_epoch(state.epoch + 1)
                record = trainer.train_one_epoch(loader, state.epoch + 1)
            except RollbackRequested:
                trainer.rollback()
                loader.sampler.set_epoch(-1)  # so that set_epoch starts the epoch anew and does not continue it
                continue
            state.epoch += 1
            is_due = validate is not None and ((state.epoch + 1) % every == 0 or state.epoch + 1 == epochs)
            if is_due:
                trainer.checkpointer.before_validation(state, record)
            trainer.finish_epoch(record, validate if is_due else None)
        trainer.checkpointer.finish()
    trainer.close()


@dataclass(frozen=True)
class Trainer:
    """The components of a training run, and the loop over one epoch.

    `restore` loads the newest checkpoint into `state`, in place, and returns False if there is none.
    """

    backend: Backend
    state: TrainState
    schedule: Schedule
    meter: Meter
    log: RunLog
    bad_videos: BadVideoLog
    checkpointer: Checkpointer
    guard: NonFiniteGuard
    preemption: PreemptionHandler
    forward: ForwardFn
    update_freq: int
    restore: Callable[[], bool]
    stall_timeout: float = 0.0
    updates_together: int = 1  # training is saved and stopped only behind a multiple of so many
    diagnostics: Diagnostics | None = None
    monitor: TrainingMonitor | None = None

    @property
    def selection(self) -> Selection:
        """Which validation is the best one: a task says so."""
        return getattr(self.forward, "selection", Selection())

    @cached_property
    def step_log(self) -> StepLog:
        """What reads and writes the log steps."""
        return StepLog(
            self.state,
            meter=self.meter,
            log=self.log,
            guard=self.guard,
            bad_videos=self.bad_videos,
            diagnostics=self.diagnostics,
        )

    def train_one_epoch(self, loader: Any, epoch: int) -> dict[str, float]:
        """One pass over `loader`, or the rest of it after resuming inside the epoch.

        Returns:
            The metrics since the last log step, which are not written yet, and the means over the epoch.
        """
        self.backend.model.train()
        self.meter.restart_clock()  # validation and saving do not count as step time
        batches = iter(loader)
        for steps_left in reversed(range(self.schedule.steps_per_epoch - self.state.step_in_epoch)):
            step = self.state.step
            is_log_step = self.meter.is_log_step(step) or steps_left == 0
            lr, sums = self.update(batches, epoch, is_log_step=is_log_step)
            heartbeat()
            self.step_log.finish()  # one before this update, if its values were still on their way
            if not self.backend.runs_ahead:  # otherwise the host checks at log steps only
                self.guard.check()
                self.backend.check_finite(step + 1)
            if is_log_step:
                warm = self.warmed_up(step)
                self.step_log.start(step, epoch=epoch, lr=lr, sums=sums, after_warmup=warm, is_written=steps_left > 0)
            if not (steps_left and self.step_log.reads_late):
                record = self.step_log.finish()
            signum = self.preemption.poll(self.backend, save_failed=self.checkpointer.failed)
            if steps_left % self.updates_together:
                continue
            if steps_left and (signum or self.checkpointer.is_due_in_epoch(self.state)):
                self.save_in_epoch(loader.sampler)
            if steps_left and signum:
                self.exit_preempted(signum)
        return {**record, **self.meter.epoch_means(self.backend.world)}

    def update(self, batches: Iterator[Any], epoch: int, *, is_log_step: bool) -> tuple[float, dict[str, torch.Tensor]]:
        """One optimizer step over `update_freq` batches; does not synchronize with the device.

        Returns:
            The learning rate, and for a log step what its diagnostics take from the last batch.
        """
        backend, state = self.backend, self.state
        lr = self.schedule.apply(backend.optimizer, state.step - state.scaler_skips)
        if state.step in self.guard.skipped_steps:
            self.skip_update(batches, epoch)
            return lr, {}
        indices, outputs = [], []
        for micro_step in range(self.update_freq):
            batch = self.next_batch(batches, epoch)
            indices.append(batch.index)
            batch = batch.to(backend.device)
            with backend.accumulating(last=micro_step == self.update_freq - 1):
                with backend.autocast():
                    out = self.forward(backend.model, batch)
                backend.backward(out["loss"], update_freq=self.update_freq)
            outputs.append({name: value.detach() for name, value in out.items() if value.ndim == 0})
        sums = self.step_log.sums(out) if is_log_step else {}
        if self.monitor is not None:
            self.monitor.before_step(batch, out, step=state.step)
        grad_norm = backend.step()
        is_finite = backend.last_update_finite
        self.guard.record(
            state.step, epoch=epoch, lr=lr, is_finite=is_finite, grad_norm=grad_norm, indices=indices, outputs=outputs
        )
        self.meter.add_step({**mean_of(outputs), "grad_norm": grad_norm}, is_finite=is_finite & grad_norm.isfinite())
        state.step += 1
        if state.ema is not None and not backend.last_update_skipped():
            state.ema.update(backend.module, step=state.step)
        if self.monitor is not None:
            self.monitor.after_step(state.step)
        return lr, sums

    def warmed_up(self, step: int) -> bool:
        """Whether diagnostics may warn. Without a warm-up the first epoch counts as one: a new model is at chance."""
        return step >= max(self.schedule.warmup, self.schedule.steps_per_epoch)

    def next_batch(self, batches: Iterator[Any], epoch: int) -> Any:
        """The next batch, in host memory. Times the wait for it and records undecodable videos."""
        start = time.perf_counter()
        batch = next(batches)
        self.meter.add_data_time(time.perf_counter() - start)
        self.bad_videos.record(batch.failures, epoch=epoch)
        return batch

    def skip_update(self, batches: Iterator[Any], epoch: int) -> None:
        """Consume the batches of an update that was not finite before a rollback, without training on them."""
        for _ in range(self.update_freq):
            self.next_batch(batches, epoch)
        self.meter.skip_step()
        self.state.step += 1
        if self.monitor is not None:
            self.monitor.after_step(self.state.step)

    def finish_epoch(self, record: dict[str, float], validate: ValidateFn | None) -> None:
        """Validate, log and save after an epoch with the metrics `record`; exit if a signal has arrived."""
        state, improved = self.state, False
        record = {**record, "n_parameters": num_trainable(self.backend.module)}
        if validate is not None:
            try:
                with self.preemption.interruptible():
                    results = validate()
            except Preempted as request:
                self.exit_preempted(request.signum)
            value = results.get(f"val/{self.selection.metric}")  # a probe of pre-training chooses nothing
            if value is not None and self.selection.improves(value, state.best):
                improved, state.best = True, value
            record = {**record, **results}
            best = "" if value is None else f"  best {_short(state.best)}"
            logger.info("epoch %d  %s%s", state.epoch, describe_results(results), best)
        self.log.write(state.step, **record)
        signum = self.preemption.poll_blocking(save_failed=self.checkpointer.failed)
        is_last = state.epoch + 1 == self.schedule.epochs
        if is_last:
            self.guard.check_end()
        self.checkpointer.after_epoch(state, last=is_last, improved=improved, stopping=bool(signum))
        if signum and not is_last:
            self.exit_preempted(signum)

    def save_in_epoch(self, sampler: Any) -> None:
        """Save a checkpoint inside the epoch, from which training resumes with the next step.

        Nothing that is not finite is saved: what has not been checked yet is checked first.
        """
        self.step_log.finish()
        self.guard.check()
        num_batches = self.state.step_in_epoch * self.update_freq
        self.checkpointer.after_step(self.state, sampler=sampler.state_dict(num_batches), meter=self.meter.state_dict())

    def resume_in_epoch(self, sampler: Any) -> None:
        """Restore sampler and meters if the state was loaded from a checkpoint inside an epoch.

        Raises:
            CheckpointError: the order of the samples has changed.
        """
        unfinished, self.state.unfinished = self.state.unfinished, None
        if unfinished is None:
            return
        try:
            sampler.load_state_dict(unfinished["sampler"])
        except ValueError as error:
            raise CheckpointError(f"{error}, or resume from the end of an epoch with --resume") from error
        self.meter.load_state_dicts(unfinished["meters"], world=self.backend.world)

    def rollback(self) -> None:
        """Return to the last checkpoint: state, logs and meters.

        Raises:
            NonFiniteError: there is no checkpoint.
        """
        self.checkpointer.finish()
        best = self.state.best
        if not self.restore():
            raise NonFiniteError(
                "--on_nonfinite rollback: there is no checkpoint yet to roll back to; use --save_ckpt_steps, or "
                "--on_nonfinite skip"
            )
        if "validate" in (self.state.unfinished or {}):  # that validation has been done and logged since
            self.state.unfinished = None
        if best >= 0 and self.selection.improves(best, self.state.best):
            self.state.best = best
        self.log.rewind(self.state.step)
        self.meter.restart_epoch()

    def exit_preempted(self, signum: int) -> NoReturn:
        """Finish writing checkpoints, close the logs and exit, after a signal or a failed save; on every rank.

        Raises:
            Preempted: always, unless
            CheckpointError: a checkpoint cannot be written.
        """
        self.checkpointer.finish()
        self.close()
        self.preemption.exit(signum, f"after {self.state.step} steps; the same command resumes")

    def close(self) -> None:
        """Flush the profile and the logs."""
        if self.monitor is not None:
            self.monitor.close()
        self.log.close()


def describe_results(results: Mapping[str, float]) -> str:
    """Metrics for the console."""
    return "  ".join(f"{name} {_short(value)}" for name, value in results.items())


def _short(value: float) -> str:
    """A metric for the console: two digits behind the point, or where that is not enough four that count."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.4g}"


def mean_of(outputs: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Mean of each scalar over the batches of an update."""
    return {name: torch.stack([scalars[name] for scalars in outputs]).mean() for name in outputs[0]}
