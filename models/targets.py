"""What is predicted at the masked positions: pixels here, features of a frozen network in teachers.py.

Letters: B clips, C channels, T H W frames and pixels, N tokens, M masked tokens, F target-feature width.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, OptionError, Options, option

from .kernels.support import use_kernels
from .tokens import Tubelet, patchify

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_KERNEL_PIXELS = 8192  # of a tubelet, whose channel is in the registers of a thread block


@dataclass(frozen=True)
class Teacher:
    """A network of timm and the official file of its weights."""

    architecture: str  # timm's name
    patch_size: int
    feature_dim: int
    url: str


_DINO = "https://dl.fbaipublicfiles.com/dino"
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
TEACHERS = {  # (--target_type, --distillation_teacher); a new image teacher is one row
    ("dino_v1", "dino_s"): Teacher(  # arXiv 2104.14294
        "vit_small_patch16_224.dino", 16, 384, f"{_DINO}/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"
    ),
    ("dino_v1", "dino_b"): Teacher(
        "vit_base_patch16_224.dino", 16, 768, f"{_DINO}/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
    ),
    ("dino_v2", "dino_s"): Teacher(  # arXiv 2304.07193, with the registers of 2309.16588
        "vit_small_patch14_reg4_dinov2.lvd142m", 14, 384, f"{_DINOV2}/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth"
    ),
    ("dino_v2", "dino_b"): Teacher(
        "vit_base_patch14_reg4_dinov2.lvd142m", 14, 768, f"{_DINOV2}/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth"
    ),
    ("dino_v2", "dino_l"): Teacher(
        "vit_large_patch14_reg4_dinov2.lvd142m", 14, 1024, f"{_DINOV2}/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth"
    ),
}
DEFAULT_TEACHER = "dino_b"


def standardize_(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Zero mean, unit variance along `dim`, in place: (x - mean) / (sqrt(unbiased variance) + 1e-6).

    As in engine_for_pretraining.py of the released code. In place, because on a CPU new memory of a clip's size costs
    more than the arithmetic.
    """
    x -= x.mean(dim, keepdim=True)
    return x.div_(deviation(x, dim))


def deviation(centred: torch.Tensor, dim: int) -> torch.Tensor:
    """sqrt(unbiased variance) + 1e-6 along `dim`, which is kept, of numbers whose mean is zero."""
    return torch.linalg.vector_norm(centred, dim=dim, keepdim=True) / (centred.shape[dim] - 1) ** 0.5 + 1e-6


