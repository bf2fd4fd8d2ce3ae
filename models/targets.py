"""What is predicted at the masked positions: pixels here, features of a frozen image teacher in teachers.py.

Letters: B clips, C channels, T H W frames and pixels, N tokens, M masked tokens, F target-feature width.
"""

from dataclasses import dataclass

import torch
from torch import nn

from sigma_video.options import AT_LEAST_ONE, OptionError, Options, option

from .tokens import Tubelet, patchify

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TargetType:
    """One kind of `--target_type`.

    Attributes:
        from_pixels: the model computes its target features from the clip's pixels (`PixelTarget`); else a frozen image
            teacher (`models.teachers.TEACHERS`) makes them, outside of the model.
        projects: a trained MLP maps target features to embeddings; else the features are compared directly.
        embedding_dim: default of P, the embedding width; None: that of the target features.
    """

    from_pixels: bool
    projects: bool
    embedding_dim: int | None = None


TARGETS = {
    "mlp": TargetType(from_pixels=True, projects=True, embedding_dim=256),
    "pixel": TargetType(from_pixels=True, projects=False),
    "dino_v1": TargetType(from_pixels=False, projects=False),
    "dino_v2": TargetType(from_pixels=False, projects=False),
}
TARGET_TYPES = tuple(TARGETS)


@dataclass(frozen=True, kw_only=True)
class TargetConfig(Options):
    """The target network and the projection network."""

    target_type: str = option(
        "mlp",
        "what the decoder predicts: the trained projection of pixels, pixels, features of a frozen image teacher",
        choices=TARGET_TYPES,
    )
    distillation_teacher: str | None = option(
        None, "size of the teacher; default: dino_b", choices=("dino_s", "dino_b", "dino_l")
    )
    teacher_weights: str = option("", "the teacher's weights; default: from timm's hub", metavar="FILE")
    mlp_preloading: str = option(
        "", "take the projection network from this pre-training checkpoint, and freeze it", metavar="FILE"
    )
    normalize_target: bool = option(
        True,
        "pixel targets standardised per tubelet",
        names=("--normalize_target", "--normlize_target"),
        switch="optional value",
    )
    projection_dims: tuple[int, ...] = option(
        (1024, 1024, 512), "hidden widths of the projection MLP", rule=AT_LEAST_ONE
    )
    decoder_num_classes: int | None = option(
        None, "embedding width; default: 256 for mlp, the teacher's for dino", rule=AT_LEAST_ONE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, needed in (("distillation_teacher", "dino"), ("teacher_weights", "dino"), ("mlp_preloading", "mlp")):
            if (given := getattr(self, flag)) and not self.target_type.startswith(needed):
                allowed = " or ".join(kind for kind in TARGET_TYPES if kind.startswith(needed))
                raise OptionError(
                    f"--{flag} {given} is for --target_type {allowed}, not {self.target_type}: leave one of them out"
                )

    @property
    def uses_teacher(self) -> bool:
        """Whether a frozen image teacher gives the target features."""
        return not TARGETS[self.target_type].from_pixels

    @property
    def teacher(self) -> str:
        """Size of the image teacher."""
        return self.distillation_teacher or "dino_b"


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
        pixels_BMCP = patchify(clip_BCTHW, self.tubelet, masked_BM).float()  # a copy, so the following may be in place
        pixels_BMCP.mul_(self.std).add_(self.mean)
        if self.normalize:
            standardize_(pixels_BMCP, dim=-1)
        return pixels_BMCP.transpose(2, 3).flatten(2)
