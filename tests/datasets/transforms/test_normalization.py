"""Normalisation: the formula in float64, equal bits by every implementation, any memory layout.

The Triton kernel runs on the GPU if there is one, else in Triton's interpreter.
"""

import numpy as np
import pytest
import torch

from datasets.transforms.normalization import mean_and_std, normalize_clips

# Of ImageNet, red first (torchvision's documentation of its weights); not taken from the code under test.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def all_levels(frames: int = 2) -> torch.Tensor:
    """uint8 (2, frames, 3, 16, 17): every grey level in every channel of every frame, in another order each."""
    rng = np.random.default_rng(0)
    planes = [np.concatenate([rng.permutation(256), rng.integers(0, 256, 16)]) for _ in range(2 * frames * 3)]
    return torch.from_numpy(np.stack(planes).astype(np.uint8)).view(2, frames, 3, 16, 17)


def rounded_reference(clips: torch.Tensor) -> torch.Tensor:
    """The formula with numpy's float32, each operation rounded once."""
    mean, std = (np.array(values, dtype=np.float32)[:, None, None, None] for values in (MEAN, STD))
    values = clips.numpy().swapaxes(1, 2).astype(np.float32)
    return torch.from_numpy((values / np.float32(255) - mean) / std)


LAYOUTS = {
    "planes": lambda clips: clips,
    "channels last": lambda clips: clips.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
    "frames last": lambda clips: clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
    "rows with gaps": lambda clips: torch.cat([clips, clips], dim=-1)[..., : clips.shape[-1]],
    "every second clip": lambda clips: clips.repeat_interleave(2, dim=0)[::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_normalisation(layout):
    clips = all_levels()
    out = normalize_clips(LAYOUTS[layout](clips))
    assert out.dtype == torch.float32 and out.is_contiguous() and out.shape == (2, 3, 2, 16, 17)
    assert torch.equal(out, rounded_reference(clips))
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (MEAN, STD))
    exact = (clips.transpose(1, 2).double() / 255 - mean) / std
    assert (out - exact).abs().max() < 2e-7 * exact.abs().max()


def test_into_given_memory():
    clips, memory = all_levels(), torch.full((2, 3, 2, 16, 17), torch.nan)
    assert normalize_clips(clips, out=memory) is memory
    assert torch.equal(memory, normalize_clips(clips))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [64, 1024])  # several programs a frame, the last one partly outside; one
def test_kernel_is_equal_to_the_bit(layout, block, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed (pip install --target DIR triton; PYTHONPATH=DIR)")
    from datasets.transforms import normalization_kernel

    monkeypatch.setattr(normalization_kernel, "PIXELS", block)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips = all_levels(frames=3)
    out = torch.full((2, 3, 3, 16, 17), torch.nan, device=device)
    normalization_kernel.normalize_into(out, LAYOUTS[layout](clips).to(device), *mean_and_std(device))
    assert torch.equal(out.cpu(), rounded_reference(clips))


def test_kernel_without_clips():
    pytest.importorskip("triton", reason="Triton is not installed (pip install --target DIR triton; PYTHONPATH=DIR)")
    from datasets.transforms.normalization_kernel import normalize_into

    empty = torch.empty(0, 2, 3, 4, 4, dtype=torch.uint8)
    normalize_into(torch.empty(0, 3, 2, 4, 4), empty, *mean_and_std(empty.device))
