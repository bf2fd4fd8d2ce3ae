"""Fine-tuning on longer clips than the weights were trained on, and what goes on from there."""

import json

import numpy as np
import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_script
from runs import load

from engine.checkpointing.read_weights import StartConfig
from engine.config import RunFacts
from engine.distributed.world import World
from engine.flags import parse
from programs.pretraining.networks import build_model
from programs.pretraining.options import PretrainingConfig


@pytest.fixture(scope="module")
def runs(data, pretrained, tmp_path_factory):
    """Folder with a fine-tuning (`f`) on 8 frames of a pre-training on 4, and its flags."""
    folder = tmp_path_factory.mktemp("longer")
    changes = {"num_frames": 8, "finetune": pretrained / "checkpoint-0.pth", "lr": 1, "init_scale": 1}
    finished = run_script(FINETUNE, *data.flags(FINETUNE, folder / "f", **changes))
    assert finished.code == 0, finished.stderr
    assert "resampled from 2x4x4 to 4x4x4 tokens" in finished.stderr
    return folder, changes


@pytest.mark.slow
def test_the_result_is_tested_with_the_positions_it_was_trained_with(runs, data, tmp_path):
    """In a new process, from the checkpoint alone: the same probabilities, bit for bit."""
    folder, _ = runs
    content = load(folder / "f" / "checkpoint-1.pth")
    assert content["args"]["position_grid"] == [2, 4, 4]
    flags = data.flags(FINETUNE, tmp_path, num_frames=8, resume=folder / "f" / "checkpoint-1.pth", eval=True)
    assert run_script(FINETUNE, *flags).code == 0
    a, b = (np.load(place / "test_predictions.npz")["probabilities"] for place in (folder / "f", tmp_path))
    np.testing.assert_array_equal(a, b)
    content["args"]["position_grid"] = None  # without it the table would be another, and so the results
    torch.save(content, tmp_path / "forgetful.pth")
    assert run_script(FINETUNE, *flags, "--resume", tmp_path / "forgetful.pth").code == 0
    assert not np.array_equal(a, np.load(tmp_path / "test_predictions.npz")["probabilities"])


def test_the_training_command_with_eval_tests_its_result(runs, data):
    folder, changes = runs
    before = json.loads((folder / "f" / "test.json").read_text())
    foreign = {**changes, "finetune": folder / "foreign.pth", "model_key": "state_dict"}
    torch.save({"state_dict": load(changes["finetune"])["model"]}, foreign["finetune"])
    assert run_script(FINETUNE, *data.flags(FINETUNE, folder / "f", **foreign, eval=True)).code == 0
    after = json.loads((folder / "f" / "test.json").read_text())
    assert after["weights"][""]["file"].endswith("f/checkpoint-1.pth")
    after["weights"][""]["key"] = "model"  # the same tensors, by the keys of this command
    assert after == before


@pytest.mark.parametrize("change", [{"num_frames": 4}, {"input_size": 40, "short_side_size": 40}], ids=str)
def test_going_on_with_other_clips_is_refused(runs, data, change):
    folder, changes = runs
    finished = run_script(FINETUNE, *data.flags(FINETUNE, folder / "f", **{**changes, "epochs": 3, **change}))
    assert finished.code == 2
    name, value = next(iter(change.items()))
    before = {"num_frames": 8, "input_size": 32}[name]
    assert f"made with {name} {before}, now {value}" in finished.errors[0]


def test_going_on_from_other_positions_is_refused(runs, data):
    """Without --finetune the table would be that of the 8 frames."""
    folder, changes = runs
    finished = run_script(FINETUNE, *data.flags(FINETUNE, folder / "f", **{**changes, "epochs": 3, "finetune": None}))
    assert finished.code == 2 and "made with position_grid [2, 4, 4], now [4, 4, 4]" in finished.errors[0]


def test_pretrained_clip_speaks_for_a_file_that_does_not(runs, data, tmp_path):
    _, changes = runs
    torch.save(load(changes["finetune"])["model"], tmp_path / "bare.pth")
    flags = {**changes, "finetune": tmp_path / "bare.pth", "epochs": 1, "warmup_epochs": 0}
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "a", **flags))
    assert finished.code == 0 and "the file does not say for what clips it was trained" in finished.stderr
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "b", **flags, pretrained_clip="4|32"))
    assert finished.code == 0 and "resampled from 2x4x4 to 4x4x4 tokens" in finished.stderr
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "c", **flags, pretrained_clip="5|32"))
    assert finished.code == 2 and "--pretrained_clip" in finished.errors[0]


def test_pretraining_that_starts_from_shorter_clips_resamples_their_positions(data, pretrained):
    weights = pretrained / "checkpoint-0.pth"
    config = parse(PretrainingConfig, data.flags(PRETRAIN, num_frames=8, finetune=weights)).resolved()
    facts = RunFacts()
    model = build_model(config, World(0, 1, 0, torch.device("cpu")), facts)
    assert facts.position_grid == [2, 4, 4] and tuple(model.encoder.grid) == (4, 4, 4)
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[name], load(weights)["model"][name])


def test_pretrained_clip_wins_over_what_the_file_says():
    start = StartConfig(pretrained_clip=(16, 224))
    said = {"num_frames": 32, "input_size": 112, "position_grid": [4, 7, 7], "num_attention_heads": 6}
    expected = {"num_frames": 16, "input_size": 224, "position_grid": None, "num_attention_heads": 6}
    assert start.trained_with(said) == expected
    assert StartConfig().trained_with(said) == said
