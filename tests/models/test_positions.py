"""The position table: its formula, and what resampling makes of it for another grid."""

import math

import numpy as np
import torch

from models.positions import resampled_table, sincos_table


def test_table_by_its_formula():
    table = sincos_table(30, 6)
    assert table.shape == (1, 30, 6) and table.dtype == torch.float32
    for position, row in enumerate(table[0].tolist()):
        angles = [position / 10000 ** (2 * (column // 2) / 6) for column in range(6)]
        expected = [math.sin(angle) if column % 2 == 0 else math.cos(angle) for column, angle in enumerate(angles)]
        np.testing.assert_allclose(row, expected, atol=1e-7)


def weights(old, new):
    """(new, old) of linear interpolation between pixel centres; beyond the outer ones their values hold."""
    rows = np.zeros((new, old))
    for place, row in enumerate(rows):
        centre = min(max((place + 0.5) * old / new - 0.5, 0), old - 1)
        below = min(int(centre), old - 1)
        row[below] += 1 - (centre - below)
        row[min(below + 1, old - 1)] += centre - below
    return rows


def test_resampling_is_linear_between_centres_along_each_axis():
    trained, grid, dim = (4, 3, 5), (6, 4, 3), 8
    volume = sincos_table(60, dim).double().reshape(*trained, dim).numpy()
    for axis in range(3):
        volume = np.moveaxis(np.tensordot(weights(trained[axis], grid[axis]), volume, (1, axis)), 0, axis)
    found = resampled_table(trained, grid, dim)
    assert found.shape == (1, 72, dim)
    np.testing.assert_allclose(found[0], volume.reshape(72, dim), atol=1e-5)
    assert torch.equal(resampled_table(trained, trained, dim), sincos_table(60, dim))
