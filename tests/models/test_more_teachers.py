"""Teachers that `--teacher` names: tokens of any ViT of timm as timm itself gives them, and of a video model."""

import pytest
import timm
import torch
from timm.data import resolve_data_config
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize

from models import ModelError, create_model
from models.more_teachers import TimmTeacher, VideoTeacher, describe_timm, timm_network, timm_width
from models.targets import IMAGENET_MEAN, IMAGENET_STD
from models.vit import VideoTransformer

TUBELET, GRID = (2, 16, 16), (2, 10, 10)  # of a student that sees 4 frames of 160 pixels
# Class token, none of it and registers; patches of 16 and 14; statistics of their own; RoPE and gated MLPs.
SMALL = ("test_vit.r160_in1k", "test_vit4.r160_in1k")
FAMILIES = ("vit_small_patch16_dinov3.lvd1689m", "vit_small_patch14_reg4_dinov2.lvd142m")
LARGER = (
    "vit_base_patch16_siglip_gap_224.v2_webli",
    "vit_base_patch16_clip_quickgelu_224.openai",
    "vit_base_patch16_224.mae",
)


def weights_file(name, folder, **options):
    """Random weights of a network in timm's layout."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    torch.save(network.state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth"), network.eval()


def standardised(tokens_BNF):
    tokens = tokens_BNF.double()
    return (tokens - tokens.mean(1, keepdim=True)) / (tokens.std(1, keepdim=True) + 1e-6)


def check(name, folder, *, atol=2e-4):
    """Against timm's configuration of its pictures, and its own forward pass of the frames that the teacher reads."""
    size = {14: 140, 16: 160}[timm.create_model(name, num_classes=0).patch_embed.patch_size[0]]
    file, network = weights_file(name, folder, img_size=size)
    teacher = TimmTeacher(timm_network(name, GRID, file), tubelet=TUBELET, grid=GRID)
    config = resolve_data_config({}, model=network)
    prepare = Compose(
        [Resize(size, InterpolationMode.BICUBIC, antialias=True), Normalize(config["mean"], config["std"])]
    )
    pixels = torch.rand(1, 4, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    frames = torch.stack([prepare(frame) for frame in pixels[0, ::2]])
    with torch.no_grad():
        tokens = network.forward_features(frames)[:, network.num_prefix_tokens :]
    expected = standardised(tokens.reshape(1, 200, -1))
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    clip = ((pixels - mean) / std).transpose(1, 2)
    mask = torch.rand(2, 200, generator=torch.Generator().manual_seed(2)).argsort(1) < 150
    found = teacher(clip, mask)  # two masks of one clip
    for masked, of_a_mask in zip(mask, found, strict=True):
        torch.testing.assert_close(of_a_mask.double(), expected[0, masked], atol=atol, rtol=0)
    assert found.shape == (2, 150, timm_width(name)) and found.dtype == torch.float32
    torch.testing.assert_close(teacher.features(clip).double(), expected, atol=atol, rtol=0)
    return teacher


@pytest.mark.parametrize("name", SMALL)
def test_tokens_are_those_of_timm(name, tmp_path):
    teacher = check(name, tmp_path)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.train().training and not teacher.network.training


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES),
        *(pytest.param(name, marks=pytest.mark.long) for name in LARGER),
    ],
)
def test_tokens_of_the_families_are_those_of_timm(name, tmp_path):
    check(name, tmp_path, atol=2e-3)


def test_what_is_recorded_of_a_timm_teacher(tmp_path):
    file, _ = weights_file(SMALL[0], tmp_path)
    told = describe_timm(timm_network("test_vit", GRID, file))
    assert told == {"name": "test_vit.r160_in1k", "licence": "apache-2.0", "timm": timm.__version__}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_small_patch16_dinov33", "no such model. Did you mean .*vit_small_patch16_dinov3"),
        ("vit_small_patch16_dinov3.nosuchtag", r"no such weights; it has .*vit_small_patch16_dinov3\.lvd1689m"),
        ("resnet18", "a ResNet is no ViT"),
        ("swin_tiny_patch4_window7_224", "a SwinTransformer is no ViT"),
    ],
)
def test_names_that_are_refused(name, words):
    with pytest.raises(ModelError, match=words):
        timm_width(name)


def test_files_that_are_refused(tmp_path):
    file, _ = weights_file("test_vit4", tmp_path)
    with pytest.raises(ModelError, match=r"--teacher test_vit: timm cannot read these weights \(.*of this network"):
        timm_network("test_vit", GRID, file)
    (tmp_path / "weights.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="timm cannot read these weights"):
        timm_network("test_vit", GRID, file)
    file, network = weights_file("test_vit", tmp_path)
    state = network.state_dict()
    torch.save(state | {"norm.bias": state["norm.bias"] * float("nan")}, file)
    with pytest.raises(ModelError, match=r"--teacher test_vit: norm\.bias holds numbers that are not finite"):
        timm_network("test_vit", GRID, file)


def test_tokens_of_a_video_teacher():
    torch.manual_seed(0)
    encoder = create_model("pretrain_videomae_mini_patch8_16", num_frames=4, decoder_depth=1).encoder
    clip = torch.randn(3, 3, 4, 16, 16)
    with torch.no_grad():
        expected = standardised(VideoTransformer.forward(encoder, clip))
    teacher = VideoTeacher(encoder, tubelet=(2, 8, 8), grid=(2, 2, 2))
    mask = torch.rand(3, 8).argsort(1) < 6
    found = teacher(clip, mask)
    for masked, of_a_clip, right in zip(mask, found, expected, strict=True):
        torch.testing.assert_close(of_a_clip.double(), right[masked], atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match="its tubelets are 2x8x8, the model's 1x8x8"):
        VideoTeacher(encoder, tubelet=(1, 8, 8), grid=(4, 2, 2))


def test_a_centered_teacher_has_no_mean_at_any_position_over_all_ranks():
    torch.manual_seed(0)
    encoder = create_model("pretrain_videomae_mini_patch8_16", num_frames=4, decoder_depth=1).encoder
    clip = torch.randn(5, 3, 4, 16, 16)
    mask = torch.rand(5, 8).argsort(1) < 6
    with torch.no_grad():
        tokens = VideoTransformer.forward(encoder, clip).double()
    expected = standardised(tokens - tokens.mean(0))
    teacher = VideoTeacher(encoder, tubelet=(2, 8, 8), grid=(2, 2, 2))
    sums = []
    teacher.center(lambda tensor: sums.append(tensor) or tensor)
    torch.testing.assert_close(teacher.features(clip).double(), expected, atol=1e-4, rtol=0)
    teacher(clip[3:], mask[3:])
    teacher.center(lambda tensor: tensor + sums[1])  # of the rank that has the last two clips
    of_first_rank = torch.stack([clip[mask] for clip, mask in zip(expected[:3], mask[:3], strict=True)])
    torch.testing.assert_close(teacher(clip[:3], mask[:3]).double(), of_first_rank, atol=1e-4, rtol=0)
