"""From host memory into the step: `Batch.to`, with and without the prefetcher, beside a batch that is on the device.

python bench/gpu/copies.py [--quick] [--device cpu] [--rows FILE]

Batches of 64 uint8 clips in page-locked memory, as the loader's workers leave them; nothing decodes. For pixels and
SIGMA-DINO on ViT-B: clips per second with the batch on the device already, copied and normalised in the loop, and by
the prefetcher.
"""

import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import common
from bench.common import Cell
from bench.gpu.part import Part, begin, milliseconds, synchronize
from bench.ours import OurStep, one_process


def load_without_decoders() -> None:
    """Let `datasets.loading` be imported where PyAV is missing; nothing here decodes.

    It takes one module from the package of decoders, whose `__init__` imports them all: that is left out.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        package = types.ModuleType("datasets.decoding")
        package.__path__ = [str(Path(__file__).resolve().parents[2] / "datasets" / "decoding")]
        sys.modules.setdefault("datasets.decoding", package)


class HostBatches:
    """Stands for a loader: `number` batches in host memory, three of them by turns."""

    sampler = None

    def __init__(self, cell: Cell, clips: int, number: int, device: torch.device) -> None:
        from datasets.loading.batch import Batch

        generator = torch.Generator().manual_seed(1)
        shape = (clips, cell.num_frames, cell.img_size, cell.img_size, 3)  # the channels last in memory, as decoded
        mask = common.synthetic_batch(cell, clips, torch.device("cpu")).mask
        self.number, self.batches = number, []
        for _ in range(3):
            clip = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 1, 4, 2, 3)
            batch = Batch(clip=clip, index=torch.arange(clips), mask=mask, label=torch.arange(clips))
            self.batches.append(batch.pin_memory() if device.type == "cuda" else batch)

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[place % len(self.batches)] for place in range(self.number))


def sources(host: HostBatches, device: torch.device) -> dict[str, Callable[[], Iterable[Any]]]:
    """The ways into the step, by name."""
    from datasets.loading.loaders import DevicePrefetcher

    there = host.batches[0].to(device)
    found: dict[str, Callable[[], Iterable[Any]]] = {
        "on the device": lambda: (there for _ in range(len(host))),
        "Batch.to": lambda: (batch.to(device) for batch in host),
    }
    if device.type == "cuda":
        prefetcher = DevicePrefetcher(host, device)  # type: ignore[arg-type]
        found["prefetcher"] = lambda: prefetcher
    return found


def report_copy(part: Part, host: HostBatches) -> None:
    """The copy, and the copy with the normalisation."""
    clip, device = host.batches[0].clip, part.device
    rounds = 1 if part.quick else 10
    for name, call in (
        ("uint8", lambda: clip.to(device, non_blocking=True)),
        ("Batch.to", lambda: host.batches[0].to(device)),
    ):
        took = milliseconds(call, device, rounds)
        part.row(copy=name, clips=len(clip), ms=took, GB_per_s=clip.nbytes / took / 1e6)


def report_steps(part: Part, cell: Cell, host: HostBatches) -> None:
    """A series of steps from each source; the first row is what the others are compared with."""
    step = OurStep(cell, world=one_process(part.device), amp="bf16")
    synthetic = None
    for name, source in sources(host, part.device).items():
        for batch in source():  # warm-up
            step(batch)
        synchronize(part.device)
        start = time.perf_counter()
        for batch in source():
            step(batch)
        synchronize(part.device)
        clips_per_second = len(host) * len(host.batches[0].clip) / (time.perf_counter() - start)
        synthetic = synthetic or clips_per_second
        ratio = clips_per_second / synthetic
        part.row(**{"cell": cell.name, "source": name, "clips/s": clips_per_second, "of the first": ratio})


def main(arguments: Sequence[str] | None = None) -> None:
    part = begin("copies", __doc__, arguments)
    load_without_decoders()
    size, clips, number = ("mini", 2, 2) if part.quick else ("base", 64, 10)
    host = HostBatches(Cell("pixel", size, part.quick), clips, number, part.device)
    with part.cell("copy"):
        report_copy(part, host)
    for task in ("pixel", "dino"):
        cell = Cell(task, size, part.quick)
        with part.cell(cell.name):
            report_steps(part, cell, host)
    part.finish()


if __name__ == "__main__":
    main()
