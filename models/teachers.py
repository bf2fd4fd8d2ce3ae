"""Frozen image teachers: DINO and DINOv2 networks whose features SIGMA predicts (arXiv 2407.15447).

Letters: B clips, C channels, T H W frames and pixels, S single frames, t h w the student's token grid, y x a teacher's
grid of a frame, N = t * h * w tokens, M masked tokens, F target-feature width.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from einops import rearrange
from timm.layers import Attention as TimmAttention
from timm.layers import resample_abs_pos_embed
from timm.models import load_state_dict_from_hf
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from .registry import ModelError
from .targets import TEACHERS, TargetConfig, Teacher, standardize_
from .tokens import Tubelet, gather_tokens, split_by_mask

_WRAPPERS = ("teacher.", "module.", "_orig_mod.", "backbone.")  # around the network's names, outermost first
_EXTRAS = ("head.", "dino_head.", "ibot_head.", "mask_token")  # used in training only


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


def with_teacher_dim(targets: TargetConfig) -> TargetConfig:
    """The options with the embedding width that the image teacher gives: its features are compared as they are.

    Raises:
        ModelError: another width was asked for, or there is no such teacher.
    """
    if not targets.uses_teacher:
        return targets
    width = teacher_dim(targets.target_type, targets.teacher)
    if targets.decoder_num_classes not in (None, width):
        raise ModelError(f"--decoder_num_classes {targets.decoder_num_classes}: the teacher gives {width}")
    return replace(targets, decoder_num_classes=width)


class ImageTeacher(nn.Module):
    """Features of a frozen ViT at the masked positions, standardised per clip and channel over all tokens.

    The network runs in the dtype of its weights, outside autocast, and always in inference mode. The features are the
    tokens after its final norm, without class and register tokens, of the first frame of every tubelet
    (engine_for_pretraining.py of the released code).

    Args:
        network: a ViT of timm, made for the clip's frame size.
        tubelet: of the student.
        grid: (t, h, w) of the student; where the network's grid of a frame differs from (h, w), its features are
            resized to it, bilinearly.
    """

    def __init__(self, network: VisionTransformer, *, tubelet: Tubelet, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.attentions = [module for module in network.modules() if isinstance(module, TimmAttention)]
        self.frame_step = tubelet[0]
        self.grid = grid
        self.eval()

    def train(self, mode: bool = True) -> "ImageTeacher":
        """Stay in inference mode, whatever `mode` says."""
        return super().train(False)

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
        of_a_clip = gather_tokens(self.features(clip_BCTHW), masked_BM.reshape(len(clip_BCTHW), -1))
        return of_a_clip.reshape(*masked_BM.shape, -1)

    @torch.no_grad()
    def features(self, clip_BCTHW: torch.Tensor) -> torch.Tensor:
        """(B, N, F) float32, standardised, of all tokens of the clips."""
        weight = self.network.patch_embed.proj.weight
        frames_SCHW = rearrange(clip_BCTHW[:, :, :: self.frame_step], "b c t h w -> (b t) c h w").to(weight.dtype)
        on_cpu = weight.device.type == "cpu"
        for attention in self.attentions:  # the rule of `models.attention.attend`; Final for TorchScript
            attention.fused_attn = not (on_cpu and weight.dtype == torch.bfloat16)  # type: ignore[misc]
        with torch.autocast(clip_BCTHW.device.type, enabled=False):
            # On a CPU clip by clip: one clip's activations stay in the cache and their memory is reused.
            passes = frames_SCHW.split(self.grid[0]) if on_cpu else [frames_SCHW]
            tokens = torch.cat([self.network.forward_features(frames) for frames in passes])
            patches_SNF = tokens[:, self.network.num_prefix_tokens :].float()
            patches_SNF = _resize(patches_SNF, self.network.patch_embed.grid_size, self.grid[1:])
            features_BNF = rearrange(patches_SNF, "(b t) n f -> b (t n) f", t=self.grid[0])
            return standardize_(features_BNF, dim=1)


def _resize(tokens_SNF: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Tokens of an old grid (y, x) -> of a new one (h, w), bilinearly, pixel centres aligned."""
    if old == new:
        return tokens_SNF
    maps = rearrange(tokens_SNF, "s (y x) f -> s f y x", y=old[0])
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
) -> ImageTeacher:
    """A teacher with its weights, in host memory.

    Args:
        target_type, name: a key of `TEACHERS`.
        img_size: height and width of the clip's frames; the network's position table is resampled to it.
        tubelet, grid: the student's (`encoder.tubelet`, `encoder.grid`).
        dtype: of the network's weights and arithmetic; the features are float32 in any case.
        weights: content of a file, in a layout that `load_teacher` takes; None downloads them from timm's hub, or if
            that fails the authors' official file.

    Raises:
        ModelError: unknown pair, frame size that does not fit the patches, weights of another network, no download.
    """
    teacher = find_teacher(target_type, name)
    _check_size(teacher, img_size, tubelet)
    # Without timm's initialisation: every tensor comes from the file.
    network = timm.create_model(teacher.architecture, img_size=img_size, num_classes=0, weight_init="skip")
    assert isinstance(network, VisionTransformer)
    load_teacher(network, _download(teacher) if weights is None else weights)
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


