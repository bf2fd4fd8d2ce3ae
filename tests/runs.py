"""What a run left in its output folder."""

import json
from pathlib import Path

import torch


def records(folder):
    """The lines of `log.txt`."""
    return [json.loads(line) for line in (Path(folder) / "log.txt").read_text().splitlines()]


def series(folder, *names):
    """(steps, len(names)) float64 of the step records."""
    rows = records(folder)
    return torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)


def load(path):
    """The content of a checkpoint, by torch alone."""
    return torch.load(path, weights_only=True)


def same(a, b):
    """Equal in structure, type and every bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b
