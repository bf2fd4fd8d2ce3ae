"""Log steps: all that the host reads of one comes in one all-reduce and one copy, on a GPU an update later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from .checkpointing.checkpoint import TrainState
from .distributed.readout import Readout
from .monitoring.metrics import COUNT, Interval, Meter, RunLog, means_over_ranks
from .resilience.bad_videos import BadVideoLog
from .resilience.nonfinite import NonFiniteGuard
from .schedules import Schedule

# Prefixes and names of what is read together.
_MEAN, _DIAGNOSTIC = "mean/", "diagnostic/"
_BAD_VIDEOS, _FINITE, _SKIPPED = "bad videos", "finite", "skipped"


class Diagnostics(Protocol):
    """Extra metrics from the outputs of a log step, in two parts around a sum over ranks."""

    def sums(self, out: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What has to be summed, on the device; does not synchronize with it."""

    def report(
        self, sums: Mapping[str, torch.Tensor], *, num_ranks: int, step: int, after_warmup: bool
    ) -> dict[str, float]:
        """Metrics by name from the sums of all ranks, which are in host memory."""


@dataclass(frozen=True)
class _LogStep:
    """A log step whose values are on their way to the host."""

    step: int
    epoch: int
    lr: float
    settings: dict[str, float]  # of the optimizer, in that update
    after_warmup: bool
    is_written: bool
    interval: Interval
    readout: Readout


class StepLog:
    """Checks, reports and writes log steps: `start` behind an update, `finish` when its values are needed.

    With `reads_late` that is after the next update has been enqueued, so that the device goes on with that one while
    the host waits for this one. Not on a CPU, and not with the fp16 scaler: the schedule has to know before the next
    update which ones it has skipped.

    Every rank must call all methods, in the same order.
    """

    def __init__(
        self,
        state: TrainState,
        *,
        meter: Meter,
        log: RunLog,
        guard: NonFiniteGuard,
        bad_videos: BadVideoLog,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        self.state, self.backend = state, state.backend
        self.meter, self.log, self.guard, self.bad_videos = meter, log, guard, bad_videos
        self.diagnostics = diagnostics
        self.reads_late = self.backend.runs_ahead and not self.backend.scaler.is_enabled()
        self._started: _LogStep | None = None

    def sums(self, out: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the diagnostics take from the outputs of a log step's last batch."""
        return {} if self.diagnostics is None else self.diagnostics.sums(out)

    def start(
        self,
        step: int,
        *,
        epoch: int,
        lr: float,
        sums: Mapping[str, torch.Tensor],
        after_warmup: bool,
        is_written: bool = True,
    ) -> None:
        """Enqueue the all-reduce and the copy of a log step. Does not synchronize with the device.

        Args:
            step: updates done before it.
            sums: from its outputs; {} if it has none.
            is_written: `finish` writes the record.
        """
        interval = self.meter.end_interval()
        readout = Readout(
            {
                **{_MEAN + name: value for name, value in interval.means.items()},
                **{_DIAGNOSTIC + name: value for name, value in sums.items()},
                _BAD_VIDEOS: self.bad_videos.num_unsynced(),
            },
            {
                COUNT: interval.count.to(self.backend.device),
                _FINITE: self.guard.flags().to(self.backend.device),
                _SKIPPED: self.backend.num_skipped_updates,
            },
        )
        settings = Schedule.in_use(self.backend.optimizer)
        self._started = _LogStep(step, epoch, lr, settings, after_warmup, is_written, interval, readout)

    def finish(self) -> dict[str, float]:
        """The record of the log step that was started, after its checks; {} if none was.

        Raises:
            NonFiniteError, RollbackRequested, BadVideosError: on all ranks.
        """
        started, self._started = self._started, None
        if started is None:
            return {}
        values, num_ranks = started.readout.read(), self.backend.world.size
        self.guard.apply(values[_FINITE].tolist())
        self.backend.check_finite(started.step + 1, num_skipped=int(values[_SKIPPED]))
        self.state.scaler_skips += self.backend.pop_scaler_skips()
        self.bad_videos.check(int(values[_BAD_VIDEOS]))
        sums = _part(values, _DIAGNOSTIC)
        diagnostics = {}
        if self.diagnostics is not None and sums:
            diagnostics = self.diagnostics.report(
                sums, num_ranks=num_ranks, step=started.step + 1, after_warmup=started.after_warmup
            )
        record = self.meter.report(
            started.interval,
            means_over_ranks(_part(values, _MEAN), values[COUNT], num_ranks=num_ranks),
            step=started.step,
            epoch=started.epoch,
            lr=started.lr,
            settings={**started.settings, "loss_scale": self.backend.scaler.get_scale()},
            diagnostics=diagnostics,
        )
        if started.is_written:
            self.log.write(started.step + 1, **record)
        return record


def _part(values: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The values whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
