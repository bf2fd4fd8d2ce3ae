"""How the checks of bench/gpu compare a device with a reference."""

from typing import Any

import torch


class NotHere(Exception):
    """The check has no meaning on this device; its text says why."""


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """|found - expected| / |expected| in float64 on the host: 0 for equal values, NaN if one is not finite."""
    found, expected = (tensor.detach().to("cpu", torch.float64) for tensor in (found, expected))
    difference = (found - expected).norm()
    return (difference / expected.norm()).item() if difference > 0 or difference.isnan() else 0.0


def close(found: torch.Tensor, expected: torch.Tensor, limit: float, what: str) -> float:
    """The relative error. Raises AssertionError above `limit`, for NaN, and for another shape."""
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    error = relative_error(found, expected)
    assert error <= limit, f"{what}: relative error {error:.3g}, at most {limit:g} is allowed"
    return error


def all_close(found: dict[str, Any], expected: dict[str, Any], limit: float, what: str) -> float:
    """The relative error over all tensors as one vector. Raises as `close`, also for other names."""
    assert found.keys() == expected.keys(), f"{what}: {found.keys() ^ expected.keys()}"
    joined = [torch.cat([tensors[name].cpu().double().flatten() for name in expected]) for tensors in (found, expected)]
    return close(*joined, limit, what)


def same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str) -> None:
    """Raises AssertionError that names the first tensor which differs."""
    assert found.keys() == expected.keys(), f"{what}: {found.keys() ^ expected.keys()}"
    for name, tensor in expected.items():
        assert torch.equal(found[name].cpu(), tensor.cpu()), f"{what}: {name} differs"


def equal_share(found: torch.Tensor, expected: torch.Tensor, least: float, what: str) -> float:
    """Fraction of equal integers. Raises AssertionError below `least`."""
    share = (found.cpu() == expected.cpu()).double().mean().item()
    assert share >= least, f"{what}: only {100 * share:.2f} % are equal, at least {100 * least:g} % are expected"
    return share
