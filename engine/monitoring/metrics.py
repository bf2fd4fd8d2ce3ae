"""Metrics accumulated on the device, and their outputs: console, JSON lines, TensorBoard, Weights & Biases."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from ..distributed.readout import Readout
from ..distributed.world import World
from ..errors import naming
from ..files import replace_text, without_nan
from .console import ConsoleHandler, LogFileHandler, PrintableFormatter, format_seconds
from .device_peaks import ModelFlops

logger = logging.getLogger(__name__)

ON_CONSOLE = ("loss", "top1", "grad_norm")  # the others are in log.txt and in TensorBoard
COUNT = "count"  # of finite steps, beside the names of metrics


class MetricSink(Protocol):
    """Additional destination of the records, such as Weights & Biases."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class RunLog:
    """Writes the scalars of a run to `log.txt` (JSON lines, strictly increasing steps) and to TensorBoard.

    Args:
        sink: an additional destination.
    """

    def __init__(
        self,
        output_dir: str,
        log_dir: str | None,
        *,
        world: World,
        resumed_step: int = 0,
        sink: MetricSink | None = None,
    ) -> None:
        self.sink = sink
        self.path = Path(output_dir) / "log.txt" if output_dir and world.is_main else None
        if self.path is not None and self.path.exists():
            self._truncate_after(resumed_step)
        writes_events = log_dir and world.is_main
        self.writer = SummaryWriter(log_dir, purge_step=resumed_step + 1) if writes_events else None
        if writes_events:
            threading.excepthook = _report_thread_error

    def _truncate_after(self, step: int) -> None:
        """Drop records logged after the last checkpoint of an interrupted run: those steps are redone."""
        assert self.path is not None
        kept = []
        for line in self.path.read_bytes().splitlines():
            record = _record_of(line)
            if record is None:  # the process was killed while writing, or the file is another's
                logger.warning("%s: dropping an incomplete line", self.path)
            elif record.get("step", 0) <= step:
                kept.append(line.decode() + "\n")
        replace_text(self.path, "".join(kept))

    def rewind(self, step: int) -> None:
        """Drop records after `step`, for a rollback to it."""
        if self.path is not None and self.path.exists():
            self._truncate_after(step)
        if self.writer is not None:
            self.add_events(SummaryWriter.close)
        if self.writer is not None:
            self.writer = SummaryWriter(self.writer.log_dir, purge_step=step + 1)

    def write(self, step: int, **values: float) -> None:
        """Write one record; `step` counts optimizer steps done."""
        if self.path is not None:
            with naming(self.path), self.path.open("a") as file:
                file.write(json.dumps(without_nan({"step": step, **values})) + "\n")

        def add(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        self.add_events(add)
        if self.sink is not None:
            self.sink.write(step, values)

    def add_events(self, add: Callable[[SummaryWriter], object]) -> None:
        """Let `add` write events, if there are any. The run goes on without them once they cannot be written."""
        if self.writer is None:
            return
        try:
            add(self.writer)
        except OSError as error:
            logger.warning(
                "--log_dir %s: events could not be written: %s. The run goes on without them",
                self.writer.log_dir,
                error.strerror or error,
            )
            self.writer = None

    def close(self) -> None:
        """Flush and close the event file and the sink."""
        self.add_events(SummaryWriter.close)
        if self.sink is not None:
            self.sink.close()


def _report_thread_error(error: threading.ExceptHookArgs) -> None:
    """The hook for errors of threads, without those of TensorBoard's writer: `add_events` reports them."""
    if not (isinstance(error.exc_value, OSError) and type(error.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(error)


@dataclass(frozen=True)
class Interval:
    """The steps since the last log step.

    Attributes:
        means: of this rank over the finite steps, on the device; NaN if there is none.
        count: () float: finite steps.
        num_steps: all steps.
        data_time: seconds spent waiting for data.
    """

    means: dict[str, torch.Tensor]
    count: torch.Tensor
    num_steps: int
    data_time: float


class Meter:
    """Running means of scalars, accumulated on the device between log steps; step times and throughput on the host.

    Args:
        prefix: prefix of the metric names.
        log_every: steps between log steps.
        total_steps: optimizer steps of the run.
        clips_per_step: clips per optimizer step, over all ranks.
        flops: converts clips per second into TFLOP/s and MFU.
    """

    def __init__(
        self, *, prefix: str, log_every: int, total_steps: int, clips_per_step: int, flops: ModelFlops | None = None
    ) -> None:
        self.prefix = prefix
        self.flops = flops
        self.log_every = log_every
        self.total_steps = total_steps
        self.clips_per_step = clips_per_step
        self.epoch_sums: dict[str, torch.Tensor] = {}
        self.epoch_count: torch.Tensor | float = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.count: torch.Tensor | float = 0
        self.timed_steps, self.timed_seconds = 0, 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Restart the timers of step time and data time."""
        self.steps_since_flush = 0
        self.data_time = 0.0
        self.flushed_at = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Running sums of this rank, in host memory: since the last flush, and of the epoch before it."""
        return {
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "count": float(self.count),
            "epoch_sums": {name: value.cpu() for name, value in self.epoch_sums.items()},
            "epoch_count": float(self.epoch_count),
        }

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]], *, world: World) -> None:
        """Restore the sums of all ranks inside an epoch; with another world size every rank gets their mean."""
        own = [states[world.rank]] if len(states) == world.size else states
        for name in ("sums", "epoch_sums"):
            means = {key: sum(state[name][key] for state in own) / len(own) for key in own[0][name]}
            setattr(self, name, {key: value.to(world.device) for key, value in means.items()})
        self.count, self.epoch_count = own[0]["count"], own[0]["epoch_count"]

    def restart_epoch(self) -> None:
        """Reset the sums of the epoch."""
        self.sums, self.count, self.epoch_sums, self.epoch_count = {}, 0, {}, 0

    def is_log_step(self, step: int) -> bool:
        """True every `log_every` steps."""
        return (step + 1) % self.log_every == 0

    def add_step(self, values: Mapping[str, torch.Tensor], *, is_finite: torch.Tensor | None = None) -> None:
        """Add the scalars of an optimizer step (device tensors; does not synchronize with the device).

        Args:
            is_finite: bool scalar, the same on all ranks; a step where it is False is excluded from the means.
        """
        for name, value in values.items():
            value = value.detach().float()
            _accumulate(self.sums, name, value if is_finite is None else torch.where(is_finite, value, 0.0))
        self.count = self.count + (1 if is_finite is None else is_finite.float())
        self.steps_since_flush += 1

    def skip_step(self) -> None:
        """Count a step without values in the step time only."""
        self.steps_since_flush += 1

    def add_data_time(self, seconds: float) -> None:
        """Add time spent waiting for data."""
        self.data_time += seconds

    def end_interval(self) -> Interval:
        """End the interval since the last log step, and begin the next. Does not synchronize with the device."""
        count = torch.full((), float(self.count)) if isinstance(self.count, float | int) else self.count
        interval = Interval(
            {name: value / count for name, value in self.sums.items()}, count, self.steps_since_flush, self.data_time
        )
        for name, value in self.sums.items():
            _accumulate(self.epoch_sums, name, value)
        self.epoch_count = self.epoch_count + self.count
        self.sums, self.count = {}, 0
        self.steps_since_flush, self.data_time = 0, 0.0
        return interval

    def report(
        self,
        interval: Interval,
        means: Mapping[str, float],
        *,
        step: int,
        epoch: int,
        lr: float,
        settings: Mapping[str, float],
        diagnostics: Mapping[str, float],
    ) -> dict[str, float]:
        """Return the metrics of an interval, and log those of ON_CONSOLE in a line that fits a terminal.

        Call it when the device has done its last update, `step`.

        Args:
            means: over the interval and over ranks.
            settings, diagnostics: of this step only, returned too.
        """
        now = time.perf_counter()
        seconds, self.flushed_at = now - self.flushed_at, now
        self.timed_steps, self.timed_seconds = self.timed_steps + interval.num_steps, self.timed_seconds + seconds
        remaining = (self.total_steps - step - 1) * self.timed_seconds / self.timed_steps
        rates = {
            "lr": lr,
            "step_time": seconds / interval.num_steps,
            "data_time": interval.data_time / interval.num_steps,
            "clips_per_second": self.clips_per_step * interval.num_steps / seconds,
        }
        if self.flops is not None:
            rates |= self.flops.throughput(rates["clips_per_second"])
        if torch.cuda.is_available():
            rates["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        logger.info(
            "epoch %d  step %d/%d  %slr %.3g  %s left %s",
            epoch,
            step + 1,
            self.total_steps,
            "".join(f"{name} {means[name]:.4g} " for name in ON_CONSOLE if name in means),
            lr,
            _format_rates(rates),
            format_seconds(remaining),
        )
        found = {**means, **diagnostics, **rates, **settings}
        return {"epoch": epoch, **{f"{self.prefix}/{name}": value for name, value in found.items()}}

    def epoch_means(self, world: World) -> dict[str, float]:
        """Means over the epoch's steps and over ranks, as `PREFIX_epoch/NAME`; resets the epoch."""
        sums, count = self.epoch_sums, torch.as_tensor(self.epoch_count, device=world.device)
        self.epoch_sums, self.epoch_count = {}, 0
        values = Readout({name: value / count for name, value in sums.items()}, {COUNT: count}).read()
        means = means_over_ranks({name: values[name] for name in sums}, values[COUNT], num_ranks=world.size)
        return {f"{self.prefix}_epoch/{name}": value for name, value in means.items()}