class PixelTarget(nn.Module):
    """RGB values of the masked tubelets, each standardised per tubelet and channel if `normalize` (arXiv 2203.12602).

    `forward`: clip (B, 3, T, H, W), ImageNet-normalised, and positions (B, M) -> (B, M, pt * ph * pw * 3), RGB fastest.
    Where Triton kernels run it is one launch, equal up to rounding.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tubelet: Tubelet, *, normalize: bool = True) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.dim = 3 * math.prod(tubelet)  # F
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(3, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(3, 1), persistent=False)

    @torch.no_grad()
    def forward(self, clip_BCTHW: torch.Tensor, masked_BM: torch.Tensor) -> torch.Tensor:
        if math.prod(self.tubelet) <= MAX_KERNEL_PIXELS and use_kernels(clip_BCTHW.device):
            from .kernels.pixels import pixel_targets  # here, because PyTorch installs Triton for CUDA only

            return pixel_targets(
                clip_BCTHW, masked_BM, self.tubelet, mean=self.mean, std=self.std, normalize=self.normalize
            )
        pixels_BMCP = patchify(clip_BCTHW, self.tubelet, masked_BM).float()  # a copy, so the following may be in place
        pixels_BMCP.mul_(self.std).add_(self.mean)
        if self.normalize:
            standardize_(pixels_BMCP, dim=-1)
        return pixels_BMCP.transpose(2, 3).flatten(2)


@dataclass(frozen=True)
class TargetType:
    """One kind of `--target_type`.

    Attributes:
        features: class of the target network that is part of the model; it is made with (tubelet, normalize=...), has
            `dim`, the width F of its features, and maps (clip, masked positions) to them. None: a frozen teacher makes
            them, outside of the model.
        projects: a trained MLP maps target features to embeddings; else the features are compared directly.
        described: the features in words, for the plan; a teacher has a name instead.
        loss: default of `--loss_func`.
        embedding_dim: default of P, the embedding width; None: that of the target features.
        named: `--teacher` names the teacher; else it is a row of TEACHERS.
    """

    features: type[PixelTarget] | None
    projects: bool
    described: str = ""
    loss: str = "SWAV"
    embedding_dim: int | None = None
    named: bool = False


TARGETS = {
    "mlp": TargetType(PixelTarget, projects=True, described="standardised pixels", embedding_dim=256),
    "pixel": TargetType(PixelTarget, projects=False, described="pixels", loss="L2"),
    **{kind: TargetType(None, projects=False) for kind, _ in TEACHERS},
    "timm": TargetType(None, projects=False, named=True),
    "video": TargetType(None, projects=False, named=True),
}
TARGET_TYPES = tuple(TARGETS)


@dataclass(frozen=True, kw_only=True)
class TargetConfig(Options):
    """The target network and the projection network."""

    target_type: str = option(
        "mlp",
        "what the decoder predicts: the trained projection of pixels, pixels, or features of a frozen teacher: DINO, "
        "DINOv2, any ViT of timm, a video model of this project",
        choices=TARGET_TYPES,
    )
    distillation_teacher: str | None = option(
        None, f"the teacher's network; default: {DEFAULT_TEACHER}", choices=tuple(dict.fromkeys(n for _, n in TEACHERS))
    )
    teacher: str = option(
        "", "of --target_type timm: name of a ViT of timm; of video: a checkpoint", metavar="NAME|FILE"
    )
    teacher_weights: str = option("", "an image teacher's weights; default: from timm's hub", metavar="FILE")
    center_teacher: bool = option(
        False, "subtract from a teacher's features at each position their mean over the batch of all ranks"
    )
    mlp_preloading: str = option(
        "", "take the projection network from this pre-training checkpoint, and freeze it", metavar="FILE"
    )
    freeze_projection_epochs: int = option(
        0,
        "epochs at the start in which the projection network keeps its first weights; --epochs: always",
        rule=NOT_NEGATIVE,
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
        None, "embedding width; default: 256 for mlp, that of a teacher's features", rule=AT_LEAST_ONE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        images = [name for name, kind in TARGETS.items() if kind.features is None and name != "video"]
        for flag, allowed in (
            ("distillation_teacher", [name for name in images if not TARGETS[name].named]),
            ("teacher", [name for name, kind in TARGETS.items() if kind.named]),
            ("teacher_weights", images),
            ("mlp_preloading", [name for name, kind in TARGETS.items() if kind.projects]),
        ):
            if (given := getattr(self, flag)) and self.target_type not in allowed:
                raise OptionError(
                    f"--{flag} {given} is for --target_type {' or '.join(allowed)}, not {self.target_type}: "
                    "leave one of them out"
                )

    def ignored(self) -> dict[str, str]:
        found, kind = dict[str, str](), TARGETS[self.target_type]
        if not kind.projects:
            nothing = f"--target_type {self.target_type} has no projection network"
            found |= dict.fromkeys(("projection_dims", "freeze_projection_epochs"), nothing)
        elif self.mlp_preloading:
            found["freeze_projection_epochs"] = "--mlp_preloading freezes the projection network in all epochs"
        if self.center_teacher and not self.uses_teacher:
            found["center_teacher"] = f"--target_type {self.target_type} has no frozen teacher"
        if not self.normalize_target and (kind.projects or self.uses_teacher):
            own = " or ".join(name for name, row in TARGETS.items() if row.features and not row.projects)
            found["normalize_target"] = f"False is for --target_type {own}, not {self.target_type}"
        return found

    @property
    def uses_teacher(self) -> bool:
        """Whether a frozen teacher gives the target features."""
        return TARGETS[self.target_type].features is None

    @property
    def teacher_name(self) -> str:
        """The teacher as its paper calls it, with its size; or by its own name."""
        if TARGETS[self.target_type].named:
            return self.teacher if self.target_type == "timm" else f"video model ({self.teacher})"
        family = {"dino_v1": "DINO", "dino_v2": "DINOv2"}.get(self.target_type, self.target_type)
        return f"{family} ({self.known_teacher})"

    @property
    def known_teacher(self) -> str:
        """With `target_type` a key of TEACHERS."""
        own = [name for kind, name in TEACHERS if kind == self.target_type]
        default = DEFAULT_TEACHER if DEFAULT_TEACHER in own or not own else own[0]
        return self.distillation_teacher or default
