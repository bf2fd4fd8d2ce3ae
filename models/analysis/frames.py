"""Tokens of single frames of any size, from an encoder of clips: dense evaluations go from frame to frame.

Letters: B frames, T frames of a video, H W pixels, t h w token grid, D width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange

from ..positions import sincos_table
from ..vit import VideoTransformer, run_blocks


def frame_tokens(encoder: VideoTransformer, frames_B3HW: torch.Tensor) -> torch.Tensor:
    """Every frame is repeated to the length of a tubelet, a clip of one slot of tokens.

    Positions are those of the first slot that the encoder was trained on, resampled in height and width (bicubic): the
    table is one-dimensional in the flat token index, and its rows for a wider grid would be those of other places.

    Args:
        frames_B3HW: normalised; H and W multiples of the patch size.

    Returns:
        (B, h, w, D) after the final norm.

    Raises:
        ValueError: a size that the patches do not divide.
    """
    frames, height, width = encoder.tubelet
    if frames_B3HW.shape[2] % height or frames_B3HW.shape[3] % width:
        raise ValueError(f"patches of {height} x {width} do not divide frames of {tuple(frames_B3HW.shape[2:])}")
    h, w = frames_B3HW.shape[2] // height, frames_B3HW.shape[3] // width
    clips = frames_B3HW[:, :, None].expand(-1, -1, frames, -1, -1)
    tokens = encoder.patch_embed(clips, None) + slot_positions(encoder, h, w).to(frames_B3HW)
    tokens = encoder.norm(run_blocks(encoder.blocks, tokens, use_checkpoint=False))
    return rearrange(tokens, "b (h w) d -> b h w d", h=h, w=w)


def sliding_tokens(encoder: VideoTransformer, frames_T3HW: torch.Tensor) -> Iterator[torch.Tensor]:
    """Every frame in the middle of a clip of its own; before and after the video its first and last frame are repeated.

    A frame's tokens are those of its slot, floor(k / frames of a tubelet) for frame k of the clip. It is the same slot
    for all frames, as their tokens are compared with one another, and positions differ from slot to slot.

    Args:
        frames_T3HW: normalised, of the encoder's size.

    Yields:
        (h, w, D) after the final norm, frame by frame.
    """
    length = encoder.clip_shape[1]
    around = torch.arange(length, device=frames_T3HW.device) - length // 2
    for frame in range(len(frames_T3HW)):
        clip = frames_T3HW[(frame + around).clamp(0, len(frames_T3HW) - 1)].transpose(0, 1)[None]
        tokens = VideoTransformer.forward(encoder, clip)[0].unflatten(0, encoder.grid)  # of a classifier too
        yield tokens[length // 2 // encoder.tubelet[0]]


def slot_positions(encoder: VideoTransformer, h: int, w: int) -> torch.Tensor:
    """(1, h * w, D): the first slot of the trained table, on another grid."""
    _, rows, columns = encoder.position_grid
    table = sincos_table(rows * columns, encoder.embed_dim)
    if (rows, columns) == (h, w):
        return table
    plane = rearrange(table, "one (h w) d -> one d h w", h=rows, w=columns)
    plane = F.interpolate(plane, size=(h, w), mode="bicubic", align_corners=False)
    return rearrange(plane, "one d h w -> one (h w) d")
