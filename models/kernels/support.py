"""Whether the Triton kernels are used: one check for all of them, and one answer for all ranks.

Nothing here imports Triton, which PyTorch installs for CUDA only.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from sigma_video import triton_kernels

DEVICE_TYPES = ("cuda",)  # that the kernels are for; tests add the CPU, where they run in Triton's interpreter

_ranks_without: dict[torch.device, int] = {}  # number of ranks that cannot run them, once all ranks have been asked


_planning_for_gpu = False


@contextmanager
def planned_for_gpu(on_gpu: bool = True) -> Iterator[None]:
    """Let tensors in host memory take the ways of a GPU, without Triton: for estimates on tensors without data.

    Triton kernels need as much memory as what is taken in their place.
    """
    global _planning_for_gpu
    before, _planning_for_gpu = _planning_for_gpu, on_gpu
    try:
        yield
    finally:
        _planning_for_gpu = before


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on a GPU, or stands for one that will be."""
    return tensor.is_cuda or _planning_for_gpu


def is_for_kernels(device: torch.device) -> bool:
    """Whether there are kernels for this type of device."""
    return device.type in DEVICE_TYPES or _planning_for_gpu


@functools.cache
def kernels_run(device: torch.device) -> bool:
    """Whether the kernels run in this process; warns, once, if Triton is installed and they do not."""

    def probe_all() -> None:
        from .probe import probe  # here, because it imports Triton

        probe(device)

    return triton_kernels.kernels_run(
        probe_all, otherwise="Triton kernels do not run here, plain PyTorch is used instead, slower"
    )


def agree_on_kernels(device: torch.device, all_reduce: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Settle for all ranks whether the kernels are used on this device: only if they run on every rank.

    In each step all ranks wait for the slowest, so one rank in plain PyTorch would slow down all and show nowhere. To
    be called on every rank, at the same point; the first call asks, and waits for the device, later ones remember.

    Args:
        device: of this rank.
        all_reduce: sums a tensor over all ranks.
    """
    if is_for_kernels(device) and device not in _ranks_without:
        run_here = kernels_run(device)
        failed = all_reduce(torch.tensor([0.0 if run_here else 1.0], device=device))
        _ranks_without[device] = round(failed.item())
        if run_here and _ranks_without[device]:
            warnings.warn(
                f"Triton kernels run here, but not on {_ranks_without[device]} other rank(s): plain PyTorch is used "
                "on all, slower; the warnings of those ranks say why",
                stacklevel=2,
            )
    return use_kernels(device)


def use_kernels(device: torch.device) -> bool:
    """Whether to use the kernels: what the ranks agreed on, or, if they were not asked, whether they run here."""
    if not is_for_kernels(device) or _planning_for_gpu:
        return False
    return not _ranks_without[device] if device in _ranks_without else kernels_run(device)


def why_not(device: torch.device) -> str:
    """A phrase that says why the kernels are not used on a device."""
    if not is_for_kernels(device):
        return "Triton kernels need a GPU"
    if ranks := _ranks_without.get(device, 0):
        return f"Triton kernels do not run on {ranks} rank(s)"
    return "Triton kernels do not run here" if find_spec("triton") else "Triton is not installed"


def num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 2  # Triton's interpreter, in tests
