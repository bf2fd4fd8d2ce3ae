"""Live monitoring of a run besides its metrics: progress bar, TensorBoard images and histograms, profiler."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from ..distributed.ddp import Backend
from ..distributed.world import World
from .console import ProgressBar
from .metrics import RunLog
from .profiling import StepProfiler

# (batch on the device, model outputs) -> images, uint8 (C, H, W), and tensors for histograms, by name.
FigureFn = Callable[[Any, Mapping[str, torch.Tensor]], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]

NUM_BINS = 64
_BLOCK = re.compile(r"((?:\w+\.)*blocks\.\d+)\.")


class TrainingMonitor:
    """Hooks before and after every optimizer step. Synchronizes with the device only to write TensorBoard events, at
    the last step of an epoch.

    Args:
        bar: the progress bar.
        profile: profiler of a few steps, if enabled.
        log: has the TensorBoard writer, if enabled.
        backend: has the weights and gradients, which are summarized per block.
        figure_fn: makes images and values from a batch.
        steps_per_epoch: optimizer steps per epoch.
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
        """Call after the backward pass and before the optimizer step.

        Args:
            batch, out: of this rank's last forward pass.
            step: optimizer steps done before this one.
        """
        if self.log.writer is not None and (step + 1) % self.steps_per_epoch == 0:
            self.log.add_events(lambda writer: self._draw(writer, batch, out, step))

    def _draw(self, writer: SummaryWriter, batch: Any, out: Mapping[str, torch.Tensor], step: int) -> None:
        images, values = self.figure_fn(batch, out) if self.figure_fn else ({}, {})
        for name, image in images.items():
            writer.add_image(name, image.cpu(), step + 1)
        for name, numbers in values.items():
            _add_histogram(writer, name, [numbers], step + 1)
        self._add_blocks(writer, step + 1)

    def after_step(self, step: int) -> None:
        """Call after every optimizer step; `step` of them are done."""
        self.bar.show(step)
        if self.profile is not None:
            self.profile.after_step()

    def close(self) -> None:
        """Call after the last step."""
        if self.profile is not None:
            self.profile.close()

    def _add_blocks(self, writer: SummaryWriter, step: int) -> None:
        """Histogram of the weights and gradient norm of every block."""
        blocks: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.backend.module.named_parameters():
            if parameter.numel():  # empty with ZeRO stage 3
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
    """Histogram computed on the device: only the bins are copied. NaN and Inf are excluded."""
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


def build_profiler(output_dir: str, num_steps: int, world: World) -> StepProfiler | None:
    """The profiler of `num_steps` steps, into `profile` in the output folder, on rank 0; None for 0 steps."""
    if not num_steps or not world.is_main:
        return None
    return StepProfiler(Path(output_dir) / "profile", num_steps=num_steps, device=world.device)
