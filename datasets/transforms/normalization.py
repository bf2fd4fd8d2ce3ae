"""uint8 frames to normalised float32 clips, on the device: the last step before the model."""

import functools

import torch

from sigma_video.triton_kernels import kernels_run

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=8)  # one pair for each device: no copy to the device in every step
def mean_and_std(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Of ImageNet's channels, float32 (1, 3, 1, 1, 1)."""
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1, 1)
    return mean, torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1, 1)


def normalized_shape(clips: torch.Tensor) -> tuple[int, ...]:
    """(B, 3, T, H, W) of clips (B, T, 3, H, W)."""
    batch, frames, channels, height, width = clips.shape
    return batch, channels, frames, height, width


def normalize_clips(clips: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """uint8 (B, T, 3, H, W) -> float32 (B, 3, T, H, W), `(x / 255 - mean) / std` of ImageNet, on the same device.

    Equal to the bit on every device and by either implementation.

    Args:
        clips: in any memory layout; with the channels last they are read fastest.
        out: contiguous memory for the result; default: new.
    """
    if out is None:
        out = torch.empty(normalized_shape(clips), device=clips.device)
    if clips.is_cuda and _kernel_runs(clips.device):
        from .normalization_kernel import normalize_into  # here, because PyTorch installs Triton for CUDA only

        normalize_into(out, clips, *mean_and_std(clips.device))
        return out
    mean, std = mean_and_std(clips.device)
    levels = torch.full((), 255.0, device=clips.device)  # CUDA would multiply by the reciprocal of a number
    return out.copy_(clips.transpose(1, 2)).div_(levels).sub_(mean).div_(std)


@functools.cache
def _kernel_runs(device: torch.device) -> bool:
    """Whether the Triton kernel runs here."""

    def probe() -> None:
        from .normalization_kernel import normalize_into

        clip = torch.zeros(1, 1, 3, 1, 1, dtype=torch.uint8, device=device)
        normalize_into(torch.empty(1, 3, 1, 1, 1, device=device), clip, *mean_and_std(device))

    return kernels_run(probe, otherwise="clips are normalised without the Triton kernel, slower")
