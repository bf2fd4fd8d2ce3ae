"""Figures of a pre-training batch: clips, masks, predicted pixels, use of the prototypes.

Letters: B clips, C channels, T H W frames and pixels, t h w token grid, pt ph pw tubelet and P its pixels, N tokens,
M masked tokens, K prototypes. Pictures are uint8 (C, height, width), C 3 or 1.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from ..positions import Grid
from ..sigma import Sigma
from ..targets import IMAGENET_MEAN, IMAGENET_STD, PixelTarget
from ..tokens import Tubelet, patchify

NUM_CLIPS = 4
DARKENED = 0.2  # brightness of masked tubelets
MOST_USED = 256  # prototypes whose cosines are shown
_BARS, _BAR_HEIGHT = 512, 96  # most columns, and rows, of the bar chart of use
_MIN_WIDTH = 256  # with fewer prototypes columns are wider

Named = dict[str, torch.Tensor]


@torch.no_grad()
def clip_pictures(clip_BCTHW: torch.Tensor, *, frame_step: int = 2) -> Named:
    """`clips`: the first clips, one below the other, every `frame_step`-th of their frames side by side.

    Args:
        clip_BCTHW: ImageNet-normalised.
    """
    return {"clips": _strip([_to_rgb(clip_BCTHW[:NUM_CLIPS])[:, :, ::frame_step]])}


def pretraining_pictures(
    model: Sigma, clip_BCTHW: torch.Tensor, out: Mapping[str, torch.Tensor]
) -> tuple[Named, Named]:
    """`mask_pictures` and, where the model has prototypes, `prototype_pictures`: pictures, and values by name."""
    pictures, values = mask_pictures(model, clip_BCTHW, out), Named()
    if model.prototypes is not None and model.prototypes.ndim == 2:  # ZeRO-3 leaves an empty shard
        of_prototypes, values = prototype_pictures(model.prototypes, out)
        pictures |= of_prototypes
    return pictures, values


@torch.no_grad()
def mask_pictures(model: Sigma, clip_BCTHW: torch.Tensor, out: Mapping[str, torch.Tensor]) -> Named:
    """`masks`: the first frames of the tubelets of the first clips; below them, the masked tubelets darkened.

    With pixels as targets it is `reconstruction`, which has a third row: the masked tubelets as predicted. Standardised
    predictions are shown with each tubelet's true mean and deviation.

    Args:
        clip_BCTHW: ImageNet-normalised.
        out: `mask` (B, N), the one that was used, and for pixels `predicted` (B, M, 3 P) and `decoded` (B, M).
    """
    tubelet, grid = model.encoder.tubelet, model.encoder.grid
    rgb, mask_BN = _to_rgb(clip_BCTHW[:NUM_CLIPS]), out["mask"][:NUM_CLIPS].to(clip_BCTHW.device)
    tubelets_BNCP = patchify(rgb, tubelet)
    darkened = tubelets_BNCP * torch.where(mask_BN, DARKENED, 1.0)[:, :, None, None]
    rows, name = [rgb, _unpatchify(darkened, grid, tubelet)], "masks"
    if predicts_pixels(model):
        rows.append(reconstruct(model, rgb, out["predicted"][:NUM_CLIPS], out["decoded"][:NUM_CLIPS]))
        name = "reconstruction"
    return {name: _strip([row[:, :, :: tubelet[0]] for row in rows])}


def predicts_pixels(model: Sigma) -> bool:
    """Whether the model's predictions are pixels, as VideoMAE's, so that they can be looked at."""
    return isinstance(model.targets, PixelTarget) and isinstance(model.head, nn.Identity) and model.prototypes is None


@torch.no_grad()
def reconstruct(
    model: Sigma, rgb_BCTHW: torch.Tensor, predicted_BMP: torch.Tensor, masked_BM: torch.Tensor
) -> torch.Tensor:
    """(B, C, T, H, W): clips whose masked tubelets are as predicted.

    Args:
        model: one that `predicts_pixels`; if its targets are standardised, each tubelet's true mean and deviation are
            put back.
        rgb_BCTHW: in [0, 1]. The result may leave that range.
        predicted_BMP: pixels of tubelets, RGB fastest.
        masked_BM: their positions.
    """
    tubelets_BNCP = patchify(rgb_BCTHW, model.encoder.tubelet)
    predicted_BMCP = predicted_BMP.float().unflatten(2, (-1, 3)).transpose(2, 3)
    at = torch.arange(len(masked_BM), device=masked_BM.device)[:, None], masked_BM
    if isinstance(model.targets, PixelTarget) and model.targets.normalize:
        true = tubelets_BNCP[at]
        predicted_BMCP = predicted_BMCP * true.std(dim=-1, keepdim=True) + true.mean(dim=-1, keepdim=True)
    filled = tubelets_BNCP.clone()
    filled[at] = predicted_BMCP
    return _unpatchify(filled, model.encoder.grid, model.encoder.tubelet)


@torch.no_grad()
def prototype_pictures(prototypes_KP: torch.Tensor, out: Mapping[str, torch.Tensor]) -> tuple[Named, Named]:
    """How the prototypes are used in a batch, and how alike they are.

    Args:
        out: `codes_video`, `codes_target`: any shape, int64.

    Returns:
        Pictures: `prototypes/use`, a column for each prototype, the most used first, as high as the tokens it has, for
        the video's codes above and the target's below; `prototypes/cosine`, the cosines between those that the target's
        codes use most, black -1 and white 1.
        Values: `prototypes/tokens_video` and `prototypes/tokens_target`, (K,): each prototype's tokens.
    """
    num_prototypes = len(prototypes_KP)
    counts = {name: out[f"codes_{name}"].flatten().bincount(minlength=num_prototypes) for name in ("video", "target")}
    most_used = counts["target"].argsort(descending=True)[:MOST_USED]
    unit = F.normalize(prototypes_KP[most_used].float(), dim=-1)
    pictures = {
        "prototypes/use": _widen(torch.cat([_bars(count) for count in counts.values()], dim=1)),
        "prototypes/cosine": _widen(_widen(_to_uint8((unit @ unit.T + 1) / 2)[None]).mT).mT,
    }
    return pictures, {f"prototypes/tokens_{name}": count.float() for name, count in counts.items()}


def _bars(counts_K: torch.Tensor) -> torch.Tensor:
    """(1, _BAR_HEIGHT, at most _BARS): the counts in descending order, as columns; of neighbours the highest."""
    counts = counts_K.float().sort(descending=True).values
    counts = F.adaptive_max_pool1d(counts[None], min(len(counts), _BARS))[0]
    heights = counts / counts.max().clamp_min(1) * _BAR_HEIGHT
    rows = torch.arange(_BAR_HEIGHT, 0, -1, device=counts.device)[:, None]
    return _to_uint8((rows <= heights.ceil()).float())[None]


def _widen(picture: torch.Tensor) -> torch.Tensor:
    """Repeat the columns until they are about `_MIN_WIDTH`."""
    return picture.repeat_interleave(max(_MIN_WIDTH // picture.shape[-1], 1), dim=-1)


def _unpatchify(x_BNCP: torch.Tensor, grid: Grid, tubelet: Tubelet) -> torch.Tensor:
    """The reverse of `patchify`."""
    (t, h, w), (pt, ph, pw) = grid, tubelet
    return rearrange(x_BNCP, "b (t h w) c (pt ph pw) -> b c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)


def _strip(rows: list[torch.Tensor]) -> torch.Tensor:
    """Versions of clips, each (B, C, T, H, W) in [0, 1] -> one picture: a clip's versions one below the other."""
    return _to_uint8(rearrange(torch.stack(rows), "v b c t h w -> c (b v h) (t w)"))


def _to_rgb(clip_BCTHW: torch.Tensor) -> torch.Tensor:
    mean, std = (clip_BCTHW.new_tensor(values)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return clip_BCTHW * std + mean


def _to_uint8(x: torch.Tensor) -> torch.Tensor:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
