"""Semi-supervised segmentation without training: labels of the first frame are passed on along similar tokens.

The procedure and its parameters are those of DINO (github.com/facebookresearch/dino, eval_video_segmentation.py) and of
V-JEPA 2.1 (arXiv 2603.14482, section 3.6). Both weight the k most similar tokens of the context by a softmax.
Letters: C frames of context, h w token grid, n = h * w, D width, L labels, H W pixels.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, OptionError, Options, option

PRESETS: dict[str, dict[str, Any]] = {
    "dino": {"context": 7, "topk": 5, "radius": 12, "shape": "square", "temperature": 0.1},
    "vjepa2.1": {"context": 15, "topk": 5, "radius": 12, "shape": "disk", "temperature": 0.2},
}


@dataclass(frozen=True, kw_only=True)
class PropagationConfig(Options):
    """How labels are passed on. What is None comes from the preset."""

    preset: str = option("dino", "whose parameters", choices=tuple(PRESETS))
    context: int | None = option(None, "earlier frames that labels come from, besides the first", rule=NOT_NEGATIVE)
    topk: int | None = option(None, "tokens that a label comes from", rule=AT_LEAST_ONE)
    radius: int | None = option(None, "how far they may lie away, in tokens", rule=AT_LEAST_ONE)
    shape: str | None = option(None, "of this neighbourhood", choices=("square", "disk"))
    temperature: float | None = option(None, "of the softmax over cosines", rule=POSITIVE)
    frame_size: int = option(
        480, "short side that frames are resized to; the long one is rounded down to 64", rule=AT_LEAST_ONE
    )

    def resolved(self) -> "PropagationConfig":
        """With the preset's values where no flag gave another."""
        own = {name: getattr(self, name) for name in PRESETS[self.preset]}
        values = {name: PRESETS[self.preset][name] if value is None else value for name, value in own.items()}
        return PropagationConfig(preset=self.preset, frame_size=self.frame_size, **values)


def size_for(height: int, width: int, short_side: int, *, patch: int) -> tuple[int, int]:
    """Height and width that a frame is resized to: 480 x 854 -> 480 x 832 with a short side of 480.

    Raises:
        OptionError: a short side that patches do not divide.
    """
    if short_side % patch:
        raise OptionError(f"--frame_size {short_side} is not a multiple of the patch size {patch}: choose one that is")
    unit = 64 if 64 % patch == 0 else patch
    long_side = short_side * max(height, width) // min(height, width) // unit * unit
    sizes = short_side, max(long_side, short_side)
    return sizes if height <= width else sizes[::-1]


def neighbourhood(h: int, w: int, *, radius: int, shape: str) -> torch.Tensor:
    """(n, n) bool: whether two tokens of the grid lie near each other."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    down = (rows.reshape(-1, 1) - rows.reshape(1, -1)).abs()
    across = (columns.reshape(-1, 1) - columns.reshape(1, -1)).abs()
    if shape == "square":
        return torch.maximum(down, across) <= radius
    return down**2 + across**2 <= radius**2


def pass_on(
    tokens_nD: torch.Tensor,
    context_CnD: torch.Tensor,
    labels_CnL: torch.Tensor,
    near_nn: torch.Tensor,
    *,
    topk: int,
    temperature: float,
) -> torch.Tensor:
    """Labels of one frame from those of its context.

    Args:
        tokens_nD, context_CnD: of length 1 each.
        labels_CnL: how much of each label a token has.

    Returns:
        (n, L): weighted mean over the `topk` most similar tokens of the neighbourhood in all frames of the context.
    """
    cosine_nCn = torch.einsum("nd,cmd->ncm", tokens_nD, context_CnD)
    cosine_nCn.masked_fill_(~near_nn[:, None], -torch.inf)
    best, where = cosine_nCn.flatten(1).topk(min(topk, cosine_nCn[0].numel()), dim=1)
    weights = (best / temperature).softmax(dim=1)  # outside the neighbourhood: 0
    return torch.einsum("nk,nkl->nl", weights, labels_CnL.flatten(0, 1)[where])


def propagate(
    tokens: Iterable[torch.Tensor], first_hw: torch.Tensor, num_labels: int, config: PropagationConfig
) -> Iterator[torch.Tensor]:
    """Labels of all frames after the first.

    Args:
        tokens: (h, w, D) of every frame, the first included.
        first_hw: (h, w) int64 labels of the first frame, below `num_labels`.

    Yields:
        (L, h, w), how much of each label a token has.
    """
    config = config.resolved()
    assert config.context is not None and config.topk is not None and config.radius is not None
    assert config.shape is not None and config.temperature is not None
    frames = iter(tokens)
    first = _unit(next(frames))
    h, w = first_hw.shape
    near_nn = neighbourhood(h, w, radius=config.radius, shape=config.shape).to(first.device)
    start = first, F.one_hot(first_hw.flatten(), num_labels).to(first)
    earlier: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=config.context)
    for frame in frames:
        tokens_nD = _unit(frame)
        context_CnD, labels_CnL = map(torch.stack, zip(start, *earlier, strict=True))
        labels_nL = pass_on(
            tokens_nD, context_CnD, labels_CnL, near_nn, topk=config.topk, temperature=config.temperature
        )
        earlier.append((tokens_nD, labels_nL))
        yield labels_nL.T.reshape(num_labels, h, w)


def to_mask(labels_Lhw: torch.Tensor, *, patch: int, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) int64: each label's map enlarged (bilinear), spread over 0 to 1, the largest taken; nearest to `size`."""
    maps = F.interpolate(labels_Lhw[None], scale_factor=patch, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = torch.where(high > 0, (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny), maps)
    best = spread.argmax(0)
    return F.interpolate(best[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()


def _unit(tokens_hwD: torch.Tensor) -> torch.Tensor:
    return F.normalize(tokens_hwD.flatten(0, 1), dim=-1)
