"""What a run needs at least, against what the machine has: asked before any of it is taken."""

import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import ConfigError

GIB = 2**30
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of containers
# Bytes of a number that is learned, at least: weight, gradient and one moment in float32; with DeepSpeed the weight.
LEARNED, SHARDED = 12, 4


@dataclass(frozen=True)
class Need:
    """Memory for one thing: the options that decide it, what it is, and bytes."""

    flags: str
    name: str
    size: int


def check_memory(needs: Sequence[Need], device: torch.device, *, available: int | None = None) -> None:
    """Compare lower bounds with the memory of the device that trains, of which `available` None asks the machine.

    Raises:
        ConfigError: it is not enough; names the options of the largest part.
    """
    have = memory_of(device) if available is None else available
    total, largest = sum(need.size for need in needs), max(needs, key=lambda need: need.size)
    if total > have:
        raise ConfigError(
            f"{largest.flags}: {largest.name}: at least {largest.size / GIB:,.1f} GiB of {total / GIB:,.1f} GiB for "
            f"the run, and {device.type} memory is {have / GIB:,.1f} GiB. Choose less"
        )


def memory_of(device: torch.device) -> int:
    """Bytes of a GPU; of the host, or what a container may use of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in map(Path, _LIMITS):
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            have = min(have, int(text))
    return have


def most_resident() -> int:
    """Bytes of this process in memory, at their peak so far."""
    status = Path("/proc/self/status")
    # getrusage counts what started this process too: its peak outlives fork and exec.
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):  # not in every sandbox
            return int(line.split()[1]) * 1024
    kib_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib_or_bytes * (1 if sys.platform == "darwin" else 1024)
