"""Search for NaN and Inf in weights and training states."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


def find_nonfinite(content: Any, place: str = "") -> str:
    """The name of the first tensor or number below `content` that is NaN or Inf, '' if there is none.

    Args:
        content: mappings and lists, nested, as in a checkpoint. Tensors may be on any device: each device is waited
            for once.
        place: name of `content` itself, before those of its parts.
    """
    names: dict[torch.device, list[str]] = {}
    flags: dict[torch.device, list[torch.Tensor]] = {}
    for name, value in _numbers(content, place):
        names.setdefault(value.device, []).append(name)
        flags.setdefault(value.device, []).append(_is_finite(value))
    for device, found in flags.items():
        values = torch.stack(found).tolist()
        if not all(values):
            return names[device][values.index(False)]
    return ""


def _numbers(content: Any, place: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        if (content.is_floating_point() or content.is_complex()) and content.numel():
            yield place, content.detach()
    elif isinstance(content, float):
        yield place, torch.tensor(content, dtype=torch.float64)
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _numbers(value, f"{place}.{name}" if place else str(name))
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for number, value in enumerate(content):
            yield from _numbers(value, f"{place}.{number}" if place else str(number))


def _is_finite(tensor: torch.Tensor) -> torch.Tensor:
    """() bool on the tensor's device. The extremes of a tensor with a NaN are NaN, and need no memory of its size."""
    if tensor.layout != torch.strided or tensor.dtype.itemsize == 1:  # sparse; float8
        tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor.float()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return torch.stack(torch.aminmax(tensor)).isfinite().all()
