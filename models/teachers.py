"""Frozen teachers, whose features SIGMA predicts: DINO and DINOv2 (arXiv 2407.15447); more_teachers.py has others.

Letters: B clips, C channels, T H W frames and pixels, S single frames, t h w the student's token grid, y x a teacher's
grid of a frame, N = t * n = t * h * w tokens, M masked tokens, P values of a patch, F target-feature width.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import timm
import torch
from einops import rearrange
from timm.layers import Attention as TimmAttention
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from .kernels.support import is_on_gpu
from .registry import ModelError
from .targets import TARGETS, TEACHERS, TargetConfig, Teacher, deviation, standardize_
from .tokens import Tubelet, gather_tokens, split_by_mask
from .weights.teacher import download_teacher, load_teacher


def find_teacher(target_type: str, name: str) -> Teacher:
    """The row of `TEACHERS`.

    Raises:
        ModelError: no such pair; lists the valid ones.
    """
    if (target_type, name) not in TEACHERS:
        valid = "; ".join(f"--target_type {kind} --distillation_teacher {known}" for kind, known in TEACHERS)
        raise ModelError(f"--target_type {target_type} --distillation_teacher {name}: no such teacher. Valid: {valid}")
    return TEACHERS[target_type, name]


def teacher_dim(target_type: str, name: str) -> int:
    """F, the width of a teacher's features, without building it. Raises ModelError for an unknown pair."""
    return find_teacher(target_type, name).feature_dim


def with_teacher_dim(targets: TargetConfig, width: int | None = None) -> TargetConfig:
    """The options with the embedding width that the teacher gives: its features are compared as they are.

    Args:
        width: of the features of a teacher that `--teacher` names.

    Raises:
        ModelError: another width was asked for, or there is no such teacher.
    """
    if not targets.uses_teacher:
        return targets
    if not TARGETS[targets.target_type].named:
        width = teacher_dim(targets.target_type, targets.known_teacher)
    if targets.decoder_num_classes not in (None, width):
        raise ModelError(f"--decoder_num_classes {targets.decoder_num_classes}: the teacher gives {width}")
    return replace(targets, decoder_num_classes=width)


class PatchEmbedding(nn.Module):
    """timm's patch embedding on patches that are cut already: one matmul instead of a convolution, the same weights."""

    def __init__(self, embedding: "PatchEmbed | PatchEmbedding") -> None:
        super().__init__()
        self.proj: nn.Conv2d = embedding.proj
        self.norm: nn.Module = embedding.norm
        self.grid_size: tuple[int, int] = embedding.grid_size
        self.patch_size: tuple[int, int] = embedding.patch_size

    def forward(self, patches_SNP: torch.Tensor) -> torch.Tensor:
        """(S, N, channels x height x width of a patch) -> (S, N, F)."""
        return self.norm(functional.linear(patches_SNP, self.proj.weight.flatten(1), self.proj.bias))


class StandardizedTargets(nn.Module):
    """Tokens at some positions, standardised per clip and channel over all tokens; see `standardize_`.

    A module of its own, so that `torch.compile` can make one pass for the mean, one for the variance and one for the
    result of it. Only the tokens at the positions are divided.
    """

    def forward(self, tokens_BtnF: torch.Tensor, index_BM: torch.Tensor) -> torch.Tensor:
        """(B, t, n, F), N = t * n, and positions (B, M) -> (B, M, F) float32. May overwrite the tokens."""
        centred_BNF = tokens_BtnF.float().flatten(1, 2)
        centred_BNF -= centred_BNF.mean(dim=1, keepdim=True)
        return gather_tokens(centred_BNF, index_BM).div_(deviation(centred_BNF, dim=1))


