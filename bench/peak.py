"""Bytes of tensors alive at the worst moment: what `torch.cuda.max_memory_allocated` tells, for the CPU."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.memory_plan.step import Meter


def peak_bytes(function: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes that `function` needs at its worst moment beyond what was there before; its result is dropped."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    with Meter() as meter:
        function()
    return meter.peak
