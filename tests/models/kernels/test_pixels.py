"""The pixel target in one kernel against float64: on a GPU if there is one, else in Triton's interpreter."""

import pytest
import torch
from einops import rearrange

from models.kernels import support
from models.targets import PixelTarget

pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")
from models.kernels.pixels import pixel_targets

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red first
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def kernels_on_this_device(monkeypatch):
    monkeypatch.setattr(support, "DEVICE_TYPES", ("cuda", "cpu"))


def naive(clip, index, tubelet, normalize):
    """In float64: un-normalised, cut into tubelets, standardised with torch's own mean and standard deviation."""
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1, 1) for v in (MEAN, STD))
    pt, ph, pw = tubelet
    pixels = rearrange(
        clip.cpu().double() * std + mean, "b c (t pt) (h ph) (w pw) -> b (t h w) (pt ph pw) c", pt=pt, ph=ph, pw=pw
    )
    if normalize:
        pixels = (pixels - pixels.mean(dim=2, keepdim=True)) / (pixels.std(dim=2, keepdim=True) + 1e-6)
    return torch.stack([rows[i] for rows, i in zip(pixels.flatten(2), index.cpu(), strict=True)])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("size", "tubelet"),
    [((4, 32, 48), (2, 16, 16)), ((2, 28, 14), (2, 14, 14)), ((3, 6, 10), (1, 3, 5)), ((2, 4, 4), (2, 2, 2))],
)
def test_equals_float64(size, tubelet, normalize):
    """Also tubelets whose pixels are no power of two."""
    clip = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor(size).div(torch.tensor(tubelet), rounding_mode="floor").prod().item()
    index = torch.stack([torch.randperm(tokens)[: max(1, tokens // 2)].sort().values for _ in range(2)])
    target = PixelTarget(tubelet, normalize=normalize)
    plain = target.mean.dtype, naive(clip, index, tubelet, normalize)
    found = target.to(DEVICE)(clip.to(DEVICE), index.to(DEVICE))
    assert found.dtype == plain[0] and found.shape == (*index.shape, target.dim)
    torch.testing.assert_close(found.cpu().double(), plain[1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["channels last", "frames first", "part of a larger clip"])
def test_any_layout_and_precision(layout, dtype):
    clip = torch.randn(2, 3, 4, 8, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    stored = {
        "channels last": clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
        "frames first": clip.transpose(1, 2).contiguous().transpose(1, 2),
        "part of a larger clip": torch.nn.functional.pad(clip, (3, 5, 1, 2, 1, 0))[:, :, 1:, 1:-2, 3:-5],
    }[layout]
    assert torch.equal(stored, clip) and not stored.is_contiguous()
    index = torch.tensor([[0, 3, 5], [1, 2, 11]])[:, ::1]
    found = PixelTarget((2, 4, 4)).to(DEVICE)(stored.to(DEVICE), index.to(DEVICE))
    torch.testing.assert_close(found.cpu().double(), naive(clip, index, (2, 4, 4), True), rtol=1e-4, atol=2e-5)


def test_equals_the_plain_way(monkeypatch):
    clip = torch.randn(1, 3, 2, 8, 8, generator=torch.Generator().manual_seed(2), device="cpu").to(DEVICE)
    clip[0, :, :, :4, :4] = 0.25  # a constant tubelet becomes 0, not NaN
    index = torch.arange(4, device=DEVICE)[None]
    target = PixelTarget((2, 4, 4)).to(DEVICE)
    found = target(clip, index)
    monkeypatch.setattr(support, "DEVICE_TYPES", ())
    plain = target(clip, index)
    torch.testing.assert_close(found[:, 1:], plain[:, 1:], rtol=1e-4, atol=2e-5)
    assert found[0, 0].abs().max() < 0.2 and plain[0, 0].abs().max() < 0.2


def test_a_position_outside_is_nan_and_other_clips_are_refused():
    clip = torch.randn(1, 3, 2, 8, 8, device=DEVICE)
    target = PixelTarget((2, 4, 4)).to(DEVICE)
    found = target(clip, torch.tensor([[-1, 0, 4]], device=DEVICE))
    assert found[0, [0, 2]].isnan().all() and found[0, 1].isfinite().all()
    for wrong in (torch.randn(1, 4, 2, 8, 8), torch.randn(1, 3, 2, 8, 9)):
        with pytest.raises(ValueError, match="RGB tubelets"):
            pixel_targets(wrong, torch.tensor([[0]]), (2, 4, 4), mean=target.mean, std=target.std, normalize=True)


def test_an_empty_batch():
    assert PixelTarget((2, 4, 4)).to(DEVICE)(
        torch.randn(0, 3, 2, 8, 8, device=DEVICE), torch.zeros(0, 3, dtype=torch.int64, device=DEVICE)
    ).shape == (0, 3, 96)
