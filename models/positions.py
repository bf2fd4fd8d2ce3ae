"""Fixed sinusoidal position table.

Letters: N tokens, D width.
"""

import numpy as np
import torch


def sincos_table(num_tokens: int, dim: int) -> torch.Tensor:
    """Sinusoidal table over the flat token index p = (t * H + h) * W + w (arXiv 1706.03762, section 3.5).

    The angle of column j is p / 10000^(2 floor(j / 2) / D); even columns hold its sine, odd ones its cosine. Because
    the table is one-dimensional in the flat index, a clip with fewer frames uses the first rows of the longer one's.

    Returns:
        (1, N, D) float32, computed in float64 and rounded once.
    """
    exponent_D = 2 * (np.arange(dim) // 2) / dim
    angle_ND = np.arange(num_tokens)[:, None] / np.power(10000, exponent_D)[None, :]
    table_ND = np.empty((num_tokens, dim))
    table_ND[:, 0::2] = np.sin(angle_ND[:, 0::2])
    table_ND[:, 1::2] = np.cos(angle_ND[:, 1::2])
    return torch.from_numpy(table_ND).float().unsqueeze(0)
