"""Mixup and CutMix on clips."""

import numpy as np
import pytest
import torch

from datasets.transforms.mixup import MixupConfig, build_mixup


def mixing(**changes):
    """The released recipe with 174 classes, but for these options."""
    return build_mixup(MixupConfig(**changes), num_classes=174)


def clips_and_labels(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip i is filled with i everywhere: (B, 3, 5, 16, 24)."""
    clips = torch.arange(batch, dtype=torch.float32).view(-1, 1, 1, 1, 1).repeat(1, 3, 5, 16, 24)
    return clips, torch.arange(batch) * 10


@pytest.fixture(autouse=True)
def numpy_seed():
    np.random.seed(0)  # noqa: NPY002  (timm draws from the global generator)


def test_smoothed_targets_without_mixing():
    clips, labels = clips_and_labels()
    mixed, targets = mixing(mixup_prob=0.0)(clips.clone(), labels)
    assert torch.equal(mixed, clips)
    off = 0.1 / 174
    expected = torch.full((4, 174), off)
    expected[torch.arange(4), labels] = 1 - 0.1 + off
    torch.testing.assert_close(targets, expected)
    assert targets[0, 0].item() == pytest.approx(0.900575, abs=1e-6)
    assert targets[0, 1].item() == pytest.approx(0.000575, abs=1e-6)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixup_weights_equal_the_targets(mode):
    clips, labels = clips_and_labels()
    mix = mixing(cutmix=0.0, smoothing=0.0, mixup_mode=mode)
    mixed, targets = mix(clips, labels)
    assert mixed.shape == (4, 3, 5, 16, 24)
    for i in range(4):
        lam = targets[i, labels[i]].item()
        assert targets[i, labels[3 - i]].item() == pytest.approx(1 - lam, abs=1e-5)
        expected = torch.full_like(mixed[i], lam * i + (1 - lam) * (3 - i))
        torch.testing.assert_close(mixed[i], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("minmax", [None, (0.2, 0.8)])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_cutmix_cuts_one_spatial_box_through_time(mode, minmax):
    mix = mixing(mixup=0.0, smoothing=0.0, mixup_mode=mode, cutmix_minmax=minmax)
    cut_at_all = 0
    for _ in range(10):
        clips, labels = clips_and_labels()
        mixed, targets = mix(clips, labels)
        for i in range(4):
            pasted = mixed[i] == 3 - i
            assert (pasted | (mixed[i] == i)).all()
            box = pasted[0, 0]  # (H, W)
            assert (pasted == box).all()  # the same in every frame and channel
            rows, columns = box.any(dim=1).nonzero(), box.any(dim=0).nonzero()
            assert box.sum() == len(rows) * len(columns)  # a rectangle
            kept = 1 - box.float().mean().item()
            assert targets[i, labels[i]].item() == pytest.approx(kept, abs=1e-5)
            cut_at_all += 0 < kept < 1
    assert cut_at_all > 10


def test_seeded_by_numpy():
    outs = []
    for _ in range(2):
        np.random.seed(7)  # noqa: NPY002
        clips = torch.randn(4, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        outs.append(mixing()(clips, torch.arange(4)))
    assert torch.equal(outs[0][0], outs[1][0]) and torch.equal(outs[0][1], outs[1][1])


def test_odd_batch_names_the_flags():
    clips, labels = clips_and_labels(3)
    with pytest.raises(ValueError, match=r"3 clips.*--batch_size.*--mixup 0"):
        mixing()(clips, labels)


def test_off_and_bad_options():
    assert mixing(mixup=0.0, cutmix=0.0) is None
    with pytest.raises(ValueError, match="--mixup_mode half"):
        mixing(mixup_mode="half")
    with pytest.raises(ValueError, match="--cutmix_minmax"):
        mixing(cutmix_minmax=(0.8, 0.2))
