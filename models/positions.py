"""Fixed sinusoidal position table, and its resampling to another token grid than the one a model was trained on.

Letters: t h w token grid, N = t*h*w tokens, D width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

Grid = tuple[int, int, int]  # tokens in time, height and width


def sincos_table(num_tokens: int, dim: int) -> torch.Tensor:
    """Sinusoidal table over the flat token index p = (t * H + h) * W + w (arXiv 1706.03762, section 3.5).

    The angle of column j is p / 10000^(2 floor(j / 2) / D); even columns hold its sine, odd ones its cosine. Because
    the table is one-dimensional in the flat index, a clip with fewer frames uses the first rows of the longer one's.

    Returns:
        (1, N, D) float32, computed in float64 and rounded once.
    """
    exponent_C = 2 * np.arange((dim + 1) // 2) / dim  # of a pair of columns
    angle_NC = torch.from_numpy(np.arange(num_tokens)[:, None] / np.power(10000, exponent_C)[None, :])
    table_ND = torch.empty(num_tokens, dim)
    table_ND[:, 0::2] = angle_NC.sin()  # torch's sin and cos are vectorised
    table_ND[:, 1::2] = angle_NC[:, : dim // 2].cos()
    return table_ND.unsqueeze(0)


def resampled_table(trained: Grid, grid: Grid, dim: int) -> torch.Tensor:
    """The table of the grid a model was trained on, resampled in t, h and w to another grid.

    Rows are interpolated (trilinear, half-pixel centres) between those of the trained grid, which the weights have
    learned; a longer sinusoid would have angles that they never saw. On the trained grid the table is unchanged, bit
    for bit.

    Returns:
        (1, N, D) float32 for `grid`.
    """
    table = sincos_table(trained[0] * trained[1] * trained[2], dim)
    if trained == grid:
        return table
    t, h, w = trained
    volume = rearrange(table, "one (t h w) d -> one d t h w", t=t, h=h, w=w)
    volume = F.interpolate(volume, size=grid, mode="trilinear", align_corners=False)
    return rearrange(volume, "one d t h w -> one (t h w) d").contiguous()
