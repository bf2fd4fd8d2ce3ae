"""All 39 commands that SIGMA and VideoMAE were released with: what each of them means here.

tests/golden/released_commands.json has their flags, the number of processes, what they meant there, the method or task
that the same flags train here, and the learning rate: base rate x batch x accumulation x processes / 256.
"""

import json
from collections import Counter

import pytest
import torch
from processes import ROOT

from engine.flags import parse
from engine.record import describe_start
from models.methods import describe_method, method_name
from models.registry import build_classifier, build_pretraining_model
from models.targets import TARGETS
from models.teachers import with_teacher_dim
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig

COMMANDS = json.loads((ROOT / "tests" / "golden" / "released_commands.json").read_text())
SCRIPTS = {"run_mae_pretraining.py": PretrainingConfig, "run_class_finetuning.py": FinetuningConfig}
TRAINING = [command for command in COMMANDS if command["script"] in SCRIPTS]
PARAMETERS = {"small": 22e6, "base": 86e6, "large": 304e6, "huge": 632e6}  # arXiv 2203.12602, encoders, rounded


def of(script):
    return [command for command in TRAINING if command["script"] == script]


def name_of(command):
    return command["source"].split()[-1] + ": " + command["meant"]


def scaled_lr(config, command):
    return config.optim.schedule(num_batches=100, world_size=command["ranks"]).lr


def test_there_are_39():
    assert Counter((command["script"], command["meant"], command["here"]) for command in COMMANDS) == {
        ("run_mae_pretraining.py", "VideoMAE", "SIGMA-MLP"): 12,
        ("run_mae_pretraining.py", "SIGMA-DINO", "SIGMA-DINO"): 7,
        ("run_class_finetuning.py", "fine-tuning", "fine-tuning"): 16,
        ("run_class_finetuning.py", "linear probe", "linear probe"): 1,
        ("run_videomae_vis.py", "pictures", None): 2,
        ("eval_knn.py", "nearest neighbours", None): 1,
    }


@pytest.mark.parametrize("command", of("run_mae_pretraining.py"), ids=name_of)
def test_pretraining(command):
    config = parse(PretrainingConfig, command["flags"].split())
    plan = describe_method(config.targets, config.objective)
    assert plan["method"].startswith(command["here"] + " (")
    assert describe_start(config, None, 0) == "random: from scratch (--seed 0)"
    assert scaled_lr(config, command) == pytest.approx(command["lr"])
    if command["meant"] == "VideoMAE":  # the plan has to say how to get what the command meant
        flag, value = plan["method"].partition("; ")[2].split()[:2]
        assert "trains VideoMAE" in plan["method"]
        config = parse(PretrainingConfig, [*command["flags"].split(), flag, value])
        assert method_name(config.targets, config.objective) == "VideoMAE"
        assert describe_method(config.targets, config.objective)["targets"].startswith("pixels, standardised")
    else:
        assert "3000 prototypes" in plan["method"] and "frozen DINO (dino_b)" in plan["targets"]


@pytest.mark.parametrize("command", of("run_class_finetuning.py"), ids=name_of)
def test_finetuning(command):
    config = parse(FinetuningConfig, command["flags"].split()).resolved()
    assert config.task.describe().startswith(command["here"])
    assert describe_start(config, None, 0) == "of WEIGHTS"
    assert scaled_lr(config, command) == pytest.approx(command["lr"])
    clips = config.augmentation.describe()
    assert clips.startswith("crops of at least 25% of the frame (as SIGMA; VideoMAE takes 8%: --finetuning_crops")
    videomae = parse(FinetuningConfig, [*command["flags"].split(), "--finetuning_crops", "False"])
    assert videomae.augmentation.describe().startswith("crops of at least 8% of the frame (as VideoMAE)")
    # 2 x 3 uniform views of SSv2; 5 x 3 dense ones of Kinetics and UCF101, 7 x 3 in SIGMA's script
    views = config.views
    clips_at_test = {"SSV2": 2}.get(config.lists.data_set, 7 if "finetune_kinetics" in command["source"] else 5)
    assert (views.test_num_segment, views.test_num_crop) == (clips_at_test, 3)
    assert (views.sampling, views.flip) == (("uniform", False) if config.lists.data_set == "SSV2" else ("dense", True))


@pytest.mark.parametrize("size", PARAMETERS)
def test_models_of_the_commands_can_be_built(size):
    """One of each size and script, without memory for the weights."""
    for script, cls in SCRIPTS.items():
        command = next((c for c in of(script) if f"_{size}_patch16_224" in c["flags"]), None)
        if command is None:
            continue
        config = parse(cls, command["flags"].split())
        with torch.device("meta"):
            if cls is PretrainingConfig:
                targets = with_teacher_dim(config.targets)
                model = build_pretraining_model(config.model, config.encoder, config.decoder, targets, config.objective)
                assert model.prototypes.shape[0] == 3000 and TARGETS[targets.target_type]
                encoder = model.encoder
            else:
                head = type(config.head)(num_classes=config.lists.nb_classes)
                encoder = build_classifier(config.model, config.encoder, head)
        count = sum(parameter.numel() for parameter in encoder.parameters())
        assert count == pytest.approx(PARAMETERS[size], rel=0.02)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in TRAINING], ids=name_of)
def test_what_is_not_here_is_said(command):
    assert f"`{command['script']}`" in (ROOT / "docs" / "differences.md").read_text()
