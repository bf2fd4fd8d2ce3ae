"""NaN and Inf: refused in options and in files of weights, never saved, never counted as an answer."""

import json
import math
import shutil

import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_in_processes, run_script, script_target
from runs import load
from safetensors.torch import save_file

from engine.checkpointing.finite import find_nonfinite
from engine.checkpointing.read_weights import read_weights
from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.errors import CheckpointError, ConfigError, NonFiniteError
from engine.files import without_nan
from engine.flags import build_parser, parse
from engine.optim import OptimConfig
from engine.resilience.nonfinite import NonFiniteGuard
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig
from scripts.convert_checkpoint import main as convert
from scripts.convert_checkpoint import parser
from sigma_video.options import OptionError

CONFIGS = {PRETRAIN: PretrainingConfig, FINETUNE: FinetuningConfig}
FLOATS = [
    (script, action.option_strings[0], 1 if action.nargs in (None, "?") else int(action.nargs))
    for script, config in CONFIGS.items()
    for action in build_parser(config)._actions
    if action.type is float
]
BAD = {"NaN": math.nan, "Inf": math.inf, "-Inf": -math.inf}


@pytest.mark.parametrize(("script", "flag", "number"), FLOATS)
def test_every_number_of_the_command_line_is_finite_in_float32(script, flag, number):
    for text in ("nan", "inf", "-inf", "1e39", "1e300", "1e-320"):
        if number > 1 and text.startswith("-"):
            continue  # argparse takes it for a flag
        with pytest.raises(OptionError, match=f"{flag} .*(float32|must be|choose)"):
            parse(
                CONFIGS[script],
                ["--data_path", "x", f"{flag}={text}"]
                if number == 1
                else ["--data_path", "x", flag, *["0.5"] * (number - 1), text],
            )


def test_learning_rates_that_no_run_can_use():
    for flag, text in (("--lr", "1e30"), ("--warmup_lr", "1e4"), ("--min_lr", "1001"), ("--opt_eps", "1e-31")):
        with pytest.raises(OptionError, match=flag):
            parse(PretrainingConfig, ["--data_path", "x", flag, text])
    given = {"batch_size": 256, "epochs": 2, "opt_betas": (0.9, 0.95), "min_lr": 0.0, "warmup_epochs": 0}
    OptimConfig(**given, lr=19.9, weight_decay=0.05).schedule(num_batches=1, world_size=1)
    for change in ({"lr": 20.1}, {"lr": 1.0, "weight_decay": 1e20}, {"lr": 1.0, "weight_decay_end": 1.0}):
        with pytest.raises(ConfigError, match="--weight_decay"):
            OptimConfig(**{**given, "weight_decay": 0.05, **change}).schedule(num_batches=1, world_size=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("value", BAD)
def test_one_bad_number_is_found_and_named(dtype, value):
    content = {"model": {"a": torch.zeros(3, dtype=torch.int64), "b": torch.ones(2, 3, dtype=dtype)}, "list": [{}, []]}
    content |= {"empty": torch.empty(0, dtype=dtype), "flag": torch.tensor(True), "text": "nan", "none": None}
    assert find_nonfinite(content) == ""
    content["model"]["b"].t()[2, 1] = BAD[value]
    assert find_nonfinite(content) == "model.b"
    assert find_nonfinite([{"lr": 0.1}, {"lr": BAD[value]}]) == "1.lr"


def test_float8_and_sparse_tensors():
    small = torch.tensor([1.0, 2.0]).to(torch.float8_e5m2)
    assert find_nonfinite({"x": small}) == ""
    assert find_nonfinite({"x": torch.tensor([1.0, math.nan]).to(torch.float8_e5m2)}) == "x"
    assert find_nonfinite({"x": torch.eye(3).to_sparse()}) == ""
    assert find_nonfinite({"x": (torch.eye(3) * math.inf).to_sparse()}) == "x"


@pytest.fixture
def spoiled(finetuned, tmp_path):
    """A checkpoint with a single NaN in its weights."""
    content = load(finetuned / "checkpoint-0.pth")
    content["model"]["blocks.1.mlp.fc1.weight"][3, 4] = math.nan
    torch.save(content, tmp_path / "spoiled.pth")
    return tmp_path / "spoiled.pth"


def test_weights_that_are_not_finite_are_refused_in_every_layout(spoiled, tmp_path):
    tensors = load(spoiled)["model"]
    torch.save(tensors, tmp_path / "plain.pth")
    save_file(tensors, tmp_path / "x.safetensors")
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save(tensors, folder / "pytorch_model.bin")
    for file in (spoiled, tmp_path / "plain.pth", tmp_path / "x.safetensors", folder):
        with pytest.raises(CheckpointError, match=rf"^{file}: blocks.1.mlp.fc1.weight is not finite"):
            read_weights(file)


def test_no_run_and_no_export_takes_them(spoiled, data, tmp_path):
    for flags in ({"eval": True, "resume": spoiled}, {"finetune": spoiled}):
        ended = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "out", **flags))
        assert ended.code == 2 and f"{spoiled}: blocks.1.mlp.fc1.weight" in ended.errors[0]
        assert not list((tmp_path / "out").glob("*test*")) and not list((tmp_path / "out").glob("*.pth"))
    with pytest.raises(CheckpointError, match=r"spoiled.pth: blocks.1.mlp.fc1.weight is not finite"):
        convert(parser().parse_args([str(spoiled), str(tmp_path / "hf"), "--to", "hf"]))
    assert not (tmp_path / "hf").exists()


