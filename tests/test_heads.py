"""The head of the weights that fine-tuning starts from: kept for the same classes and features, else said to be new."""

import json
import logging

import pytest
import torch
from golden.cases import fill
from safetensors.torch import save_file

from engine.config import RunFacts
from engine.distributed.world import World
from engine.errors import ConfigError
from engine.flags import parse
from models import create_model
from models.weights.huggingface import to_huggingface
from models.weights.huggingface_config import huggingface_config
from run_class_finetuning import FinetuningConfig, build_model, load_for_test, read_data

NAMES = ["jump", "run", "walk"]


def source(**changes):
    return fill(create_model("vit_mini_patch8_32", num_frames=4, num_classes=3, **changes)).eval()


def checkpoint(folder, model, **content):
    torch.save({"model": model.state_dict(), **content}, folder / "source.pth")
    return folder / "source.pth"


def huggingface(folder, model, **changes):
    folder.mkdir()
    save_file(to_huggingface(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**huggingface_config(model), **changes}))
    return folder


@pytest.fixture
def lists(data, tmp_path):
    """The lists of `data`, of three classes with names."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for part in ("train", "val", "test"):
        (folder / f"{part}.csv").write_text((data.folder / f"{part}.csv").read_text())
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return folder


def built(data, lists, finetune, *flags, evaluate=False):
    """Options and model of a fine-tuning, or of a test, of these weights."""
    argv = data.flags("run_class_finetuning.py", data_path=lists, finetune=finetune, eval=evaluate or None)
    config = parse(FinetuningConfig, [*map(str, argv), *flags]).resolved()
    world, facts = World(0, 1, 0, torch.device("cpu")), RunFacts()
    listed = read_data(config, world, facts)
    config, model = build_model(config, world, listed, facts)
    if evaluate:
        load_for_test(config, world, listed, {"": model}, facts)
    return config, model.eval()


@pytest.mark.parametrize(
    ("names", "kept", "words"),
    [
        (NAMES, True, "the head of the weights is kept: as many classes, the same classes"),
        (["swim", "run", "walk"], False, "new head: class 0 of the weights is 'swim', that of the lists 'jump'"),
        (["run", "jump", "walk"], False, "new head: class 0 of the weights is 'run', that of the lists 'jump'"),
        (["0", "1", "2"], True, "the head of the weights is kept: as many classes, classes that not both name"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], True, "classes that not both name"),
        ([], True, "classes that not both name"),
    ],
)
def test_a_head_is_kept_for_the_same_classes_only(names, kept, words, data, lists, tmp_path, caplog):
    model = source()
    with caplog.at_level(logging.INFO):
        _, found = built(data, lists, checkpoint(tmp_path, model, class_names=names))
    assert words in caplog.text
    assert torch.equal(found.head.weight, model.head.weight) is kept
    assert torch.equal(found.fc_norm.weight, model.fc_norm.weight)


@pytest.mark.parametrize(
    ("task", "kept", "words"),
    [
        ("classification", True, "the head of the weights is kept: as many classes"),
        ("multilabel", False, "new head: that of the weights was trained with --task multilabel"),
    ],
)
def test_a_head_of_another_task_is_not_kept(task, kept, words, data, lists, tmp_path, caplog):
    model = source()
    with caplog.at_level(logging.INFO):
        _, found = built(data, lists, checkpoint(tmp_path, model, args={"task": task}, class_names=NAMES))
    assert words in caplog.text and torch.equal(found.head.weight, model.head.weight) is kept


@torch.no_grad()
@pytest.mark.parametrize("layout", [checkpoint, lambda folder, model: huggingface(folder / "hf", model)])
@pytest.mark.parametrize("evaluate", [False, True], ids=["train", "eval"])
def test_a_head_on_the_first_token_stays_there(layout, evaluate, data, lists, tmp_path, caplog):
    """use_mean_pooling false in a config.json, and the same in a file that has none."""
    model, clip = source(use_mean_pooling=False), torch.randn(2, 3, 4, 32, 32)
    with caplog.at_level(logging.INFO):
        config, found = built(data, lists, layout(tmp_path, model), evaluate=evaluate)
    assert config.head.use_mean_pooling is False and "its head reads the first token" in caplog.text
    torch.testing.assert_close(found(clip), model(clip), rtol=0, atol=0)


@pytest.mark.parametrize(("pooled", "flag"), [(False, "--use_mean_pooling"), (True, "--use_cls")])
def test_a_head_on_other_features_than_asked_for_is_new(pooled, flag, data, lists, tmp_path, caplog):
    model = source(use_mean_pooling=pooled)
    with caplog.at_level(logging.INFO):
        config, found = built(data, lists, checkpoint(tmp_path, model), flag)
    assert config.head.use_mean_pooling is not pooled and "new head: the weights have none" in caplog.text
    assert found.head.weight.std() < 1e-3 < model.head.weight.std()
    with pytest.raises(ConfigError, match="not a checkpoint of this classifier"):
        built(data, lists, checkpoint(tmp_path, model), flag, evaluate=True)


def test_a_config_of_a_pretrained_model_says_nothing_about_heads(data, lists, tmp_path):
    """MCG-NJU/videomae-base has `use_mean_pooling` false and no head: VideoMAE's recipe takes the mean."""
    model = create_model("pretrain_videomae_mini_patch8_32", num_frames=4, target_type="pixel", decoder_depth=1)
    config, found = built(data, lists, huggingface(tmp_path / "hf", fill(model), use_mean_pooling=False))
    assert config.head.use_mean_pooling is True and found.fc_norm is not None


def test_numbers_for_names_of_an_earlier_run_are_no_names(data, lists, tmp_path):
    """Trained with numbers only; labels.txt was added before the test."""
    model = source()
    _, found = built(data, lists, checkpoint(tmp_path, model, class_names=["0", "1", "2"]), evaluate=True)
    assert torch.equal(found.head.weight, model.head.weight)
    with pytest.raises(ConfigError, match="its class 0 is 'swim', that of the lists 'jump'"):
        built(data, lists, checkpoint(tmp_path, model, class_names=["swim", "run", "walk"]), evaluate=True)
