"""Clips to tubelets, and tokens split by the mask.

Letters: B clips, C channels, T H W frames and pixels, t h w token grid, pt ph pw tubelet, N tokens = V visible + M
masked, D width.
"""

import torch
from einops import rearrange

Tubelet = tuple[int, int, int]  # frames, height, width of a tubelet in pixels


def patchify(clip_BCTHW: torch.Tensor, tubelet: Tubelet, index_BM: torch.Tensor | None = None) -> torch.Tensor:
    """(B, C, T, H, W) -> (B, N, C, pt * ph * pw): every tubelet's pixels, channel by channel.

    With positions (B, M), only those tubelets are read: (B, M, C, pt * ph * pw).
    """
    pt, ph, pw = tubelet
    grid = rearrange(clip_BCTHW, "b c (t pt) (h ph) (w pw) -> b t h w c pt ph pw", pt=pt, ph=ph, pw=pw)
    if index_BM is None:
        return rearrange(grid, "b t h w c pt ph pw -> b (t h w) c (pt ph pw)")
    _, _, height, width = grid.shape[:4]
    clip_B1 = torch.arange(len(grid), device=grid.device)[:, None]
    row_BM = index_BM // width
    return grid[clip_B1, row_BM // height, row_BM % height, index_BM % width].flatten(3)


def split_by_mask(
    mask_BN: torch.Tensor, device: torch.device, *, num_masked: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token positions of the visible and of the masked tokens, in order.

    The host needs both numbers for the tensors' shapes. Counting is free for a mask in host memory, where the loader
    leaves it, but synchronises with an accelerator for a mask there. `num_masked` avoids that, and is not checked then.

    Args:
        mask_BN: bool, True = masked.
        device: where the indices are needed.
        num_masked: masked tokens of every row, if known.

    Returns:
        (B, V) and (B, M) int64.

    Raises:
        ValueError: not the same number masked in every row, or none visible or none masked.
    """
    if num_masked is None or mask_BN.device.type == "cpu":
        num_masked = _count_masked(mask_BN)
    # A stable sort keeps the tokens of each kind in order. It runs on the device: the mask, one byte per token and
    # pinned by the loader, is copied asynchronously; int64 indices from pageable memory might not be.
    order_BN = mask_BN.to(device, non_blocking=True).to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask_BN.shape[1] - num_masked
    return order_BN[:, :num_visible], order_BN[:, num_visible:]


def _count_masked(mask_BN: torch.Tensor) -> int:
    num_masked_B = mask_BN.sum(dim=1)
    num_masked = int(num_masked_B[0])
    if not bool((num_masked_B == num_masked).all()):
        raise ValueError(
            f"the same number of tokens must be masked in every clip of a batch, got {num_masked_B.tolist()}"
        )
    if not 0 < num_masked < mask_BN.shape[1]:
        raise ValueError(f"{num_masked} of {mask_BN.shape[1]} tokens masked: some must be visible and some masked")
    return num_masked


def gather_tokens(tokens: torch.Tensor, index_BM: torch.Tensor) -> torch.Tensor:
    """The tokens at the given positions: (B, N, ...) and (B, M) -> (B, M, ...). A batch of one table is broadcast."""
    tokens = tokens.expand(index_BM.shape[0], *tokens.shape[1:])
    index = index_BM.reshape(*index_BM.shape, *[1] * (tokens.ndim - 2)).expand(-1, -1, *tokens.shape[2:])
    return tokens.gather(1, index)


def num_chosen(num_masked: int, ratio: float) -> int:
    """Number of masked tokens to decode when a fraction `ratio` of them is dropped: at least one."""
    return max(num_masked - round(ratio * num_masked), 1)


def running_cells(masked_BM: torch.Tensor, grid: tuple[int, int, int], ratio: float) -> torch.Tensor:
    """Running cell masking: which masked tokens to decode (VideoMAE V2's dual masking, arXiv 2303.16727, section 3.2).

    Frames are divided into cells of 2 x 2 positions, which take turns from time slot to time slot, so every cell is
    decoded in every slot and every position in some. The first turn is drawn for each clip; in the last turn, if only a
    part of it is decoded, that part is drawn too.

    Args:
        masked_BM: positions of the masked tokens in the clip, in order.
        grid: (t, h, w) of the clip.
        ratio: fraction of the masked tokens that is dropped.

    Returns:
        (B, R) int64, indices into the M masked tokens, in order: R = `num_chosen(M, ratio)`.
    """
    _, height, width = grid
    slot, row, column = masked_BM // (height * width), masked_BM // width % height, masked_BM % width
    start_B1 = torch.randint(4, (len(masked_BM), 1), device=masked_BM.device)
    turn_BM = (2 * (row % 2) + column % 2 + slot + start_B1) % 4
    order_BM = (turn_BM + torch.rand(turn_BM.shape, device=turn_BM.device)).argsort(dim=1)
    chosen = order_BM[:, : num_chosen(masked_BM.shape[1], ratio)]
    return chosen.sort(dim=1).values
