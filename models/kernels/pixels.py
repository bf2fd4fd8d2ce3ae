"""Pixel targets of masked tubelets in one launch. What it computes is defined by `PixelTarget` in models/targets.py.

Letters: B clips, C = 3 channels, T H W frames and pixels, M masked tokens, N tokens, pt ph pw tubelet.
"""

import math

import torch
import triton
import triton.language as tl

PIXELS_PER_WARP = 128  # of a tubelet: four per thread, in each of three channels
MOST_WARPS = 8


@triton.jit(do_not_specialize=["num_masked"])
def _pixel_kernel(
    clip_BCTHW,
    index_BM,
    mean_C,
    std_C,
    out,
    num_masked,
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    t: tl.constexpr,
    h: tl.constexpr,
    w: tl.constexpr,
    pt: tl.constexpr,
    ph: tl.constexpr,
    pw: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per masked token: its tubelet, un-normalised, standardised channel by channel, RGB fastest."""
    token = tl.program_id(0)
    size: tl.constexpr = pt * ph * pw
    pixel = tl.arange(0, BLOCK)
    inside = pixel < size
    index = tl.load(index_BM + token)
    is_token = (index >= 0) & (index < t * h * w)
    known = pixel < tl.where(is_token, size, 0)  # what is not in the clip becomes NaN
    clip = (token // num_masked).to(tl.int64)
    corner = clip_BCTHW + clip * stride_b + index // (h * w) * pt * stride_t
    corner += index // w % h * ph * stride_h + index % w * pw * stride_w
    first = corner + pixel // (ph * pw) * stride_t + pixel // pw % ph * stride_h + pixel % pw * stride_w
    for c in tl.static_range(3):
        value = tl.load(first + c * stride_c, mask=known, other=float("nan")).to(tl.float32)
        value = value * tl.load(std_C + c).to(tl.float32) + tl.load(mean_C + c).to(tl.float32)
        if NORMALIZE:
            value -= tl.sum(tl.where(inside, value, 0.0), axis=0) / size
            square = tl.sum(tl.where(inside, value * value, 0.0), axis=0)
            value = value / (tl.sqrt(square / (size - 1)) + 1e-6)
        tl.store(out + token.to(tl.int64) * (3 * size) + pixel * 3 + c, value, mask=inside)


def pixel_targets(
    clip_BCTHW: torch.Tensor,
    index_BM: torch.Tensor,
    tubelet: tuple[int, int, int],
    *,
    mean: torch.Tensor,
    std: torch.Tensor,
    normalize: bool,
) -> torch.Tensor:
    """(B, M, pt * ph * pw * 3) float32; NaN for a position that is none of the clip's.

    Args:
        clip_BCTHW: any float dtype and any strides.
        index_BM: int64 positions of the masked tokens.
        tubelet: (pt, ph, pw), in all at most 8,192 pixels, or the registers do not suffice.
        mean: three values, by which, with `std`, the clip was normalised.
        std: three values.
        normalize: standardise every tubelet and channel.

    Raises:
        ValueError: the clip does not consist of such tubelets.
    """
    if clip_BCTHW.shape[1] != 3 or any(n % part for n, part in zip(clip_BCTHW.shape[2:], tubelet, strict=True)):
        raise ValueError(f"a clip of {tuple(clip_BCTHW.shape)} is not one of RGB tubelets of {tubelet}")
    batch, masked = index_BM.shape
    size = math.prod(tubelet)
    out = torch.empty(batch, masked, 3 * size, dtype=torch.float32, device=clip_BCTHW.device)
    block = triton.next_power_of_2(size)
    grid = [whole // part for whole, part in zip(clip_BCTHW.shape[2:], tubelet, strict=True)]
    if not out.numel():
        return out
    with torch.cuda.device_of(clip_BCTHW):
        _pixel_kernel[(batch * masked,)](
            clip_BCTHW,
            index_BM.contiguous(),
            mean,
            std,
            out,
            masked,
            *clip_BCTHW.stride(),
            *grid,
            *tubelet,
            NORMALIZE=normalize,
            BLOCK=block,
            num_warps=min(MOST_WARPS, max(1, block // PIXELS_PER_WARP)),
            enable_fp_fusion=True,
        )
    return out
