"""What the decoder has to tell about a masked place: its pixels, or features of a frozen image teacher.

Letters: B clips, C channels, T H W frames and pixels, N tokens, M masked tokens, F target-feature width.
"""

import torch
from torch import nn

from .tokens import Tubelet, patchify

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def standardize_(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Zero mean, unit variance along `dim`, in place: (x - mean) / (sqrt(unbiased variance) + 1e-6).

    As in engine_for_pretraining.py of the released code. In place, because on a CPU new memory of a clip's size costs
    more than the arithmetic.
    """
    x -= x.mean(dim, keepdim=True)
    deviation = torch.linalg.vector_norm(x, dim=dim, keepdim=True) / (x.shape[dim] - 1) ** 0.5
    return x.div_(deviation + 1e-6)


class PixelTarget(nn.Module):
    """RGB values of the masked tubelets, each standardised per tubelet and channel if `normalize` (arXiv 2203.12602).

    `forward`: clip (B, 3, T, H, W), ImageNet-normalised, and positions (B, M) -> (B, M, pt * ph * pw * 3), RGB fastest.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tubelet: Tubelet, *, normalize: bool = True) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(3, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(3, 1), persistent=False)

    @torch.no_grad()
    def forward(self, clip_BCTHW: torch.Tensor, masked_BM: torch.Tensor) -> torch.Tensor:
        pixels_BMCP = patchify(clip_BCTHW, self.tubelet, masked_BM).float()  # a copy: what follows may be in place
        pixels_BMCP.mul_(self.std).add_(self.mean)
        if self.normalize:
            standardize_(pixels_BMCP, dim=-1)
        return pixels_BMCP.transpose(2, 3).flatten(2)
