"""Bytes of tensors alive at the worst moment: what `torch.cuda.max_memory_allocated` tells, for the CPU."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Meter(TorchDispatchMode):
    """Follows every storage that an operation makes until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage(), inputs)
        return outputs

    def _follow(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key = storage._cdata
        if key not in self.alive and key not in inputs:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def peak_bytes(function: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes that `function` needs at its worst moment beyond what was there before; its result is dropped."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    with _Meter() as meter:
        function()
    return meter.peak
