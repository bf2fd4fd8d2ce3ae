"""Frozen teachers that `--teacher` names: any ViT of timm, frame by frame, and a video model of this project.

A frozen video model whose latents a student predicts: SALT (arXiv 2509.24317). Here SIGMA clusters them.

Letters: B clips, C channels, T H W frames and pixels, S single frames, t h w the student's token grid, y x a network's
grid of a frame, N = t * n = t * h * w tokens, F target-feature width.
"""

from typing import Any

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch.nn import functional

from sigma_video.command_line import did_you_mean

from .kernels.support import is_on_gpu
from .registry import ModelError
from .targets import IMAGENET_MEAN, IMAGENET_STD
from .teachers import FrozenTeacher
from .tokens import Tubelet
from .vit import VideoTransformer
from .weights.teacher import refuse_nonfinite


class TimmTeacher(FrozenTeacher):
    """Tokens of a ViT of timm, without class and register tokens, of every tubelet's first frame.

    Frames are normalised as the network was trained, by timm's own configuration, and resized so that its grid of a
    frame is the student's: a student with patches of 16 at 224 pixels shows a teacher with patches of 14 frames of 196.

    Args:
        network: made for such frames; see `timm_network`.
        tubelet, grid: of the student.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: Any, *, tubelet: Tubelet, grid: tuple[int, int, int]) -> None:
        super().__init__(network, tubelet=tubelet, grid=grid)
        self.num_passes = grid[0]
        self.num_pass_tokens = grid[1] * grid[2] + network.num_prefix_tokens
        self.frame_size = tuple(n * p for n, p in zip(grid[1:], network.patch_embed.patch_size, strict=True))
        # Of values v * (student's std) + (student's mean): one product and one sum.
        config, student_std = network.pretrained_cfg, torch.tensor(IMAGENET_STD)
        std = torch.tensor(config["std"]).reshape(3, 1, 1)
        shift = torch.tensor(IMAGENET_MEAN) - torch.tensor(config["mean"])
        self.register_buffer("scale", student_std.reshape(3, 1, 1) / std, persistent=False)
        self.register_buffer("shift", shift.reshape(3, 1, 1) / std, persistent=False)

    def _tokens(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        dtype = next(self.network.parameters()).dtype
        frames = clip_BCTHW[:, :, :: self.frame_step].transpose(1, 2).flatten(0, 1).float()
        if frames.shape[-2:] != self.frame_size:
            frames = functional.interpolate(
                frames, size=self.frame_size, mode="bicubic", align_corners=False, antialias=True
            )
        frames = (frames * self.scale + self.shift).to(dtype)
        # On a CPU clip by clip: one clip's activations stay in the cache and their memory is reused.
        passes = [frames] if is_on_gpu(frames) else frames.split(self.grid[0])
        tokens = torch.cat([self.network.forward_features(part) for part in passes])
        return tokens[:, self.network.num_prefix_tokens :].unflatten(0, (-1, self.grid[0]))


class VideoTeacher(FrozenTeacher):
    """Tokens of a video encoder of this project, which sees the whole clip: its tubelets are the student's.

    Args:
        network: made for the student's clips; only its part as a `VideoTransformer` is used, with its final norm.
        tubelet, grid: of the student.

    Raises:
        ModelError: the network cuts clips into other tubelets.
    """

    def __init__(self, network: VideoTransformer, *, tubelet: Tubelet, grid: tuple[int, int, int]) -> None:
        if (network.tubelet, network.grid) != (tubelet, grid):
            raise ModelError(
                f"its tubelets are {'x'.join(map(str, network.tubelet))}, the model's {'x'.join(map(str, tubelet))}: a "
                "video teacher needs the model's own; choose --model and --tubelet_size by it"
            )
        super().__init__(network, tubelet=tubelet, grid=grid)
        self.num_passes, self.num_pass_tokens = 1, network.num_tokens

    def _tokens(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        clip = clip_BCTHW.to(next(self.network.parameters()).dtype)
        passes = [clip] if is_on_gpu(clip) else clip.split(1)
        tokens_BND = torch.cat([VideoTransformer.forward(self.network, part) for part in passes])
        return tokens_BND.unflatten(1, (self.grid[0], -1))


def timm_width(name: str) -> int:
    """F, the width of a timm ViT's features, without its weights.

    Raises:
        ModelError: timm has no such network, or it is no ViT.
    """
    with torch.device("meta"):
        width: int = _create(name).num_features
    return width


def timm_network(name: str, grid: tuple[int, int, int], weights: str = "", *, empty: bool = False) -> Any:
    """A timm ViT whose grid of a frame is the student's, with its weights.

    Args:
        name: with or without the tag of its weights, as `vit_small_patch16_dinov3.lvd1689m`.
        weights: a file that timm reads; "": from timm's hub or its cache.
        empty: without weights, on the device "meta".

    Raises:
        ModelError: no such ViT, no weights for it, weights of another network or with NaN, no download.
    """
    with torch.device("meta"):
        patch = _create(name).patch_embed.patch_size
    size = tuple(n * p for n, p in zip(grid[1:], patch, strict=True))
    if empty:
        with torch.device("meta"):
            return _create(name, img_size=size)
    overlay = {"file": weights} if weights else None
    try:
        network = _create(name, pretrained=True, img_size=size, pretrained_cfg_overlay=overlay)
    except ModelError:
        raise
    except Exception as error:  # network, proxy, full disk, damaged or foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if weights:
            raise ModelError(
                f"--teacher {name}: timm cannot read these weights ({reason}): --teacher_weights takes a file of "
                "timm's of this network, .pth or .safetensors"
            ) from error
        raise ModelError(
            f"--teacher {name}: its weights cannot be taken from timm's hub ({reason}): get them on a machine with a "
            "network and give the file as --teacher_weights FILE"
        ) from error
    refuse_nonfinite(network.state_dict(), f"--teacher {name}")
    return network


def describe_timm(network: Any) -> dict[str, str]:
    """Name with the tag of the weights, licence of the weights, version of timm: what a checkpoint records."""
    config = network.pretrained_cfg
    name = ".".join(filter(None, (config["architecture"], config.get("tag"))))
    return {"name": name, "licence": config.get("license") or "none stated", "timm": timm.__version__}


def _create(name: str, **options: Any) -> Any:
    """A network without its classifier. Raises ModelError where timm has none of this name, or it is no ViT."""
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models(pretrained=True))
        raise ModelError(f"--teacher {name}: timm {timm.__version__} has no such model.{near}")
    architecture, _, tag = name.partition(".")
    if tag and name not in (known := get_arch_pretrained_cfgs(architecture)):
        raise ModelError(f"--teacher {name}: timm {timm.__version__} has no such weights; it has {', '.join(known)}")
    network = timm.create_model(name, num_classes=0, **options)
    if not hasattr(network, "num_prefix_tokens") or not hasattr(network, "blocks"):
        raise ModelError(f"--teacher {name}: a {type(network).__name__} is no ViT, whose features are a grid of tokens")
    return network
