"""Principal components against sklearn's, and their colours."""

import numpy as np
import torch
from sklearn.decomposition import PCA

from models.analysis.components import as_colours, principal_components


def test_components_are_those_of_sklearn_up_to_the_sign():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(200, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 5
    reference = PCA(3, svd_solver="full").fit(tokens.double().numpy())
    found, shares = principal_components(tokens)
    expected = reference.transform(tokens.double().numpy())
    signs = np.sign((found.numpy() * expected).sum(0))
    np.testing.assert_allclose(found.numpy() * signs, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shares.numpy(), reference.explained_variance_ratio_, rtol=1e-5)
    assert torch.equal(principal_components(tokens.clone())[0], found)


def test_as_many_components_as_there_are():
    found, shares = principal_components(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    assert found.shape == (2, 2) and shares.tolist() == [1, 0]
    assert found[:, 0].tolist() == [-1, 1]  # the direction's one entry is positive


def test_colours_leave_out_the_ends():
    values = torch.linspace(0, 100, 101)[:, None].repeat(1, 2)
    values[-1] = 10_000
    colours = as_colours(values)
    torch.testing.assert_close(colours[:, 0], ((torch.arange(101) - 1) / 98).clamp(0, 1))
    assert (colours[:, 2] == 0.5).all()  # there is no third component
    assert (as_colours(torch.ones(4, 3)) == 0.5).all()
