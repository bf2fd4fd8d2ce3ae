"""The memory of a training step, found by one that runs on tensors without data.

The step is the run's own: model, autocast, backward pass, optimizer. Its tensors are torch's fake tensors, which have
shape and type and no storage, so that neither the memory nor a GPU is needed. What is counted is what
`torch.cuda.max_memory_allocated` tells: bytes of tensors alive at the worst moment.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..distributed.ddp import Backend
from ..distributed.world import World

ONE_PROCESS = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


class Meter(TorchDispatchMode):
    """Follows every storage that an operation makes until it is freed: bytes alive `now`, and at the `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
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


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Attributes:
        weights: of the model and of frozen networks, with constant tables.
        gradients: of all weights that are trained.
        moments: state of the optimizer.
        batch: clips, masks or labels.
        total: at the worst moment.
    """

    weights: int
    gradients: int
    moments: int
    batch: int
    total: int

    @property
    def activations(self) -> int:
        """What the worst moment takes beside all the others: what the backward pass needs, and what is in work."""
        return self.total - self.weights - self.gradients - self.moments - self.batch


def measure_step(
    model: nn.Module,
    forward: Callable[[Any], Mapping[str, torch.Tensor]],
    *,
    batch: Callable[[], Any],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    amp: str,
    frozen: Iterable[nn.Module] = (),
    accumulates: bool = False,
    clip_grad: float | None = None,
) -> StepMemory:
    """The memory of a step of one process, once the optimizer has its state.

    Args:
        model: on any device, best on "meta"; it is left without data, as are the modules of `frozen`.
        forward: batch -> outputs with a `loss`, by the model and the modules of `frozen`.
        batch: makes a batch, of `torch.empty`. Nothing may depend on its values.
        optimizer: of the model.
        amp: a key of AMP_DTYPES that a CPU has.
        accumulates: gradients of earlier batches are there during a forward pass.
        clip_grad: see `Backend`.
    """
    with FakeTensorMode(), Meter() as meter:
        for module in (model, *frozen):
            _drop_data(module)
        weights, given = meter.now, batch()
        size = meter.now - weights
        backend = Backend(model.train(), optimizer(model), world=ONE_PROCESS, amp=amp, clip_grad=clip_grad)
        for parameter in backend.parameters:
            parameter.grad = torch.empty_like(parameter)
        gradients = sum(parameter.nbytes for parameter in backend.parameters)
        backend.step()
        moments = meter.now - weights - size
        for _ in range(2 if accumulates else 1):
            with backend.autocast():
                out = forward(given)
            backend.backward(out["loss"], update_freq=1)
        backend.step()
    return StepMemory(weights, gradients, moments, size, meter.peak)


def _drop_data(module: nn.Module) -> None:
    """Replace parameters and buffers, in place, by fake ones in host memory, shared where they were shared."""
    parameters: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, old in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if id(old) not in parameters:
                parameters[id(old)] = nn.Parameter(torch.empty(old.shape, dtype=old.dtype), old.requires_grad)
            part.register_parameter(name, parameters[id(old)])
        for name, table in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, torch.empty(table.shape, dtype=table.dtype))
