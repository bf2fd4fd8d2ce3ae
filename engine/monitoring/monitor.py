"""What a person looks at while a run goes on, besides the numbers: the bar, TensorBoard's pictures, a profile."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from ..distributed.ddp import Backend
from ..distributed.world import World
from ..schedules import Schedule
from .console import ProgressBar
from .metrics import RunLog
from .profiling import StepProfiler

# A batch on the device and the model's outputs for it -> pictures, uint8 (C, height, width), and values of which
# histograms are made, by name.
FigureFn = Callable[[Any, Mapping[str, torch.Tensor]], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]

NUM_BINS = 64
_BLOCK = re.compile(r"((?:\w+\.)*blocks\.\d+)\.")


class TrainingMonitor:
    """Looks at every step from outside. Only at the last step of an epoch, and with events to write, does it wait.

    Args:
        bar: moves with every step.
        profile: of a few steps, if one is asked for.
        log: where events go to, if any are written.
        backend: has the weights and gradients, which are summed up by block.
        figure_fn: makes pictures and values of a batch; None for none.
        steps_per_epoch: optimizer steps.
    """

    def __init__(
        self,
        *,
        bar: ProgressBar,
        profile: StepProfiler | None,
        log: RunLog,
        backend: Backend,
        figure_fn: FigureFn | None,
        steps_per_epoch: int,
    ) -> None:
        self.bar, self.profile, self.log = bar, profile, log
        self.backend, self.figure_fn, self.steps_per_epoch = backend, figure_fn, steps_per_epoch

    def before_step(self, batch: Any, out: Mapping[str, torch.Tensor], *, step: int) -> None:
        """Call when the gradients are there and the optimizer has not moved yet, at every step.

        Args:
            batch, out: of the last forward pass of this rank.
            step: optimizer steps done before this one.
        """
        writer = self.log.writer
        if writer is None or (step + 1) % self.steps_per_epoch:
            return
        pictures, values = self.figure_fn(batch, out) if self.figure_fn else ({}, {})
        for name, picture in pictures.items():
            writer.add_image(name, picture.cpu(), step + 1)
        for name, numbers in values.items():
            _add_histogram(writer, name, [numbers], step + 1)
        self._add_blocks(writer, step + 1)

    def after_step(self, step: int) -> None:
        """Call after every step; `step` of them are done."""
        self.bar.show(step)
        if self.profile is not None:
            self.profile.after_step()

    def close(self) -> None:
        """No more steps are to come."""
        if self.profile is not None:
            self.profile.close()

    def _add_blocks(self, writer: SummaryWriter, step: int) -> None:
        """A histogram of the weights of every block, and the norm of its gradient."""
        blocks: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.backend.module.named_parameters():
            if parameter.numel():  # ZeRO-3 leaves nothing here
                match = _BLOCK.match(name)
                blocks.setdefault(match[1] if match else name.partition(".")[0], []).append(parameter)
        for name, parameters in blocks.items():
            _add_histogram(writer, f"weights/{name}", (parameter.detach() for parameter in parameters), step)
        gradients = {name: [p.grad for p in ps if p.grad is not None] for name, ps in blocks.items()}
        norms = {name: torch.nn.utils.get_total_norm(grads) for name, grads in gradients.items() if grads}
        scale = self.backend.scaler.get_scale()
        for name, norm in norms.items():
            writer.add_scalar(f"grad_norm/{name}", float(norm) / scale, step)


def _add_histogram(writer: SummaryWriter, name: str, tensors: Iterable[torch.Tensor], step: int) -> None:
    """Counted on the device: only the bins are copied. Values that are not finite are left out."""
    values = torch.cat([tensor.float().flatten() for tensor in tensors])
    values = values[torch.isfinite(values)]
    if not len(values):
        return
    low, high = (float(end) for end in values.aminmax())
    high = high if high > low else low + 1.0
    counts = torch.histc(values, bins=NUM_BINS, min=low, max=high)
    writer.add_histogram_raw(
        name,
        min=low,
        max=float(values.max()),
        num=len(values),
        sum=float(values.sum()),
        sum_squares=float(values.square().sum()),
        bucket_limits=torch.linspace(low, high, NUM_BINS + 1)[1:].tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )


def build_monitor(
    args: argparse.Namespace,
    world: World,
    backend: Backend,
    schedule: Schedule,
    log: RunLog,
    *,
    first_step: int,
    figure_fn: FigureFn | None,
) -> TrainingMonitor:
    """The `TrainingMonitor` of a run of which `first_step` steps are done."""
    profile = None
    if args.profile and world.is_main:
        profile = StepProfiler(Path(args.output_dir) / "profile", num_steps=args.profile, device=world.device)
    return TrainingMonitor(
        bar=ProgressBar(world=world, first_step=first_step, total_steps=schedule.total_steps),
        profile=profile,
        log=log,
        backend=backend,
        figure_fn=figure_fn,
        steps_per_epoch=schedule.steps_per_epoch,
    )
