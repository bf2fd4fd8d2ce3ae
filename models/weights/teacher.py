"""Weights of the image teachers: downloads, and files in the layouts of their authors and of timm."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import load_state_dict_from_hf
from timm.models.vision_transformer import VisionTransformer

from ..registry import ModelError
from ..targets import TEACHERS, Teacher

_WRAPPERS = ("teacher.", "module.", "_orig_mod.", "backbone.")  # around the network's names, outermost first
_EXTRAS = ("head.", "dino_head.", "ibot_head.", "mask_token")  # used in training only


def download_teacher(teacher: Teacher) -> dict[str, Any]:
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
    refuse_nonfinite(tensors, "--teacher_weights")
    network.load_state_dict(tensors, strict=True)


def refuse_nonfinite(tensors: Mapping[str, torch.Tensor], named: str) -> None:
    """Raise ModelError for the first tensor with NaN or Inf; `named` begins the message."""
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{named}: {name} holds numbers that are not finite: the file is damaged")


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
