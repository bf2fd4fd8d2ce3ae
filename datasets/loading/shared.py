"""Shared memory through which a loader's workers hand over their clips."""

import threading

import torch

MOST_SEGMENTS = 4  # kept by a worker; the DataLoader lets it have two batches under way
_FREE, _IN_USE = 0, 1


def new_segment(num_bytes: int) -> torch.Tensor:
    """uint8 (num_bytes,) in new shared memory, all of which is reserved now.

    Raises:
        RuntimeError: shared memory is full. Memory that is only mapped would end the process at its first use.
    """
    storage = torch.UntypedStorage._new_shared(num_bytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class Segments:
    """Shared memory of one worker that is written again when the main process has copied what it needs.

    New shared memory costs a multiple of the copy into it: the kernel clears its pages, and the worker and the main
    process each take a page fault for every few of them (bench/RESULTS.md). A segment ends with a byte that says
    whether it is in use: `take` sets it in the worker, `release` clears it in the main process. Nothing waits for that:
    where no segment is free there is a new one, kept too if there are fewer than MOST_SEGMENTS.
    """

    def __init__(self) -> None:
        self._segments: list[torch.Tensor] = []

    def take(self, num_bytes: int) -> torch.Tensor:
        """uint8 (num_bytes,), in use until `release`. Raises RuntimeError where shared memory is full."""
        # free ones that are too small go
        self._segments = [item for item in self._segments if len(item) > num_bytes or item[-1] == _IN_USE]
        free = (item for item in self._segments if len(item) > num_bytes and item[-1] == _FREE)
        segment = next(free, None)
        if segment is None:
            segment = new_segment(num_bytes + 1)
            if len(self._segments) < MOST_SEGMENTS:
                self._segments.append(segment)
        segment[-1] = _IN_USE
        return segment[:num_bytes]


class _Mapped(threading.local):
    def __init__(self) -> None:
        self.segments: dict[int, torch.UntypedStorage] = {}  # by address


_mapped = _Mapped()


def release(tensor: torch.Tensor) -> None:
    """Give memory that a worker took back to it, which may overwrite it from now on.

    The calling thread, which is that in which the DataLoader copies batches to page-locked memory, keeps the segment
    mapped until it ends: mapping it again for the next batch would cost the page faults again.
    """
    storage = tensor.untyped_storage()
    _mapped.segments[storage.data_ptr()] = storage
    torch.empty(0, dtype=torch.uint8).set_(storage)[-1] = _FREE
