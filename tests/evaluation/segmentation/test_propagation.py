"""Labels that are passed on, against the weights written out token by token."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation.segmentation.propagation import (
    PropagationConfig,
    neighbourhood,
    pass_on,
    propagate,
    size_for,
    to_mask,
)
from models.analysis.frames import frame_tokens, sliding_tokens, slot_positions
from models.positions import sincos_table
from models.registry import create_model
from models.vit import VideoTransformer
from sigma_video.options import OptionError


@pytest.mark.parametrize(("shape", "radius"), [("square", 2), ("disk", 2), ("square", 1), ("disk", 3)])
def test_neighbourhood(shape, radius):
    near = neighbourhood(5, 7, radius=radius, shape=shape)
    for a in range(35):
        for b in range(35):
            dy, dx = a // 7 - b // 7, a % 7 - b % 7
            expected = max(abs(dy), abs(dx)) <= radius if shape == "square" else np.hypot(dy, dx) <= radius
            assert near[a, b] == expected


@pytest.mark.parametrize(("shape", "temperature"), [("square", 0.1), ("disk", 0.2)])
def test_weights_are_dinos(shape, temperature):
    """exp(cosine / T), 0 outside the neighbourhood and below the k-th, divided by their sum; one token at a time."""
    generator = torch.Generator().manual_seed(0)
    h, w, topk = 4, 5, 3
    tokens, *context = (F.normalize(torch.randn(h * w, 8, generator=generator), dim=1) for _ in range(4))
    labels = torch.rand(3, h * w, 2, generator=generator)
    near = neighbourhood(h, w, radius=1, shape=shape)
    found = pass_on(tokens, torch.stack(context), labels, near, topk=topk, temperature=temperature)
    for n in range(h * w):
        weights = torch.cat([(frame @ tokens[n] / temperature).exp() * near[n] for frame in context])
        weights[weights < weights.topk(topk).values[-1]] = 0
        expected = (weights / weights.sum()) @ labels.flatten(0, 1)
        torch.testing.assert_close(found[n], expected)


def test_presets_and_flags():
    dino, vjepa = PropagationConfig().resolved(), PropagationConfig(preset="vjepa2.1", topk=7).resolved()
    assert (dino.context, dino.topk, dino.radius, dino.shape, dino.temperature) == (7, 5, 12, "square", 0.1)
    assert (vjepa.context, vjepa.topk, vjepa.radius, vjepa.shape, vjepa.temperature) == (15, 7, 12, "disk", 0.2)


@pytest.mark.parametrize("context", [0, 1, 3])
def test_context_is_the_first_frame_and_the_last_ones(context):
    """Frame by frame, with the context chosen by indices."""
    generator = torch.Generator().manual_seed(1)
    frames = [torch.randn(3, 4, 8, generator=generator) for _ in range(6)]
    first = torch.randint(3, (3, 4), generator=generator)
    config = PropagationConfig(context=context, radius=2)
    found = list(propagate(frames, first, 3, config))
    unit = [F.normalize(frame.flatten(0, 1), dim=1) for frame in frames]
    labels = [F.one_hot(first.flatten(), 3).float()]
    near = neighbourhood(3, 4, radius=2, shape="square")
    for t in range(1, 6):
        used = [0, *range(max(1, t - context), t)]
        sources = torch.stack([unit[i] for i in used]), torch.stack([labels[i] for i in used])
        labels.append(pass_on(unit[t], *sources, near, topk=5, temperature=0.1))
        torch.testing.assert_close(found[t - 1], labels[t].T.reshape(3, 3, 4))


def test_a_moving_object_is_followed():
    """Tokens that say what they show: the mask moves with them."""
    truth = torch.zeros(6, 6, 8, dtype=torch.long)
    for t in range(6):
        truth[t, 1:4, t : t + 3] = 1
        truth[t, 4:6, 5 - t : 7 - t] = 2
    noise = 0.01 * torch.randn(6, 6, 8, 3, generator=torch.Generator().manual_seed(2))
    maps = propagate(F.one_hot(truth, 3) + noise, truth[0], 3, PropagationConfig())
    masks = [to_mask(labels, patch=4, size=(24, 32)) for labels in maps]
    assert len(masks) == 5
    for mask, expected in zip(masks, truth[1:], strict=True):
        expected = expected.repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert (mask == expected).float().mean() > 0.95


def test_maps_are_spread_before_the_largest_is_taken():
    """A faint label that is strongest at its place wins there; one that is nowhere wins nowhere."""
    labels = torch.zeros(3, 4, 4)
    labels[0], labels[1, 1:3, 1:3] = 0.7, 0.3
    labels[0, 1:3, 1:3] = 0.65
    mask = to_mask(labels, patch=8, size=(20, 30))
    assert mask.shape == (20, 30)
    assert mask[10, 15] == 1
    assert mask[0, 0] == 0
    assert set(mask.unique().tolist()) == {0, 1}


def test_sizes():
    assert size_for(480, 854, 480, patch=16) == (480, 832)
    assert size_for(854, 480, 480, patch=16) == (832, 480)
    assert size_for(240, 428, 480, patch=16) == (480, 832)
    assert size_for(480, 854, 420, patch=14) == (420, 742)
    with pytest.raises(OptionError, match="--frame_size 480 is not a multiple of the patch size 14"):
        size_for(480, 854, 480, patch=14)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    sizes = {"num_frames": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 1}
    return create_model("vit_mini_patch8_32", use_mean_pooling=False, **sizes).eval()


def test_tokens_of_a_square_frame_are_those_of_a_clip_of_one_tubelet(encoder):
    frame = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = frame_tokens(encoder, frame)
    assert tokens.shape == (1, 4, 4, 32)
    clip = frame[:, :, None].expand(-1, -1, 2, -1, -1)
    expected = encoder.patch_embed(clip) + sincos_table(16, 32)
    for block in encoder.blocks:
        expected = block(expected)
    torch.testing.assert_close(tokens.flatten(1, 2), encoder.norm(expected))


def test_positions_of_a_wide_frame_are_between_those_of_the_first_slot(encoder):
    wide = slot_positions(encoder, 4, 8).reshape(4, 8, 32)
    own = sincos_table(16, 32).reshape(4, 4, 32)
    expected = F.interpolate(own.permute(2, 0, 1)[None], size=(4, 8), mode="bicubic")[0].permute(1, 2, 0)
    torch.testing.assert_close(wide, expected)
    assert frame_tokens(encoder, torch.zeros(2, 3, 32, 64)).shape == (2, 4, 8, 32)
    with pytest.raises(ValueError, match="do not divide"):
        frame_tokens(encoder, torch.zeros(1, 3, 32, 60))


@pytest.mark.parametrize(
    "clips",  # the frames of every frame's clip
    [
        [(0, 0, 0, 1), (0, 0, 1, 2), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 4)],
        [(0, 0, 0, 0)],
    ],
)
def test_sliding_tokens_are_those_of_a_slot_of_a_clip(encoder, clips):
    frames = torch.randn(len(clips), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = list(sliding_tokens(encoder, frames))
    assert len(found) == len(clips)
    for tokens, numbers in zip(found, clips, strict=True):
        whole = VideoTransformer.forward(encoder, frames[list(numbers)].transpose(0, 1)[None])
        torch.testing.assert_close(tokens, whole.reshape(2, 4, 4, 32)[1])