def _format_rates(rates: Mapping[str, float]) -> str:
    """Step time, throughput and peak allocated GPU memory for the console."""
    words = "{step_time:.3f} s/step (data {data_time:.3f}) {clips_per_second:.1f} clips/s"
    words += " MFU {mfu:.0%}" if "mfu" in rates else ""
    words += " {memory_gib:.1f} GiB" if "memory_gib" in rates else ""
    return words.format_map(rates)


def _record_of(line: bytes) -> dict[str, Any] | None:
    """What a line of `log.txt` holds; None if it is no record of a step."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step", 0), int) else None


def _accumulate(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def means_over_ranks(sums: Mapping[str, torch.Tensor], count: torch.Tensor, *, num_ranks: int) -> dict[str, float]:
    """Means of values that have been summed over ranks, on the host; {} if no step was finite.

    Args:
        count: number of finite steps, the same on all ranks.
    """
    return {name: float(value / num_ranks) for name, value in sums.items()} if float(count) else {}


def setup_logging(world: World, output_dir: str) -> None:
    """Log INFO to the console and `console.txt` on rank 0, warnings on the other ranks."""
    handlers: list[logging.Handler] = [ConsoleHandler()]
    if world.is_main and output_dir:
        handlers.append(LogFileHandler(Path(output_dir) / "console.txt"))
    who = "" if world.is_main else f"[rank {world.rank}] "
    for handler in handlers:
        handler.setFormatter(PrintableFormatter(f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO if world.is_main else logging.WARNING, handlers=handlers, force=True)


def log_table(title: str, rows: dict[str, Any]) -> None:
    """Log a titled table of `name value` lines."""
    width = max(map(len, rows))
    logger.info("%s\n%s", title, "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items()))
