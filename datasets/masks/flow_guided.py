"""Motion-guided masks, as in MGMAE (arXiv 2308.10794): visible patches stay visible as they move.

A tube mask of the middle frame becomes a map of visibility, bright at the chosen patches. Optical flow carries the map
outward, frame by frame, and in every temporal slot the tokens that are brightest are visible: as many in every slot,
at other places in each. The flow comes from RAFT-small on the training device (`MotionGuide`), or, cheaper and
coarser, from the vectors of the video's own coding (`motion_vectors.py`).

Letters: B clips, T frames, H W pixels (or cells), t h w token grid, N = t*h*w tokens. A flow is (..., 2, H, W), x
before y: where a pixel of one frame lies in another, minus where it lies itself.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

from ..errors import FlowError
from ..transforms.normalization import IMAGENET_MEAN, IMAGENET_STD
from .masks import Grid

NUM_FLOW_UPDATES = 6
MIN_FLOW_SIDE = 128  # smaller, RAFT's coarsest map of correlations would be a single place
_FLOW_STRIDE = 8  # RAFT works on maps of an eighth of the picture, and takes whole eighths only
# Places of such maps in one call of the network: cuDNN samples no larger batch (pytorch issue 88380).
_MAX_PLACES = 65_535


# ------------------------------------------------------------------------------------------------- from flow to masks


def neighbour_pairs(num_frames: int) -> list[tuple[int, int]]:
    """The T - 1 pairs of frames that a flow is needed for: (frame, its neighbour towards the middle frame T // 2).

    A frame takes its map from the neighbour that already has one: the next frame where it lies before the middle, the
    previous frame where it lies after it. The released MGMAE takes the previous one throughout.

    Raises:
        ValueError: fewer than two frames.
    """
    if num_frames < 2:
        raise ValueError(f"a clip of {num_frames} frame(s) has no motion: --num_frames must be at least 2")
    middle = num_frames // 2
    return [(frame, frame + 1) if frame < middle else (frame + 1, frame) for frame in range(num_frames - 1)]


def base_map(visible: torch.Tensor, patch: int) -> torch.Tensor:
    """How visible each pixel is when some patches are: exp(-(dx/p)^2 - (dy/p)^2) from the nearest chosen patch centre.

    Args:
        visible: bool (B, h, w), at least one True in every row.
        patch: p, pixels along a side of a patch.

    Returns:
        float32 (B, h * p, w * p), its maximum 1.
    """
    rows, columns = (_bells(count, patch, visible.device) for count in visible.shape[1:])
    across = (visible[..., None] * columns).amax(dim=2)  # (B, h, W): the best patch in each row of patches
    both = (rows[:, :, None] * across[:, :, None]).amax(dim=1)  # (B, H, W)
    return both / both.amax(dim=(1, 2), keepdim=True)


def _bells(count: int, patch: int, device: torch.device) -> torch.Tensor:
    """exp(-(d/p)^2) of every pixel's distance to every patch centre along one axis: (count, count * patch)."""
    centres = torch.arange(count, device=device)[:, None] * patch + (patch - 1) / 2
    return torch.exp(-(((torch.arange(count * patch, device=device) - centres) / patch) ** 2))


def warp(values: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Backward warping: every pixel takes the bilinear value that lies at its place plus its flow; 0 outside.

    Args:
        values: (B, H, W), of the frame that the flow leads to.
        flow: (B, 2, H, W).
    """
    height, width = values.shape[1:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    # without aligned corners, -1 and 1 are the outer edges of the picture: pixel x has its centre at (2x + 1)/W - 1
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(values[:, None], places, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]


def propagate(base: torch.Tensor, flow: torch.Tensor, base_frame: int) -> torch.Tensor:
    """Propagates a map from one frame to all others by warping it from neighbour to neighbour.

    Pixels that come from outside the picture, where the warped map is 0, take the value of the base map.

    Args:
        base: (B, H, W), the map of frame `base_frame`.
        flow: (B, T - 1, 2, H, W): entry i is between frames i and i + 1, in the direction of `neighbour_pairs`.
        base_frame: the frame that the map belongs to.

    Returns:
        (B, T, H, W).
    """
    num_frames = flow.shape[1] + 1
    maps = [base] * num_frames
    before = [(frame, frame + 1, frame) for frame in reversed(range(base_frame))]
    after = [(frame, frame - 1, frame - 1) for frame in range(base_frame + 1, num_frames)]
    for frame, neighbour, entry in before + after:
        warped = warp(maps[neighbour], flow[:, entry])
        maps[frame] = torch.where(warped == 0, base, warped)
    return torch.stack(maps, dim=1)


def mask_from_maps(maps: torch.Tensor, grid: Grid, num_visible: int) -> torch.Tensor:
    """The mask that leaves the tokens with the largest sums visible: `num_visible` in every temporal slot.

    Where sums are equal, the token that comes first is visible.

    Args:
        maps: (B, T, H, W); t, h and w divide T, H and W.
        grid: (t, h, w).
        num_visible: in each of the t slots.

    Returns:
        bool (B, N), True = masked.
    """
    num_slots, rows, columns = grid
    batch, num_frames, height, width = maps.shape
    cut = maps.view(batch, num_slots, num_frames // num_slots, rows, height // rows, columns, width // columns)
    sums = cut.sum(dim=(2, 4, 6)).flatten(2)  # (B, t, h * w)
    order = sums.argsort(dim=2, descending=True, stable=True)
    return torch.ones_like(sums, dtype=torch.bool).scatter_(2, order[..., :num_visible], False).flatten(1)


def guided_mask(base_mask: torch.Tensor, flow: torch.Tensor, grid: Grid, num_visible: int) -> torch.Tensor:
    """A motion-guided mask: the patches a tube mask leaves visible in the middle frame, propagated.

    Args:
        base_mask: bool (B, N), a tube mask, True = masked, on the device of the flow.
        flow: (B, T - 1, 2, h * p, w * p) for any whole p: see `propagate`.
        grid: (t, h, w).
        num_visible: in each of the t slots.

    Returns:
        bool (B, N), True = masked.
    """
    visible = ~base_mask.view(-1, *grid)[:, 0]
    base = base_map(visible, flow.shape[-1] // grid[2])
    return mask_from_maps(propagate(base, flow, (flow.shape[1] + 1) // 2), grid, num_visible)


# ------------------------------------------------------------------------------------------------- optical flow


def flow_model(weights: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
    """RAFT-small (arXiv 2003.12039) of torchvision, frozen.

    Args:
        weights: its tensors under torchvision's names; None downloads torchvision's own, or finds them in its cache.

    Raises:
        FlowError: they cannot be downloaded, or are those of another model.
    """
    model = raft_small(weights=None)
    try:
        model.load_state_dict(_published_weights() if weights is None else weights)
    except RuntimeError as error:
        if weights is None:
            raise
        detail = " ".join(str(error).split())[:200]
        raise FlowError(f"--flow_weights: these are not the weights of torchvision's raft_small: {detail}") from error
    return model.eval().requires_grad_(False)


def _published_weights() -> Mapping[str, torch.Tensor]:
    published = Raft_Small_Weights.DEFAULT
    try:
        return published.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a download that is cut off or changed
        name = PurePosixPath(published.url).name
        raise FlowError(
            f"cannot download the weights of the flow network ({error}): fetch {published.url} on another machine "
            f"and give `--flow_weights {name}`"
        ) from error


class MotionGuide(nn.Module):
    """Turns the base masks of a batch into motion-guided masks.

    It is frozen and not part of the trained model or of checkpoints.

    Args:
        flow_model: (image, neighbour, num_flow_updates) -> list of flows (B, 2, H, W), the last one the best;
            see `flow_model`.
        grid: (t, h, w) of a clip's tokens.
        low_precision: the network's convolutions and correlations in bf16, channels last; coordinates and flow stay in
            float32. For GPUs with units for bf16. It moves the flow by hundredths of a pixel (bench/RESULTS.md).
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, flow_model: nn.Module, grid: Grid, *, low_precision: bool = False) -> None:
        super().__init__()
        self.grid, self.low_precision = grid, low_precision
        self.flow_model = flow_model
        if low_precision:
            self.flow_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # from ImageNet's normalisation to -1..1, which RAFT expects: 2 * (x * std + mean) - 1
        self.register_buffer("scale", 2 * torch.tensor(IMAGENET_STD).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("shift", 2 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1) - 1, persistent=False)

    @torch.no_grad()
    def forward(self, clip: torch.Tensor, base_mask: torch.Tensor) -> torch.Tensor:
        """Motion-guided masks of a batch; synchronises only where torchvision's network copies tables to the device.

        Args:
            clip: float (B, 3, T, H, W), normalised.
            base_mask: bool (B * G, N), G tube masks for each clip, one after another, in host memory, the same number
                visible in all.

        Returns:
            bool (B * G, N) on the clip's device: as many visible in every temporal slot as in `base_mask`.
        """
        num_visible = int((~base_mask[0]).sum()) // self.grid[0]
        base_mask = base_mask.to(clip.device, non_blocking=True)
        with torch.autocast(clip.device.type, enabled=False):
            flow = self.flow(clip.float()).repeat_interleave(len(base_mask) // len(clip), dim=0)
            return guided_mask(base_mask, flow, self.grid, num_visible)

    @torch.no_grad()
    def flow(self, clip: torch.Tensor) -> torch.Tensor:
        """Of every frame but the middle one to its neighbour: normalised (B, 3, T, H, W) -> (B, T - 1, 2, H, W)."""
        pairs = neighbour_pairs(clip.shape[2])
        frames = clip * self.scale + self.shift
        images = torch.stack([frames[:, :, frame] for frame, _ in pairs], dim=1).flatten(0, 1)
        neighbours = torch.stack([frames[:, :, neighbour] for _, neighbour in pairs], dim=1).flatten(0, 1)
        chunk = max(1, _MAX_PLACES // (_flow_side(clip.shape[3]) * _flow_side(clip.shape[4]) // _FLOW_STRIDE**2))
        chunks = zip(images.split(chunk), neighbours.split(chunk), strict=True)
        return torch.cat([self._flow(*two) for two in chunks]).unflatten(0, (-1, len(pairs)))

    def _flow(self, images: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        """Pictures (P, 3, H, W) in -1..1, enlarged where the network needs it -> (P, 2, H, W) in their own pixels."""
        height, width = images.shape[2:]
        size = _flow_side(height), _flow_side(width)
        if size != (height, width):
            images, neighbours = (F.interpolate(part, size, mode="bilinear") for part in (images, neighbours))
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.low_precision):
            flow = self.flow_model(images, neighbours, num_flow_updates=NUM_FLOW_UPDATES)[-1].float()
        if size != (height, width):
            flow = F.interpolate(flow, (height, width), mode="bilinear")
            flow = torch.stack([flow[:, 0] * (width / size[1]), flow[:, 1] * (height / size[0])], dim=1)
        return flow


def _flow_side(side: int) -> int:
    """The smallest side that RAFT takes and that is no smaller than the picture's."""
    return max(MIN_FLOW_SIDE, -(-side // _FLOW_STRIDE) * _FLOW_STRIDE)