def _download(teacher: Teacher) -> dict[str, Any]:
    """The weights from timm's hub or its cache, else the official file by torch's hub: the same numbers.

    Raises:
        ModelError: neither is available.
    """
    reasons = []
    for load in (
        lambda: load_state_dict_from_hf(f"timm/{teacher.architecture}"),
        lambda: torch.hub.load_state_dict_from_url(teacher.url, map_location="cpu", progress=False, weights_only=True),
    ):
        try:
            return load()
        except Exception as error:  # noqa: BLE001  # network, proxy, full disk, damaged or foreign file: the remedy is the same
            reasons.append(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    raise ModelError(
        f"the teacher's weights cannot be downloaded from timm's hub ({reasons[0]}), nor downloaded to, or read from, "
        f"{torch.hub.get_dir()}/checkpoints ({reasons[1]}): get {teacher.url} on a machine with a network and give it "
        "as --teacher_weights FILE"
    )


def load_teacher(network: VisionTransformer, state: Mapping[str, Any]) -> None:
    """Load a file's content into a network of `TEACHERS`, in place; every tensor must be in the file.

    Takes timm's layout; the official DINO layout (the same names) and its full checkpoints (`teacher` holding
    `backbone.*` and `head.*`); the official DINOv2 layout with registers. Heads and mask tokens are left out. The
    position table is resampled to the network's grid as timm does it, and as DINOv2 with registers does: bicubic,
    antialiased.

    timm's own `checkpoint_filter_fn` is not used: it would resample the patch embedding of another patch size, which
    makes an 8-pixel DINO file fit a 16-pixel network, and it does not check the position table's length.

    Raises:
        ModelError: a tensor is missing, unknown or of another shape; says how many fit, the first differences and the
            likely cause.
    """
    tensors = _fit_positions(network, _timm_names(_backbone(state)))
    own = network.state_dict()
    differences = _differences(own, tensors)
    if differences:
        fitting = [name for name in own if name in tensors and tensors[name].shape == own[name].shape]
        raise ModelError(
            f"--teacher_weights: another network: {len(fitting)} of the teacher's {len(own)} tensors fit. "
            f"First differences: {'; '.join(differences[:3])}. {_likely_cause(network, tensors)}"
        )
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise ModelError(f"--teacher_weights: {broken[0]} holds numbers that are not finite: the file is damaged")
    network.load_state_dict(tensors, strict=True)


def _differences(own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps a file's tensors from being the network's: other shapes first, then missing, then unknown names."""
    shapes = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(value.shape)} in the network"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    missing = [f"{name} is not in the file" for name in own if name not in tensors]
    unknown = [f"{name} is not in the network" for name in tensors if name not in own]
    return shapes + missing + unknown


def _backbone(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's tensors by their plain names, without wrappers, heads and mask token."""
    teacher = state.get("teacher")
    state = teacher if isinstance(teacher, Mapping) else state
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for wrapper in _WRAPPERS:
        if any(name.startswith(wrapper) for name in tensors):  # what lies outside is a student or a head
            tensors = {name.removeprefix(wrapper): v for name, v in tensors.items() if name.startswith(wrapper)}
    return {name: value for name, value in tensors.items() if not name.startswith(_EXTRAS)}


def _timm_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Official DINOv2 with registers -> timm, which adds the class token's position embedding to the token itself."""
    tensors = dict(tensors)
    if "register_tokens" in tensors:
        tensors["reg_token"] = tensors.pop("register_tokens")
        token, table = tensors.get("cls_token"), tensors.get("pos_embed")
        if token is not None and table is not None and table.ndim == 3 and token.shape == table[:, :1].shape:
            tensors["cls_token"], tensors["pos_embed"] = token + table[:, :1], table[:, 1:]
    return tensors


def _fit_positions(network: VisionTransformer, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The position table resampled to the network's grid, if it is one of a square grid."""
    table = tensors.get("pos_embed")
    if table is None or table.ndim != 3:
        return tensors
    num_prefix = 0 if network.no_embed_class else network.num_prefix_tokens
    num_places = table.shape[1] - num_prefix
    if num_places < 1 or math.isqrt(num_places) ** 2 != num_places:
        return tensors
    size = list(network.patch_embed.grid_size)
    return {**tensors, "pos_embed": resample_abs_pos_embed(table, new_size=size, num_prefix_tokens=num_prefix)}


def _likely_cause(network: VisionTransformer, tensors: Mapping[str, torch.Tensor]) -> str:
    """Why a file does not fit, and the remedy."""
    kernel, own = tensors.get("patch_embed.proj.weight"), network.patch_embed.proj.weight
    if kernel is None or kernel.ndim != 4:
        return "It does not have the names of an official DINO file or of timm"
    patch_size, dim = kernel.shape[-1], kernel.shape[0]
    if (patch_size, dim) != (own.shape[-1], own.shape[0]):
        cause = f"It is a ViT of patch size {patch_size} and width {dim}, not {own.shape[-1]} and {own.shape[0]}"
        for (target_type, name), teacher in TEACHERS.items():
            if (teacher.patch_size, teacher.feature_dim) == (patch_size, dim):
                return f"{cause}: its options are --target_type {target_type} --distillation_teacher {name}"
        return cause
    if network.num_reg_tokens and "reg_token" not in tensors:
        return "It is a DINOv2 without register tokens: take the official file with _reg4_ in its name"
    return "It is damaged, or of another network of this width"
