"""The loop that pre-training and fine-tuning share."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import nn

from .checkpointing.checkpoint import Checkpointer, TrainState
from .distributed.ddp import Backend
from .errors import CheckpointError, NonFiniteError
from .monitoring.metrics import Meter, RunLog
from .monitoring.monitor import TrainingMonitor
from .resilience.bad_videos import BadVideoLog
from .resilience.nonfinite import NonFiniteGuard, RollbackRequested
from .resilience.preemption import SAVE_FAILED, Preempted, PreemptionHandler, requeue_job, signal_name
from .resilience.watchdog import heartbeat, watchdog
from .schedules import Schedule

logger = logging.getLogger(__name__)

# The (possibly wrapped) model and a batch in; a dict with "loss" out. Its scalars are averaged and logged.
ForwardFn = Callable[[nn.Module, Any], dict[str, torch.Tensor]]


class DiagnosticsFn(Protocol):
    """Looks at the outputs of log steps; returns numbers to log beside the means."""

    def __call__(self, out: Mapping[str, torch.Tensor], *, step: int, after_warmup: bool) -> dict[str, float]: ...


@dataclass(frozen=True)
class Trainer:
    """What an update needs besides the data.

    `restore` puts the state back to the last checkpoint and tells whether there was one.
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
    diagnostics_fn: DiagnosticsFn | None = None
    monitor: TrainingMonitor | None = None

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
            lr, diagnostics = self.update(batches, epoch, diagnostics_fn=self.diagnostics_fn if is_log_step else None)
            heartbeat()
            if is_log_step or self.backend.device.type == "cpu":  # elsewhere this would wait for the device
                self.guard.check()
                self.backend.check_finite(step)
            if is_log_step:
                self.state.scaler_skips += self.backend.pop_scaler_skips()
                self.bad_videos.check()
                record = self.meter.flush(step, epoch=epoch, lr=lr, diagnostics=diagnostics)
                if left:
                    self.log.write(step + 1, **record)
            signum = self.preemption.poll(save_failed=self.checkpointer.failed)
            if left and (signum or self.checkpointer.is_due_in_epoch(self.state)):
                self.save_in_epoch(loader.sampler)
            if left and signum:
                self.exit_preempted(signum)
        return {**record, **self.meter.epoch_means()}

    def update(
        self, batches: Iterator[Any], epoch: int, *, diagnostics_fn: DiagnosticsFn | None
    ) -> tuple[float, dict[str, float]]:
        """One optimizer step from `update_freq` batches: the learning rate and the diagnostics of the last batch.

        Without `diagnostics_fn` it does not wait for the device.
        """
        backend, state = self.backend, self.state
        lr = self.schedule.apply(backend.optimizer, state.step - state.scaler_skips)
        indices, outputs = [], []
        for micro in range(self.update_freq):
            batch = self.next_batch(batches, epoch)
            if state.step in self.guard.skipped_steps:
                continue
            indices.append(batch.index)
            batch = batch.to(backend.device)
            with backend.accumulating(last=micro == self.update_freq - 1):
                with backend.autocast():
                    out = self.forward(backend.model, batch)
                backend.backward(out["loss"], update_freq=self.update_freq)
            outputs.append({name: value.detach() for name, value in out.items() if value.ndim == 0})
        diagnostics: dict[str, float] = {}
        if outputs:
            # Without a warm-up the first epoch counts as one: an untrained model stands at chance, and should.
            warmed_up = state.step >= max(self.schedule.warmup, self.schedule.steps_per_epoch)
            diagnostics = diagnostics_fn(out, step=state.step, after_warmup=warmed_up) if diagnostics_fn else {}
            if self.monitor is not None:
                self.monitor.before_step(batch, out, step=state.step)
            norm = backend.step()
            made = {"is_finite": backend.last_update_finite, "grad_norm": norm}
            self.guard.record(state.step, epoch=epoch, lr=lr, **made, indices=indices, outputs=outputs)
            means = {name: torch.stack([part[name] for part in outputs]).mean() for name in outputs[0]}
            is_finite = backend.last_update_finite & norm.isfinite()
            self.meter.add({**means, "grad_norm": norm}, is_finite=is_finite)
        self.meter.count_step(is_finite if outputs else False)
        state.step += 1
        if state.ema is not None and outputs and not backend.last_update_skipped():
            state.ema.update(backend.module, step=state.step)
        if self.monitor is not None:
            self.monitor.after_step(state.step)
        return lr, diagnostics

    def next_batch(self, batches: Iterator[Any], epoch: int) -> Any:
        """A batch, in host memory; the wait for it is timed, and what could not be decoded is taken note of."""
        waited = time.perf_counter()
        batch = next(batches)
        self.meter.add_data_time(time.perf_counter() - waited)
        self.bad_videos.record(batch.failures, epoch=epoch)
        return batch

    def save_in_epoch(self, sampler: Any) -> None:
        """A checkpoint from which the epoch goes on behind this step."""
        self.guard.check()
        done = self.state.step_in_epoch * self.update_freq
        self.checkpointer.after_step(self.state, sampler=sampler.state_dict(done), meter=self.meter.state_dict())

    def exit_preempted(self, signum: int, *, all_ranks: bool = True) -> NoReturn:
        """End this process, for a signal or because a checkpoint cannot be written, with all that was saved on disk.

        Args:
            all_ranks: all ranks do so here.

        Raises:
            Preempted: always, but for
            CheckpointError: it cannot be written.
        """
        if all_ranks:
            self.checkpointer.finish()
        else:
            self.checkpointer.wait()
        self.close()
        assert signum < SAVE_FAILED  # `finish` raises otherwise
        if self.bad_videos.world.is_main:
            logger.info(
                "stopped by %s after %d steps; the same command goes on from there",
                signal_name(signum),
                self.state.step,
            )
            requeue_job(signum)
        self.preemption.wait_for_requeue(signum)
        raise Preempted(signum)

    def close(self) -> None:
        """Write what profile and logs still hold."""
        if self.monitor is not None:
            self.monitor.close()
        self.log.close()

    def resume_in_epoch(self, sampler: Any) -> None:
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
        self.meter.load_state_dicts(unfinished["meters"], world=self.bad_videos.world)

    def rollback(self) -> None:
        """To the last checkpoint, in memory and in the logs.

        Raises:
            NonFiniteError: there is none.
        """
        self.checkpointer.finish()
        best = self.state.best
        if not self.restore():
            raise NonFiniteError(
                "--on_nonfinite rollback: there is no checkpoint yet to go back to; give --save_ckpt_steps, or "
                "--on_nonfinite skip"
            )
        if "validate" in (self.state.unfinished or {}):  # that has been done and logged since
            self.state.unfinished = None
        self.state.best = max(best, self.state.best)
        self.log.rewind(self.state.step)
        self.meter.restart_epoch()


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

    Raises:
        Preempted: the process was asked to stop; the same command goes on from there.
    """
    state, epochs = trainer.state, trainer.schedule.epochs
    if state.epoch + 1 >= epochs and not state.unfinished:
        logger.info("training is finished already: epoch %d of %d is done", state.epoch + 1, epochs)
    with trainer.checkpointer.writer, trainer.preemption, watchdog(trainer.stall_timeout):
        if state.unfinished and "validate" in state.unfinished:
            record, state.unfinished = state.unfinished["validate"], None
            finish_epoch(trainer, record, validate)
        while state.epoch + 1 < epochs:
            try:
                trainer.resume_in_epoch(loader.sampler)
                loader.sampler.set_epoch(state.epoch + 1)
                record = trainer.train_one_epoch(loader, state.epoch + 1)
            except RollbackRequested:
                trainer.rollback()
                loader.sampler.set_epoch(-1)  # else it would take the epoch for the one it has just resumed
                continue
            state.epoch += 1
            if validate is not None:
                trainer.checkpointer.before_validation(state, record)
            finish_epoch(trainer, record, validate)
        trainer.checkpointer.finish()
    trainer.close()


def finish_epoch(trainer: Trainer, record: dict[str, float], validate: Callable[[], dict[str, float]] | None) -> None:
    """Validate, log and save the epoch just trained, whose `record` this is; leave if the run was asked to stop."""
    state, preemption = trainer.state, trainer.preemption
    improved = False
    if validate is not None:
        try:
            with preemption.interruptible():
                results = validate()
        except Preempted as request:
            trainer.exit_preempted(request.signum, all_ranks=False)
        improved = results["val/top1"] > state.best
        state.best = max(state.best, results["val/top1"])
        record = {**record, **results}
        logger.info("epoch %d  %s  best %.2f", state.epoch, _line(results), state.best)
    trainer.log.write(state.step, **record)
    signum = preemption.poll_blocking(save_failed=trainer.checkpointer.failed)
    last = state.epoch + 1 == trainer.schedule.epochs
    trainer.checkpointer.after_epoch(state, last=last, improved=improved, stopping=bool(signum))
    if signum and not last:
        trainer.exit_preempted(signum)


def _line(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in values.items())
