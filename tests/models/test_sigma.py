"""The method's module: what it takes, what it gives, where its gradients go."""

import copy

import pytest
import torch
import torch.nn.functional as F

from models import create_model

GRID, NUM_TOKENS, NUM_MASKED = (2, 4, 4), 32, 24
TINY = {"num_frames": 4, "encoder_depth": 2, "decoder_depth": 1, "projection_dims": [16], "num_prototypes": 10}


def sigma(seed=0, **changes):
    torch.manual_seed(seed)
    return create_model("pretrain_videomae_mini_patch8_32", **{**TINY, "decoder_num_classes": 12, **changes})


def videomae(**changes):
    return sigma(target_type="pixel", loss_func="L2", decoder_num_classes=None, **changes)


def inputs(batch=3, seed=1):
    """Clips, and a random mask for each."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, NUM_TOKENS, generator=generator).argsort(dim=1)
    return torch.randn(batch, 3, 4, 32, 32, generator=generator), order < NUM_MASKED


def test_what_comes_out():
    out = sigma()(*inputs())
    names = {"loss", "video_loss", "target_loss", "codes_video", "codes_target", "predicted", "projected", "decoded"}
    assert set(out) == names
    assert out["predicted"].shape == (3, NUM_MASKED, 12)
    for name in ("loss", "video_loss", "target_loss"):
        assert out[name].shape == () and out[name].dtype == torch.float32
    for name in ("codes_video", "codes_target"):
        assert out[name].shape == (3, NUM_MASKED) and out[name].dtype == torch.int64
    torch.testing.assert_close(out["loss"], out["video_loss"] + out["target_loss"])
    out = videomae()(*inputs())
    assert set(out) == {"loss", "predicted", "projected", "decoded"}
    assert out["predicted"].shape == (3, NUM_MASKED, 3 * 2 * 8 * 8)


def test_losses_are_cross_entropies_with_the_other_branch_s_codes():
    model = sigma()
    clip, mask = inputs()
    features = torch.randn(3, NUM_MASKED, 384)
    out = model(clip, mask, features)
    prototypes = F.normalize(model.prototypes, dim=1)

    def loss(embeddings, codes):
        return F.cross_entropy((F.normalize(embeddings, dim=-1) @ prototypes.T / 0.1).flatten(0, 1), codes.flatten())

    torch.testing.assert_close(out["video_loss"], loss(out["predicted"], out["codes_target"]))
    torch.testing.assert_close(out["target_loss"], loss(model.head(features), out["codes_video"]))


def test_given_features_replace_the_target_network_s():
    model = sigma()
    clip, mask = inputs()
    masked = mask.nonzero()[:, 1].reshape(3, -1)
    own = model.target_features(clip, masked)
    torch.testing.assert_close(model(clip, mask, own)["loss"], model(clip, mask)["loss"])
    assert model(clip, mask, torch.randn_like(own))["loss"] != model(clip, mask)["loss"]


def test_image_teacher_needs_given_features():
    model = sigma(target_type="dino_v1", decoder_num_classes=None)
    with pytest.raises(ValueError, match="target_features"):
        model(*inputs())
    assert model(*inputs(), torch.randn(3, NUM_MASKED, 128))["predicted"].shape == (3, NUM_MASKED, 128)


@pytest.mark.parametrize("shape", [(3, 3, 6, 32, 32), (3, 3, 4, 40, 32), (3, 3, 4, 32, 24), (3, 1, 4, 32, 32)], ids=str)
def test_clip_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"\(3, 4, 32, 32\)"):
        sigma()(torch.zeros(shape), inputs()[1])


def twins(**changes):
    """Two models of the same bits, in evaluation: a second pass of one would normalise its prototypes once more."""
    model = sigma(**changes).eval()
    return model, copy.deepcopy(model)


def test_a_known_number_of_masked_tokens_changes_nothing():
    model, other = twins()
    clip, mask = inputs()
    assert torch.equal(model(clip, mask)["loss"], other(clip, mask, num_masked=NUM_MASKED)["loss"])


@pytest.mark.parametrize("build", [sigma, videomae])
def test_a_part_of_the_masked_tokens_is_decoded(build):
    """The decoder and the objective see the same tokens, which are some of the masked ones."""
    model, clip, mask = build(decoder_mask_ratio=0.5), *inputs()
    out = model(clip, mask)
    assert out["predicted"].shape[:2] == out["projected"].shape[:2] == (3, NUM_MASKED // 2)
    features = model.target_features(clip, mask.nonzero()[:, 1].reshape(3, -1))
    torch.manual_seed(5)
    own = model(clip, mask)
    torch.manual_seed(5)
    torch.testing.assert_close(model(clip, mask, features)["loss"], own["loss"])
    projected = model.head(features)
    for given, chosen in zip(projected, own["projected"], strict=True):
        distances = torch.cdist(chosen, given)
        assert distances.argmin(dim=1).unique().numel() == NUM_MASKED // 2 and distances.amin(dim=1).max() < 1e-3


def test_frozen_projection_gets_no_gradient():
    model = sigma()
    model.freeze_projection()
    trained = gradients(model, "loss")
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith("head.")}


def test_masks_that_are_not_even():
    clip, mask = inputs()
    uneven = mask.clone()
    uneven[1, uneven[1].nonzero()[0]] = False
    with pytest.raises(ValueError, match=r"\[24, 23, 24\]"):
        sigma()(clip, uneven)
    for value in (True, False):
        with pytest.raises(ValueError, match="some must be visible"):
            sigma()(clip, torch.full_like(mask, value))


def test_masked_pixels_do_not_reach_the_prediction():
    model = sigma()
    clip, mask = inputs()
    changed = clip.clone()
    places = mask.reshape(3, 1, *GRID).repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    changed[places.expand_as(clip)] += 5
    torch.testing.assert_close(model(changed, mask)["predicted"], model(clip, mask)["predicted"])
    changed = clip.clone()
    changed[~places.expand_as(clip)] += 5
    assert not torch.allclose(model(changed, mask)["predicted"], model(clip, mask)["predicted"], atol=1e-3)


def test_clips_of_a_batch_do_not_see_each_other_before_the_objective():
    model = sigma()
    clip, mask = inputs()
    torch.testing.assert_close(
        model(clip, mask)["predicted"][1:2], model(clip[1:2], mask[1:2])["predicted"], rtol=1e-4, atol=1e-5
    )


def test_prototypes_are_on_the_unit_sphere_after_a_pass():
    model = sigma()
    assert (model.prototypes.norm(dim=1) - 1).abs().max() > 0.1
    direction = F.normalize(model.prototypes.detach(), dim=1)
    model(*inputs())
    torch.testing.assert_close(model.prototypes.detach(), direction)
    model.eval()(*inputs())
    torch.testing.assert_close(model.prototypes.detach(), direction)


def gradients(model, loss):
    model.zero_grad()
    model(*inputs())[loss].backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_prototypes_learn_from_the_target_branch_only():
    model = sigma()
    video, target = gradients(model, "video_loss"), gradients(model, "target_loss")
    assert "prototypes" not in video and "prototypes" in target
    assert not any(name.startswith("head.") for name in video)
    assert all(name.startswith(("head.", "prototypes")) for name in target)
    trained = gradients(model, "loss")
    assert trained == {name for name, _ in model.named_parameters()}


def test_videomae_loss_is_the_mean_squared_error_to_standardised_pixels():
    model = videomae()
    clip, mask = inputs()
    out = model(clip, mask)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = clip * std[:, None, None, None] + mean[:, None, None, None]
    losses = []
    for b in range(3):
        for i, n in enumerate(mask[b].nonzero()[:, 0].tolist()):
            t, y, x = n // 16, n // 4 % 4, n % 4
            cube = pixels[b, :, 2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].reshape(3, -1)
            cube = (cube - cube.mean(1, keepdim=True)) / cube.std(1, keepdim=True)
            losses.append((out["predicted"][b, i] - cube.T.flatten()).square().mean())
    torch.testing.assert_close(out["loss"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_raw_pixels():
    clip, mask = inputs(1)
    raw, standardised = videomae(normalize_target=False), videomae()
    masked = mask.nonzero()[:, 1].reshape(1, -1)
    target = raw.target_features(clip, masked).reshape(1, NUM_MASKED, -1, 3)
    n = int(masked[0, 0])
    y, x = n // 4 % 4, n % 4
    first = clip[0, :, 2 * (n // 16), 8 * y, 8 * x] * torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(target[0, 0, 0], first + torch.tensor([0.485, 0.456, 0.406]))
    even = standardised.target_features(clip, masked).reshape(1, NUM_MASKED, -1, 3)
    torch.testing.assert_close(even.mean(dim=2), torch.zeros(1, NUM_MASKED, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(even.std(dim=2), torch.ones(1, NUM_MASKED, 3), atol=1e-4, rtol=0)
    assert raw(clip, mask)["loss"] != standardised(clip, mask)["loss"]


def test_constant_clip_gives_a_finite_loss():
    _, mask = inputs()
    for model in (sigma(), videomae()):
        loss = model(torch.zeros(3, 3, 4, 32, 32), mask)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("build", [sigma, videomae])
def test_recomputed_activations_give_the_same_gradients(build):
    plain, saving = build(drop_path_rate=0.5), build(drop_path_rate=0.5, use_checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        torch.manual_seed(4)
        model(*inputs())["loss"].backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_low_precision_keeps_the_objective_in_float32():
    model = sigma()
    full = model(*inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(*inputs())
    assert half["predicted"].dtype == torch.bfloat16 and half["loss"].dtype == torch.float32
    torch.testing.assert_close(half["loss"], full["loss"], rtol=0.05, atol=0)


def test_state_dict_holds_parameters_only():
    """Tables and frozen networks are made anew: released files do not hold them."""
    for model in (sigma(), videomae()):
        assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_random_numbers_are_not_drawn_in_evaluation():
    model, other = twins(drop_path_rate=0.5)
    before = torch.get_rng_state()
    assert torch.equal(model(*inputs())["loss"], other(*inputs())["loss"])
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    assert len({model(*inputs())["loss"].item() for _ in range(4)}) > 1


def test_copies_are_independent():
    model = sigma()
    other = copy.deepcopy(model)
    other(*inputs())
    assert (model.prototypes.norm(dim=1) - 1).abs().max() > 0.1


@pytest.mark.parametrize("normalize", [True, False])
def test_the_projection_always_sees_standardised_tubelets(normalize):
    model = create_model("pretrain_videomae_mini_patch8_32", num_frames=4, normalize_target=normalize)
    assert model.targets.normalize