class FrozenTeacher(nn.Module):
    """Features of a frozen transformer at the masked positions, standardised per clip and channel over all tokens.

    The network runs in the dtype of its weights, outside autocast, and always in inference mode. A subclass says what
    the tokens of a clip are, in `_tokens`.

    Attributes:
        network: the frozen transformer; it has `blocks`.
        num_passes, num_pass_tokens: how often a clip goes through the blocks, and its tokens in one pass.

    Args:
        tubelet, grid: of the student: frames and pixels, and (t, h, w) tokens.
    """

    num_passes: int
    num_pass_tokens: int

    def __init__(self, network: Any, *, tubelet: Tubelet, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.standardized = StandardizedTargets()
        self.frame_step = tubelet[0]
        self.grid = grid
        self.all_reduce: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.eval()

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in inference mode, whatever `mode` says."""
        return super().train(False)

    def compiled_parts(self) -> list[nn.Module]:
        """What `torch.compile` makes faster, one by one."""
        return [*self.network.blocks, self.standardized]

    def center(self, all_reduce: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """From now on subtract from the tokens at each position their mean over the clips of all ranks' batches.

        What the tokens of a position have in common tells where they are, and nothing of what is seen.
        """
        self.all_reduce = all_reduce

    def _tokens(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """(B, t, n, F) on the student's grid, outside autocast, of any float type."""
        raise NotImplementedError

    def _centered_tokens(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        tokens_BtnF = self._tokens(clip_BCTHW)
        if self.all_reduce is None:
            return tokens_BtnF
        tokens_BtnF = tokens_BtnF.float()
        clips = tokens_BtnF.new_full((1,), len(tokens_BtnF))
        sums = self.all_reduce(torch.cat([tokens_BtnF.sum(dim=0).flatten(), clips]))
        return tokens_BtnF - (sums[:-1] / sums[-1]).view_as(tokens_BtnF[0])

    @torch.no_grad()  # and not inference_mode, whose tensors a loss may not save for its backward pass
    def forward(self, clip_BCTHW: torch.Tensor, mask_BN: torch.Tensor, num_masked: int | None = None) -> torch.Tensor:
        """Target features of the masked tokens; a clip with several masks is encoded once.

        Args:
            clip_BCTHW: (B, 3, T, H, W) float, ImageNet-normalised.
            mask_BN: (B, N) or (G * B, N) bool, the G masks of a clip one after another, True = masked, the same number
                in every row; best kept in host memory.
            num_masked: M, if known: then a mask on the device is not counted there (see `split_by_mask`).

        Returns:
            (B, M, F) or (G * B, M, F) float32.

        Raises:
            ValueError: clip or mask of another size than the student's grid.
        """
        num_tokens = math.prod(self.grid)
        if mask_BN.shape[1] != num_tokens or clip_BCTHW.shape[2] != self.grid[0] * self.frame_step:
            raise ValueError(
                f"the teacher is made for {self.grid[0] * self.frame_step} frames and {num_tokens} tokens a clip, "
                f"got {clip_BCTHW.shape[2]} frames and a mask of {mask_BN.shape[1]}"
            )
        _, masked_BM = split_by_mask(mask_BN, clip_BCTHW.device, num_masked=num_masked)
        with torch.autocast(clip_BCTHW.device.type, enabled=False):
            of_a_clip = self.standardized(self._centered_tokens(clip_BCTHW), masked_BM.reshape(len(clip_BCTHW), -1))
        return of_a_clip.reshape(*masked_BM.shape, -1)

    @torch.no_grad()
    def features(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """(B, N, F) float32, standardised, of all tokens of the clips."""
        with torch.autocast(clip_BCTHW.device.type, enabled=False):
            return standardize_(self._centered_tokens(clip_BCTHW).float().flatten(1, 2), dim=1)


class ImageTeacher(FrozenTeacher):
    """DINO, DINOv2: tokens after the final norm, without class and registers, of the first frame of every tubelet.

    As in engine_for_pretraining.py of the released code.

    Args:
        network: a ViT of timm, made for the clip's frame size; its patch embedding is replaced by `PatchEmbedding`.
        tubelet: of the student.
        grid: (t, h, w) of the student; where the network's grid of a frame differs from (h, w), its features are
            resized to it, bilinearly.
    """

    def __init__(self, network: VisionTransformer, *, tubelet: Tubelet, grid: tuple[int, int, int]) -> None:
        network.patch_embed = PatchEmbedding(network.patch_embed)
        super().__init__(network, tubelet=tubelet, grid=grid)
        self.attentions = [module for module in network.modules() if isinstance(module, TimmAttention)]
        self.num_passes = grid[0]
        self.num_pass_tokens = math.prod(network.patch_embed.grid_size) + network.num_prefix_tokens

    def _tokens(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """(B, t, n, F) on the student's grid, in the network's dtype where nothing is resized, else float32."""
        weight = self.network.patch_embed.proj.weight
        on_cpu = not is_on_gpu(weight)
        for attention in self.attentions:  # the rule of `models.attention.attend`; Final for TorchScript
            attention.fused_attn = not (on_cpu and weight.dtype == torch.bfloat16)  # type: ignore[misc]
        patches_SNP = self._patches(clip_BCTHW, weight.dtype)
        with torch.autocast(clip_BCTHW.device.type, enabled=False):
            # On a CPU clip by clip: one clip's activations stay in the cache and their memory is reused.
            passes = patches_SNP.split(self.grid[0]) if on_cpu else [patches_SNP]
            tokens = torch.cat([self.network.forward_features(patches) for patches in passes])
            patches_SNF = tokens[:, self.network.num_prefix_tokens :]
            patches_SNF = resize_tokens(patches_SNF, self.network.patch_embed.grid_size, self.grid[1:])
            return patches_SNF.unflatten(0, (-1, self.grid[0]))

    def _patches(self, clip_BCTHW: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(S, N, P) patches of the first frame of every tubelet, each channel by channel: one pass over the clip."""
        height, width = self.network.patch_embed.patch_size
        frames = clip_BCTHW[:, :, :: self.frame_step]
        cut = rearrange(frames, "b c t (y h) (x w) -> b t y x c h w", h=height, w=width)
        cut = cut.to(dtype, memory_format=torch.contiguous_format)  # before it is flattened, which copies too
        return rearrange(cut, "b t y x c h w -> (b t) (y x) (c h w)")


def resize_tokens(tokens_SNF: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Tokens of an old grid (y, x) -> of a new one (h, w), bilinearly, pixel centres aligned; then in float32."""
    if old == new:
        return tokens_SNF
    maps = rearrange(tokens_SNF.float(), "s (y x) f -> s f y x", y=old[0])
    maps = functional.interpolate(maps, size=new, mode="bilinear", align_corners=False)
    return rearrange(maps, "s f h w -> s (h w) f")


def build_teacher(
    target_type: str,
    name: str,
    *,
    img_size: int,
    tubelet: Tubelet,
    grid: tuple[int, int, int],
    dtype: torch.dtype,
    weights: Mapping[str, Any] | None = None,
    empty: bool = False,
) -> ImageTeacher:
    """A teacher with its weights, in host memory.

    Args:
        target_type, name: a key of `TEACHERS`.
        img_size: height and width of the clip's frames; the network's position table is resampled to it.
        tubelet, grid: the student's (`encoder.tubelet`, `encoder.grid`).
        dtype: of the network's weights and arithmetic; the features are float32 in any case.
        weights: content of a file, in a layout that `load_teacher` takes; None downloads them from timm's hub, or if
            that fails the authors' official file.
        empty: without weights, on the device "meta": nothing is downloaded.

    Raises:
        ModelError: unknown pair, frame size that does not fit the patches, weights of another network, no download.
    """
    teacher = find_teacher(target_type, name)
    _check_size(teacher, img_size, tubelet)
    # Without timm's initialisation: every tensor comes from the file.
    with torch.device("meta") if empty else nullcontext():
        network = timm.create_model(teacher.architecture, img_size=img_size, num_classes=0, weight_init="skip")
    assert isinstance(network, VisionTransformer)
    if not empty:
        load_teacher(network, download_teacher(teacher) if weights is None else weights)
    return ImageTeacher(network.to(dtype), tubelet=tubelet, grid=grid)


def _check_size(teacher: Teacher, img_size: int, tubelet: Tubelet) -> None:
    if img_size < 1 or img_size % teacher.patch_size:
        step = math.lcm(teacher.patch_size, *tubelet[1:])  # sizes that suit the student too
        below = img_size // step * step
        nearest = f"{below} or {below + step}" if below > 0 else f"{step}"
        raise ModelError(
            f"--input_size {img_size} is not a multiple of the teacher's patch size {teacher.patch_size}: "
            f"the nearest sizes for student and teacher are {nearest}"
        )
