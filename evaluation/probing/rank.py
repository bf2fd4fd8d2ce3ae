"""How many directions features use, without labels."""

import numpy as np

EPSILON = 1e-7


def rankme(features_VD: np.ndarray) -> float:
    """RankMe (arXiv 2210.02885): exp of the entropy of the singular values' shares, each with 1e-7 added; not centred.

    Args:
        features_VD: (V, D), V samples; the rank is at most the smaller of both, up to what the 1e-7 adds.

    Returns:
        1 where all samples point the same way; 0 for features that are all 0.
    """
    features = np.asarray(features_VD, np.float64)
    values = np.linalg.svd(features, compute_uv=False)
    if not values.any():
        return 0.0
    shares = values / values.sum() + EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))
