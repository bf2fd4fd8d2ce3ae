"""One call from a file to a model."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpointing.read_weights import StartConfig
from engine.errors import CheckpointError
from inference import views
from inference.load import load, made
from models.registry import create_model
from scripts.weight_files import Content, write

SIZES = {"img_size": 32, "num_frames": 8}
ARGS = {"num_frames": 8, "input_size": 32, "sampling_rate": 2, "model": "pretrain_videomae_mini_patch8_32"}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A pre-training model and its file."""
    torch.manual_seed(0)
    model = create_model("pretrain_videomae_mini_patch8_32", target_type="pixel", decoder_depth=1, **SIZES).eval()
    file = tmp_path_factory.mktemp("weights") / "checkpoint-0.pth"
    torch.save({"model": model.state_dict(), "args": ARGS}, file)
    return model, file


@pytest.fixture(scope="module")
def clip():
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_pretraining_model_gives_its_encoder(pretrained, clip):
    model, file = pretrained
    loaded = load(file)
    assert torch.equal(loaded.tokens(clip), model.encoder(clip))
    assert torch.allclose(loaded.pooled(clip), model.encoder(clip).mean(1), atol=1e-6)
    plain = loaded.tokens(clip, final_norm=False)
    assert torch.equal(model.encoder.norm(plain), model.encoder(clip)) and loaded.model.norm is not None
    assert not loaded.classifies and loaded.class_names == () and not loaded.model.training
    assert (loaded.clip.num_frames, loaded.clip.input_size, loaded.clip.sampling_rate) == (8, 32, 2)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_a_classifier_comes_with_head_names_and_sampling(tmp_path, clip):
    torch.manual_seed(0)
    model = create_model("vit_mini_patch8_32", num_classes=3, init_scale=1.0, **SIZES).eval()
    args = {"num_frames": 8, "input_size": 32, "data_set": "SSV2", "short_side_size": 40}
    torch.save({"model": model.state_dict(), "args": args, "class_names": ["a", "b", "c"]}, tmp_path / "c.pth")
    loaded = load(tmp_path / "c.pth")
    assert torch.equal(loaded.model(clip), model(clip))
    assert loaded.classifies and loaded.class_names == ("a", "b", "c") and not loaded.has_final_norm
    assert (loaded.clip.sampling, loaded.clip.sampling_rate, loaded.clip.short_side_size) == ("uniform", 2, 40)
    assert torch.equal(loaded.tokens(clip, final_norm=False).mean(1), super(type(model), model).forward(clip).mean(1))
    with pytest.raises(ValueError, match="no final norm"):
        loaded.tokens(clip)


def test_the_same_weights_have_one_digest_in_every_layout(pretrained, tmp_path):
    model, file = pretrained
    save_file({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "a.safetensors")
    given = StartConfig(pretrained_clip=(8, 32))
    bare = {name.removeprefix("encoder."): v for name, v in model.state_dict().items() if name.startswith("encoder.")}
    torch.save(bare, tmp_path / "encoder.pth")
    digests = {load(file).digest, *(load(tmp_path / name, given).digest for name in ("a.safetensors", "encoder.pth"))}
    assert len(digests) == 1


@pytest.mark.parametrize("change", ["weight", "frames", "heads"])
def test_whatever_changes_tokens_changes_the_digest(pretrained, change):
    file = pretrained[1]
    own = load(file)
    if change == "frames":
        assert load(file, num_frames=4).digest != own.digest
        return
    other = create_model("vit_mini_patch8_32", num_classes=1, use_mean_pooling=False, **SIZES)
    other.load_state_dict(own.model.state_dict())
    assert made(other, {}).digest == own.digest
    if change == "weight":
        other.blocks[1].mlp.fc1.bias.data[3] += 1e-3
    else:
        other.blocks[0].attn.num_heads = 2
    assert made(other, {}).digest != own.digest


def test_an_exported_folder_says_which_frames_are_read(tmp_path):
    state = create_model("vit_mini_patch8_32", num_classes=2, **SIZES).state_dict()
    seconds = {"data_set": "custom", "fps": 7.5, "short_side_size": 40, "test_num_segment": 2, "test_num_crop": 1}
    for number, args in enumerate((seconds, {"data_set": "SSV2", "sampling_rate": 3, "sampling": "dense"})):
        own = {"num_frames": 8, "input_size": 32, "model": "vit_mini_patch8_32", **args}
        torch.save({"model": state, "args": own}, tmp_path / f"{number}.pth")
        write(Content(state, own, ["a", "b"], "mit"), "hf", tmp_path / f"{number}")
        original, exported = load(tmp_path / f"{number}.pth"), load(tmp_path / f"{number}")
        assert exported.clip == original.clip and views.tested_views(exported) == views.tested_views(original)
    assert exported.clip.sampling_rate == 3 and exported.clip.sampling == "dense"
    config = json.loads((tmp_path / "1" / "config.json").read_text())
    config["sigma_video"] |= {"sampling_rate": "3", "head": 1}  # of another hand
    (tmp_path / "1" / "config.json").write_text(json.dumps(config))
    assert load(tmp_path / "1").clip.sampling_rate == 2 and "head" not in load(tmp_path / "1").args


def test_shorter_clips_take_the_first_rows_of_the_position_table(pretrained):
    model, file = pretrained
    image = torch.randn(1, 3, 1, 32, 32)
    for positions, rows in (("rows", model.encoder.pos_embed[..., :16, :]), ("resampled", None)):
        loaded = load(file, num_frames=2, positions=positions)
        found = loaded.model.pos_embed.reshape(16, -1)
        assert torch.equal(found, rows.reshape(16, -1)) if rows is not None else not torch.equal(found, found[:1])
        assert loaded.tokens(image).shape == (1, 16, 128)
    assert torch.equal(loaded.tokens(image), loaded.tokens(image.expand(-1, -1, 2, -1, -1)))  # an image is repeated


def test_what_is_no_model_is_named(tmp_path):
    torch.save({"model": {"a.weight": torch.zeros(2)}}, tmp_path / "a.pth")
    for path in (tmp_path / "a.pth", tmp_path / "missing.pth"):
        with pytest.raises(CheckpointError, match=path.name):
            load(path)


def test_facts_are_those_of_imagenet(pretrained):
    clip = load(pretrained[1]).clip
    assert dataclasses.astuple(clip)[-2:] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