def test_probabilities_that_are_not_finite_are_no_answers(finetuned, data, tmp_path):
    """The weights are finite, the logits overflow: argmax would call all videos class 0."""
    content = load(finetuned / "checkpoint-0.pth")
    content["model"]["head.weight"].fill_(3e38)
    torch.save(content, tmp_path / "large.pth")
    flags = data.flags(FINETUNE, tmp_path / "out", eval=True, resume=tmp_path / "large.pth")
    ended = run_script(FINETUNE, *flags)
    assert ended.code == 2 and "test: the predictions for 7 of 7 videos are NaN" in ended.errors[0]
    assert not (tmp_path / "out" / "test.json").exists()


def test_resuming_passes_over_a_state_that_is_not_finite(pretrained, data, tmp_path):
    shutil.copy(pretrained / "checkpoint-0.pth", tmp_path)
    content = load(pretrained / "checkpoint-0.pth")
    content["optimizer"]["state"][0]["exp_avg_sq"].fill_(math.inf)
    torch.save({**content, "epoch": 1, "step": 6}, tmp_path / "checkpoint-1.pth")
    flags = data.flags(PRETRAIN, tmp_path, epochs=3, warmup_epochs=0)
    ended = run_script(PRETRAIN, *flags)
    assert ended.code == 0 and "optimizer.state.0.exp_avg_sq is not finite" in ended.stderr
    assert "checkpoint-0.pth: 1 epochs" in ended.stderr
    torch.save({**content, "epoch": 2, "step": 9}, tmp_path / "checkpoint-2.pth")
    ended = run_script(PRETRAIN, *flags)
    assert ended.code == 2 and "checkpoint-2.pth: optimizer.state.0.exp_avg_sq" in ended.errors[0]  # not "finished"
    for name in ("checkpoint-0.pth", "checkpoint-1.pth"):
        (tmp_path / name).unlink(missing_ok=True)
    ended = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path, epochs=4, warmup_epochs=0))
    assert ended.code == 2 and "no run can resume from it" in ended.errors[0]  # and does not start from scratch


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_state_that_is_not_finite_is_never_saved(policy, data, tmp_path):
    """The last update of an epoch makes a weight Inf, though its loss and its gradient are finite."""
    flags = data.flags(PRETRAIN, tmp_path, save_ckpt_freq=1, epochs=3, batch_size=12, on_nonfinite=policy)

    def target():
        step, calls = Backend.step, []

        def spoiling(self):
            norm = step(self)
            calls.append(None)
            if len(calls) == 2:  # of one an epoch
                self.parameters[5].data.view(-1)[0] = math.inf
            return norm

        Backend.step = spoiling
        script_target(PRETRAIN, *flags)()

    (ended,) = run_in_processes(target)
    assert ended.code == 2 and "checkpoint-1.pth: not saved: after step 2 model." in ended.errors[0]
    (saved,) = tmp_path.glob("*.pth")
    assert saved.name == "checkpoint-0.pth" and find_nonfinite(load(saved)) == ""


def guard_after(finite, **options):
    world = World(0, 1, 0, torch.device("cpu"))
    guard = NonFiniteGuard("skip", limit=9, output_dir="", world=world, paths=[], **options)
    for number, is_finite in enumerate(finite):
        values = {"is_finite": torch.tensor(is_finite), "grad_norm": torch.tensor(1.0)}
        guard.record(number, epoch=0, lr=0.1, indices=[], outputs=[], **values)
    guard.check()
    return guard


def test_a_run_does_not_end_with_weights_that_gave_no_finite_loss():
    for finite in ([True, True], [True, False], [False, False, True]):
        guard_after(finite).check_end()
    with pytest.raises(NonFiniteError, match="the last 3 updates were not finite"):
        guard_after([True, False, False, False]).check_end()


def test_the_message_says_whether_the_weights_are_the_cause(caplog):
    guard_after([False], weights=lambda: True)
    assert "the weights are unchanged" in caplog.text
    with pytest.raises(NonFiniteError, match="has made the weights themselves NaN or Inf"):
        guard_after([False], weights=lambda: False)


def test_json_without_nan():
    text = json.dumps(without_nan({"a": [1.5, math.nan, (math.inf,)], "b": {"c": -math.inf, "d": "nan", "e": True}}))
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1.5, None, [None]],
        "b": {"c": None, "d": "nan", "e": True},
    }
