"""Values of the device in host memory: one all-reduce, one copy, and no wait until they are asked for."""

from collections.abc import Mapping

import torch

from .collectives import all_reduce_sum


class Readout:
    """Starts the copy of tensors to host memory; `read` waits for it.

    On a GPU the copy runs behind the work that is enqueued so far. Whoever reads after enqueuing more work lets the
    device go on with that: it is never idle for the host's sake.

    Args:
        summed: by name, summed over ranks, all in one all-reduce; the same names and shapes on every rank.
        own: by name, as they are on this rank.
            All travel as float32: integers are exact up to 2^24.
    """

    def __init__(self, summed: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
        tensors = {**summed, **own}
        self._shapes = {name: tensor.shape for name, tensor in tensors.items()}
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()])
        if summed:
            all_reduce_sum(flat[: sum(tensor.numel() for tensor in summed.values())])
        self._copied: torch.cuda.Event | None = None
        if flat.device.type == "cuda":
            self._host = flat.to("cpu", non_blocking=True)  # into pinned memory
            self._copied = torch.cuda.Event(blocking=True)  # the loader's threads need the core more than a busy wait
            self._copied.record()
        else:
            self._host = flat

    def read(self) -> dict[str, torch.Tensor]:
        """The values, float32 in host memory, in their shapes. On a GPU it waits for the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        parts = self._host.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
