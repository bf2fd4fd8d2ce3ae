"""RankMe against its formula by another way, and what it has to be for features whose rank is known."""

import numpy as np
import pytest

from evaluation.probing.rank import rankme


def by_eigenvalues(features, epsilon=1e-7):
    """Singular values as roots of the eigenvalues of the Gram matrix."""
    values = np.sqrt(np.clip(np.linalg.eigvalsh(features.T @ features), 0, None))
    shares = values / values.sum() + epsilon
    return np.exp(-np.sum(shares * np.log(shares)))


def test_is_its_formula():
    features = np.random.default_rng(0).normal(size=(90, 12)) * np.linspace(0.1, 3, 12) + 0.5  # not centred
    assert rankme(features) == pytest.approx(by_eigenvalues(features), rel=1e-9)
    assert rankme(1e3 * features.astype(np.float32)) == pytest.approx(rankme(features), rel=1e-5)
    turned = features @ np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    assert rankme(turned) == pytest.approx(rankme(features), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_directions_of_equal_size_are_counted(rank):
    features = np.tile(np.eye(12)[:rank], (5, 1)) * 7.0
    assert rankme(features) == pytest.approx(rank, rel=1e-3)


def test_features_that_are_nothing():
    assert rankme(np.zeros((4, 3))) == 0
