"""Pictures of a batch, against its pixels."""

import pytest
import torch

from models import create_model
from models.analysis.figures import DARKENED, NUM_CLIPS, clip_pictures, pretraining_pictures

T, SIZE = 4, 32


def batch():
    """Six clips of random 8-bit pixels (B, 3, T, H, W), as they are and normalised, and their masks (B, N)."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (6, 3, T, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    masks = torch.stack([torch.randperm(32, generator=generator) < 20 for _ in range(6)])
    return pixels, (pixels / 255 - mean) / std, masks


def model(**options):
    return create_model("pretrain_videomae_mini_patch8_32", num_frames=T, num_prototypes=12, **options)


def in_clips(picture, num_rows):
    """A picture -> (clips, rows, 3, frames, height, width)."""
    return picture.reshape(3, NUM_CLIPS, num_rows, SIZE, -1, SIZE).permute(1, 2, 0, 4, 3, 5)


def by_pixel(mask_BN):
    """The mask of every pixel of the tubelets' first frames, (B, 1, t, H, W)."""
    return mask_BN.reshape(-1, 1, T // 2, 4, 4).repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)


def test_clips():
    pixels, clip, _ = batch()
    shown = in_clips(clip_pictures(clip)["clips"], 1)[:, 0]
    assert torch.equal(shown, pixels[:NUM_CLIPS, :, ::2])


def test_masked_tubelets_are_darkened():
    pixels, clip, masks = batch()
    out = {"mask": masks, "codes_video": torch.zeros(6, 20).long(), "codes_target": torch.zeros(6, 20).long()}
    pictures, _ = pretraining_pictures(model(), clip, out)
    assert pictures.keys() == {"masks", "prototypes/use", "prototypes/cosine"}
    shown = in_clips(pictures["masks"], 2)
    first = pixels[:NUM_CLIPS, :, ::2]
    assert torch.equal(shown[:, 0], first)
    expected = torch.where(by_pixel(masks[:NUM_CLIPS]), (first * DARKENED), first.float())
    torch.testing.assert_close(shown[:, 1].float(), expected, atol=0.51, rtol=0)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_perfect_prediction_looks_like_the_clip(normalize):
    """And one that is wrong by nothing but an offset differs at the masked positions only."""
    pixels, clip, masks = batch()
    videomae = model(target_type="pixel", loss_func="L2", normalize_target=normalize)
    places = masks.to(torch.uint8).argsort(dim=1, stable=True)[:, -20:]
    predicted = videomae.targets(clip, places)
    first = pixels[:NUM_CLIPS, :, ::2]
    for offset in (0.0, 0.3):
        out = {"mask": masks, "predicted": predicted + offset, "decoded": places}
        pictures, values = pretraining_pictures(videomae, clip, out)
        assert pictures.keys() == {"reconstruction"} and values == {}
        shown = in_clips(pictures["reconstruction"], 3)[:, 2]
        differs = (shown.int() - first.int()).abs() > 1
        assert not differs[~by_pixel(masks[:NUM_CLIPS]).expand_as(differs)].any()
        assert differs.any() == (offset > 0)


def test_raw_features_are_no_pixels():
    """Of targets that are compared by cosine, or of features, no reconstruction is shown."""
    _, clip, masks = batch()
    plain = model(target_type="pixel", loss_func="SWAV")
    out = plain(clip, masks) | {"mask": masks}
    assert "reconstruction" not in pretraining_pictures(plain, clip, out)[0]


def test_prototypes():
    """Twelve prototypes, of which the third has the most tokens; two of the used ones are the same."""
    _, clip, masks = batch()
    sigma = model()
    with torch.no_grad():
        sigma.prototypes.copy_(torch.eye(12, 256))
        sigma.prototypes[5] = 3 * sigma.prototypes[2]
    codes = torch.tensor([[2, 2, 2, 5, 5, 0]])
    pictures, values = pretraining_pictures(
        sigma, clip, {"mask": masks, "codes_video": codes.flip(0), "codes_target": codes}
    )
    assert values["prototypes/tokens_target"].tolist() == [1, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    cosine = pictures["prototypes/cosine"]
    width = cosine.shape[2] // 12
    assert cosine.shape == (1, 12 * width, 12 * width) and width == 21
    cosine = cosine[0, ::width, ::width]
    assert cosine[0, 1] == 255 and cosine[0, 2] == 128 and (cosine.diagonal() == 255).all()  # 2, 5, 0, then the unused
    use = pictures["prototypes/use"][0, :, ::width]
    top, bottom = use.chunk(2)
    assert torch.equal(top, bottom)
    heights = (bottom == 255).sum(dim=0)
    assert heights.tolist() == [96, 64, 32, *[0] * 9]
