"""Normalisation on CUDA: every pixel is read once as uint8 and written once as float32."""

import torch
import triton
import triton.language as tl

PIXELS = 1024  # of a program; eight a thread, whose loads of the three channels lie in the same cache lines


@triton.jit
def _normalize_kernel(
    clip,
    out,
    mean_3,
    std_3,
    num_frames,
    num_pixels,
    stride_clip,
    stride_frame,
    stride_channel,
    stride_pixel,
    PIXELS: tl.constexpr,
):
    """Program (f, p): the p-th part of frame f of the batch, all channels of it."""
    frame = tl.program_id(0)
    batch, time = (frame // num_frames).to(tl.int64), frame % num_frames
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < num_pixels
    source = clip + batch * stride_clip + time * stride_frame + pixel * stride_pixel
    for channel in tl.static_range(3):
        level = tl.load(source + channel * stride_channel, mask=inside, other=0).to(tl.float32)
        mean, std = tl.load(mean_3 + channel), tl.load(std_3 + channel)
        value = tl.div_rn(tl.div_rn(level, 255.0) - mean, std)  # rounded as elsewhere; "/" is an approximation
        plane = (batch * 3 + channel) * num_frames + time
        tl.store(out + plane * num_pixels + pixel, value, mask=inside)


def normalize_into(out: torch.Tensor, clips: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> None:
    """`(clips / 255 - mean) / std`: uint8 (B, T, 3, H, W) -> `out`, contiguous float32 (B, 3, T, H, W)."""
    pixels = clips.flatten(3)  # (B, T, 3, H * W), a view unless rows have gaps between them
    batch, frames, _, count = pixels.shape
    if not pixels.numel():
        return
    with torch.cuda.device_of(clips):
        _normalize_kernel[(batch * frames, triton.cdiv(count, PIXELS))](
            pixels, out, mean, std, frames, count, *pixels.stride(), PIXELS=PIXELS
        )
