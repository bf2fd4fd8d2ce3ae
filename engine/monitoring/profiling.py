"""Profile a few training steps with torch.profiler."""

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

logger = logging.getLogger(__name__)

WARMUP_STEPS = 3  # allocations, compilation and the first batches are not representative
TOP_OPS = 15


class StepProfiler:
    """Profiles `num_steps` steps after a warm-up, then writes the trace and stops profiling.

    Open the trace, `trace-STEPS-steps.json` in `folder`, in https://ui.perfetto.dev or chrome://tracing; the most
    expensive ops are logged.
    """

    def __init__(self, folder: Path, *, num_steps: int, device: torch.device) -> None:
        self.folder, self.num_steps, self.on_gpu = folder, num_steps, device.type == "cuda"
        self.steps_seen = 0
        self.done = False
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.on_gpu else [])
        # The profiler starts after the first step, and the last warm-up step is its own.
        phases = schedule(wait=WARMUP_STEPS - 2, warmup=1, active=num_steps, repeat=1)
        self.profiler = profile(activities=activities, schedule=phases, on_trace_ready=self._write)

    def after_step(self) -> None:
        """Call after every optimizer step."""
        if self.done:
            return
        self.steps_seen += 1
        if self.steps_seen == 1:
            self.profiler.start()
        else:
            self.profiler.step()

    def close(self) -> None:
        """Write the steps profiled so far, if training ends early."""
        if self.done:
            return
        if self.steps_seen > WARMUP_STEPS:
            self.profiler.stop()
        else:
            logger.warning("--profile: nothing recorded, training ended after %d steps", self.steps_seen)

    def _write(self, profiler: profile) -> None:
        self.done = True
        self.folder.mkdir(parents=True, exist_ok=True)
        number = self.steps_seen - WARMUP_STEPS
        path = self.folder / f"trace-{number}-steps.json"
        profiler.export_chrome_trace(str(path))
        order = "self_device_time_total" if self.on_gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=TOP_OPS, max_name_column_width=50)
        logger.info("profile of %d steps: %s\n%s", number, path, table)
