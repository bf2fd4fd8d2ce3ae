"""Masks that follow motion: the maths against naive loops, pictures that move as is known, the network's weights."""

import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.optical_flow import raft_small

from datasets.errors import FlowError
from datasets.masks.flow_guided import (
    MIN_FLOW_SIDE,
    MotionGuide,
    base_map,
    flow_model,
    guided_mask,
    mask_from_maps,
    neighbour_pairs,
    propagate,
    warp,
)
from datasets.masks.masks import MASKS
from datasets.transforms.normalization import normalize_clips


def rng(seed=0):
    return np.random.default_rng(seed)


def naive_base_map(visible: np.ndarray, patch: int) -> np.ndarray:
    """The formula of the protocol, pixel by pixel in float64."""
    height, width = (side * patch for side in visible.shape)
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for i, j in zip(*np.nonzero(visible), strict=True):
                dx, dy = x - patch * j - (patch - 1) / 2, y - patch * i - (patch - 1) / 2
                out[y, x] = max(out[y, x], math.exp(-((dx / patch) ** 2) - (dy / patch) ** 2))
    return out / out.max()


def naive_warp(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Bilinear sampling from the four neighbours, those outside counting as 0."""
    height, width = values.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            place_x, place_y = x + flow[0, y, x], y + flow[1, y, x]
            left, top = math.floor(place_x), math.floor(place_y)
            for j in (left, left + 1):
                for i in (top, top + 1):
                    if 0 <= i < height and 0 <= j < width:
                        out[y, x] += (1 - abs(place_x - j)) * (1 - abs(place_y - i)) * values[i, j]
    return out


def uniform_flow(num_frames, height, width, velocity):
    """The flow, towards the middle frame, of a picture that moves by `velocity` (x, y) a frame."""
    flow = torch.zeros(1, num_frames - 1, 2, height, width)
    for entry, (frame, neighbour) in enumerate(neighbour_pairs(num_frames)):
        for axis in (0, 1):
            flow[:, entry, axis] = (neighbour - frame) * velocity[axis]
    return flow


# ---- which frames ----


@pytest.mark.parametrize("num_frames", [2, 3, 5, 16])
def test_flow_leads_to_the_neighbour_nearer_to_the_middle(num_frames):
    pairs = neighbour_pairs(num_frames)
    middle = num_frames // 2
    assert sorted(frame for frame, _ in pairs) == [frame for frame in range(num_frames) if frame != middle]
    for entry, (frame, neighbour) in enumerate(pairs):
        assert abs(frame - neighbour) == 1 and abs(neighbour - middle) == abs(frame - middle) - 1
        assert {frame, neighbour} == {entry, entry + 1}
    with pytest.raises(ValueError, match="--num_frames must be at least 2"):
        neighbour_pairs(1)


# ---- maps ----


@pytest.mark.parametrize(("grid", "patch"), [((3, 4), 4), ((5, 5), 3), ((2, 3), 16), ((1, 2), 1)])
def test_base_map_is_the_formula(grid, patch):
    visible = torch.zeros(2, *grid, dtype=torch.bool)
    visible[0, 0, 1] = visible[1].view(-1)[-1] = visible[1, 0, 0] = True
    out = base_map(visible, patch)
    assert out.shape == (2, grid[0] * patch, grid[1] * patch) and out.dtype == torch.float32
    for one, expected in zip(out, visible.numpy(), strict=True):
        assert np.abs(one.numpy() - naive_base_map(expected, patch)).max() < 1e-6


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (1, 5)])
def test_warp_is_bilinear_sampling(size):
    values = rng().random((2, *size))
    flow = rng(1).uniform(-4, 4, (2, 2, *size))
    flow[1] = np.rint(flow[1])
    out = warp(torch.tensor(values).float(), torch.tensor(flow).float()).numpy()
    for one, value, way in zip(out, values, flow, strict=True):
        assert np.abs(one - naive_warp(value, way)).max() < 1e-5


def test_whole_steps_move_the_map_exactly():
    """A shift by whole pixels is a copy, up to rounding, also at the borders, and what comes in is the base map."""
    base = torch.rand(1, 12, 12) + 0.1
    maps = propagate(base, uniform_flow(5, 12, 12, (3, -1)), 2)
    after, before = maps[0, 3], maps[0, 1]
    assert torch.allclose(after[:-1, 3:], base[0, 1:, :-3], atol=1e-5)
    assert torch.allclose(after[:, :3], base[0, :, :3], atol=1e-6) and torch.allclose(after[-1], base[0, -1], atol=1e-6)
    assert torch.allclose(before[1:, :-3], base[0, :-1, 3:], atol=1e-5)
    assert torch.equal(maps[0, 2], base[0])


def test_propagate_is_a_chain_of_warps_with_holes_refilled():
    base = rng().random((10, 10))
    base[:, :3] = 0  # holes that the base map itself cannot fill
    flow = rng(1).uniform(-3, 3, (4, 2, 10, 10))
    expected = {2: base}
    for frame, neighbour, entry in [(1, 2, 1), (0, 1, 0), (3, 2, 2), (4, 3, 3)]:
        warped = naive_warp(expected[neighbour], flow[entry])
        expected[frame] = np.where(warped == 0, base, warped)
    out = propagate(torch.tensor(base).float()[None], torch.tensor(flow).float()[None], 2)[0]
    assert np.abs(out.numpy() - np.stack([expected[frame] for frame in range(5)])).max() < 1e-4


def test_the_brightest_tokens_are_visible():
    maps = torch.rand(2, 6, 8, 12)
    mask = mask_from_maps(maps, (3, 2, 4), 3)
    assert mask.shape == (2, 24) and mask.dtype == torch.bool
    for one, map_ in zip(mask.view(2, 3, 2, 4), maps, strict=True):
        for slot in range(3):
            places = [(i, j) for i in (0, 4) for j in (0, 3, 6, 9)]
            sums = [map_[2 * slot : 2 * slot + 2, i : i + 4, j : j + 3].sum() for i, j in places]
            assert set(np.argsort(sums)[-3:]) == set((~one[slot].flatten()).nonzero()[:, 0].tolist())


def test_ties_go_to_the_first_token():
    mask = mask_from_maps(torch.ones(1, 2, 4, 4), (2, 2, 2), 3)
    assert mask.view(2, 4).tolist() == [[False, False, False, True]] * 2


# ---- masks ----


def base_masks(grid, ratio, batch=3):
    return torch.from_numpy(np.stack([MASKS["motion"](grid, ratio, rng(seed)) for seed in range(batch)]))


@pytest.mark.parametrize(("grid", "num_frames", "patch"), [((8, 14, 14), 16, 16), ((2, 5, 3), 8, 4), ((3, 4, 4), 3, 7)])
def test_without_motion_the_mask_is_the_tube(grid, num_frames, patch):
    base = base_masks(grid, 0.8)
    flow = torch.zeros(3, num_frames - 1, 2, grid[1] * patch, grid[2] * patch)
    num_visible = int((~base[0]).sum()) // grid[0]
    assert torch.equal(guided_mask(base, flow, grid, num_visible), base)


def follows(velocity, flow):
    """Whether the mask of one patch, visible in the middle frame, moves with the pattern; one frame a slot."""
    grid, patch, num_frames = (5, 7, 7), 8, 5
    base = torch.ones(1, *grid, dtype=torch.bool)
    base[:, :, 3, 3] = False
    mask = guided_mask(base.view(1, -1), flow, grid, 1).view(*grid)
    places = [tuple((~mask[slot]).nonzero()[0].tolist()) for slot in range(num_frames)]
    steps = [velocity[axis] // patch for axis in (0, 1)]
    return places == [(3 + steps[1] * (slot - 2), 3 + steps[0] * (slot - 2)) for slot in range(num_frames)]


@pytest.mark.parametrize("velocity", [(8, 0), (0, -8), (-8, 8)])
def test_visible_patches_move_with_the_pattern(velocity):
    """By one patch a frame, in both directions of time; and no longer if any half of the flow is turned round."""
    flow = uniform_flow(5, 56, 56, velocity)
    assert follows(velocity, flow)
    for half in (slice(0, 2), slice(2, 4)):
        wrong = flow.clone()
        wrong[:, half] *= -1
        assert not follows(velocity, wrong)


def test_slots_have_the_same_number_and_other_places():
    grid = (8, 14, 14)
    base = base_masks(grid, 0.9)
    mask = guided_mask(base, uniform_flow(16, 224, 224, (5, 3)).expand(3, -1, -1, -1, -1), grid, 19)
    visible = (~mask).view(3, 8, 196)
    assert (visible.sum(dim=2) == 19).all()
    assert (visible[:, 0] != visible[:, 7]).any(dim=1).all()


# ---- the flow network ----


class Correlation(nn.Module):
    """Finds the flow of pictures that move as a whole, by whole pixels; called like RAFT."""

    def __init__(self):
        super().__init__()
        self.sizes, self.batches = set(), []

    def forward(self, images, neighbours, num_flow_updates):
        assert num_flow_updates == 6 and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        assert -1.001 < images.min() < -0.9 and 0.9 < neighbours.max() < 1.001
        batch, _, height, width = images.shape
        self.sizes.add((height, width))
        self.batches.append(batch)
        here, there = (torch.fft.fft2(part.mean(dim=1)) for part in (images, neighbours))
        peak = torch.fft.ifft2(there * here.conj()).real.flatten(1).argmax(dim=1)
        y, x = peak // width, peak % width
        y, x = (torch.where(way > side // 2, way - side, way) for way, side in ((y, height), (x, width)))
        flow = torch.stack([x, y], dim=1).float().view(batch, 2, 1, 1).expand(-1, -1, height, width)
        return [torch.zeros_like(flow), flow]


def moving_clips(num_frames, size, velocity, batch=1):
    """Smooth noise that moves by `velocity` (x, y) a frame, and comes in again where it goes out."""
    texture = torch.rand(3, size[0] // 4 + 1, size[1] // 4 + 1, generator=torch.Generator().manual_seed(0))
    texture = nn.functional.interpolate(texture[None], size, mode="bilinear")[0]
    texture = (texture - texture.min()) / (texture.max() - texture.min()) * 255
    frames = [texture.roll((number * velocity[1], number * velocity[0]), (1, 2)) for number in range(num_frames)]
    return normalize_clips(torch.stack(frames).round().to(torch.uint8).expand(batch, -1, -1, -1, -1))


def test_guide_moves_the_mask_with_the_picture():
    grid = (5, 16, 16)
    base = torch.ones(1, *grid, dtype=torch.bool)
    base[:, :, 8, 8] = False
    network = Correlation()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in a training step, whose precision must not matter
        mask = MotionGuide(network, grid)(moving_clips(5, (128, 128), (8, -8)), base.view(1, -1)).view(*grid)
    assert [tuple((~slot).nonzero()[0].tolist()) for slot in mask] == [(10, 6), (9, 7), (8, 8), (7, 9), (6, 10)]
    assert network.sizes == {(128, 128)}


def test_several_masks_of_a_clip_share_its_flow():
    grid = (3, 16, 16)
    base = torch.ones(4, *grid, dtype=torch.bool)
    for number in range(4):
        base[number, :, 8, 2 + 3 * number] = False
    clips = torch.cat([moving_clips(3, (128, 128), velocity) for velocity in ((8, 0), (0, 8))])
    base, network = base.flatten(1), Correlation()
    shared = MotionGuide(network, grid)(clips, base)
    assert network.batches == [4]  # two pairs of frames of two clips
    assert torch.equal(shared, MotionGuide(network, grid)(clips.repeat_interleave(2, dim=0), base))
    assert len(shared.unique(dim=0)) == 4


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (130, 132)])
def test_small_and_odd_clips_are_enlarged_and_the_flow_scaled_back(size):
    network = Correlation()
    flow = MotionGuide(network, (1, 1, 1)).flow(moving_clips(4, size, (6, -4)))
    ((height, width),) = network.sizes
    assert height % 8 == 0 and width % 8 == 0 and min(height, width) >= MIN_FLOW_SIDE
    assert height - size[0] < max(8, MIN_FLOW_SIDE) and flow.shape == (1, 3, 2, *size)
    expected = torch.tensor([6.0, -4.0]) * torch.tensor([1.0, 1.0, -1.0])[:, None]
    assert (flow[0, :, :, 0, 0] - expected).abs().max() < 0.5  # the estimate is of whole pixels


def test_large_batches_go_through_the_network_in_parts():
    network = Correlation()
    flow = MotionGuide(network, (1, 1, 1)).flow(moving_clips(16, (128, 128), (2, 0), batch=20))
    assert network.batches == [255, 45] and flow.shape[:2] == (20, 15)  # 255 maps of 16 x 16 places
    assert (flow[:, :8, 0] == 2).all() and (flow[:, 8:, 0] == -2).all()


@pytest.fixture(scope="module")
def raft():
    """Untrained: for shapes, counts and files."""
    torch.manual_seed(0)
    return flow_model(raft_small(weights=None).state_dict())


@pytest.mark.parametrize(("size", "num_frames", "grid"), [(32, 4, (2, 4, 4)), (128, 3, (3, 8, 8))])
def test_raft_gives_whole_masks(raft, size, num_frames, grid):
    guide = MotionGuide(raft, grid)
    clip = normalize_clips(torch.randint(0, 256, (2, num_frames, 3, size, size), dtype=torch.uint8)).requires_grad_()
    base = base_masks(grid, 0.75, batch=2)
    flow = guide.flow(clip)
    assert flow.isfinite().all() and flow.abs().max() > 0 and not flow.requires_grad
    mask = guide(clip, base)
    assert mask.shape == base.shape and mask.dtype == torch.bool
    visible = (~mask).view(2, grid[0], -1).sum(dim=2)
    assert (visible == grid[1] * grid[2] // 4).all()
    assert torch.equal(mask, guide(clip, base))


def test_low_precision_moves_the_flow_by_fractions_of_a_pixel(raft):
    clip = moving_clips(3, (128, 128), (6, -4))
    exact = MotionGuide(raft, (1, 1, 1)).flow(clip)
    rough = MotionGuide(copy.deepcopy(raft), (1, 1, 1), low_precision=True).flow(clip)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm(dim=2).max() < 0.1 * exact.norm(dim=2).max()


def test_raft_is_frozen_and_stays_out_of_checkpoints(raft):
    guide = MotionGuide(raft, (1, 1, 1))
    assert not raft.training and not any(parameter.requires_grad for parameter in guide.parameters())
    assert all(name.startswith("flow_model.") for name in guide.state_dict())


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_weights_from_a_file(raft, kind, tmp_path):
    path = tmp_path / f"raft.{kind}"
    if kind == "pth":
        torch.save(raft.state_dict(), path)
        weights = torch.load(path, weights_only=True)
    else:
        save_file(raft.state_dict(), path)
        weights = load_file(path)
    clip = torch.randn(1, 3, 2, 64, 64)
    again = MotionGuide(flow_model(weights), (1, 1, 1)).flow(clip)
    assert torch.equal(again, MotionGuide(raft, (1, 1, 1)).flow(clip))


def test_wrong_weights_are_refused(raft):
    weights = dict(raft.state_dict())
    weights["head.weight"] = weights.pop("context_encoder.conv.weight")
    with pytest.raises(FlowError, match=r"--flow_weights.*raft_small.*context_encoder\.conv\.weight") as caught:
        flow_model(weights)
    assert "\n" not in str(caught.value)


def test_failed_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(FlowError, match=r"--flow_weights raft_small_C_T_V2-01064c6d\.pth") as caught:
        flow_model()
    assert "\n" not in str(caught.value)
