"""Low-rank adapters: what is trained, what checkpoints hold, and that merged weights say what the adapters say."""

import copy
import importlib.util

import pytest
import torch
from processes import FINETUNE, run_script
from runs import load, same
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.acceleration.compilation import compile_blocks
from engine.checkpointing.adapters import merge, merge_states, split, split_states
from engine.errors import CheckpointError, ConfigError
from engine.flags import parse
from models import create_model
from models.analysis.flops import classifier_flops
from programs.finetuning.lora import LAYERS, add_adapters, merge_adapters, merge_checked
from run_class_finetuning import FinetuningConfig
from sigma_video.options import OptionError

with_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
RANK = 3


def classifier():
    torch.manual_seed(0)
    return create_model("vit_mini_patch8_32", num_frames=4, num_classes=5, init_scale=1.0)


def adapted(*, frozen=0):
    """A classifier whose adapters are as after training, and its copy without them."""
    model = classifier()
    plain = copy.deepcopy(model)
    if frozen:
        model.freeze_blocks(frozen)
    add_adapters(model, RANK)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, plain


CLIP = torch.randn(3, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


@with_peft
def test_at_first_the_adapters_say_nothing_and_they_are_trained_with_the_head_alone():
    model = classifier()
    before = model(CLIP)
    add_adapters(model, RANK)
    assert torch.equal(model(CLIP), before)
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    width = {"attn.qkv": (128, 384), "attn.proj": (128, 128), "mlp.fc1": (128, 512), "mlp.fc2": (512, 128)}
    assert set(LAYERS) == set(width)
    expected = {name: shape for name, shape in trained.items() if name.startswith(("fc_norm.", "head."))}
    assert len(expected) == 4
    for number in range(4):
        for layer, (wide_in, wide_out) in width.items():
            prefix = f"blocks.{number}.{layer}.lora_"
            expected |= {f"{prefix}A.default.weight": (RANK, wide_in), f"{prefix}B.default.weight": (wide_out, RANK)}
    assert trained == expected
    model(CLIP).sum().backward()
    # every adapter takes part in the forward pass: where B is zero, its gradient is not
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


@with_peft
def test_merged_weights_say_what_the_adapters_say():
    model, plain = adapted()
    said = model(CLIP)
    assert (said - plain(CLIP)).abs().max() > 0.05
    weights, parts = merge(model.state_dict())
    assert {name: (t.shape, t.dtype) for name, t in weights.items()} == {
        name: (t.shape, t.dtype) for name, t in plain.state_dict().items()
    }
    state = model.state_dict()
    down, up = (state[f"blocks.1.mlp.fc2.lora_{x}.default.weight"].double() for x in "AB")
    exact = plain.blocks[1].mlp.fc2.weight.double() + up @ down
    torch.testing.assert_close(weights["blocks.1.mlp.fc2.weight"].double(), exact, rtol=1e-6, atol=1e-7)
    assert same(split(weights, parts), state)
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain(CLIP), said, rtol=1e-5, atol=1e-5)
    merge_adapters(model)
    assert same(dict(model.state_dict()), dict(plain.state_dict())) and str(model) == str(plain)


@with_peft
def test_a_checkpoint_holds_merged_weights_and_what_they_were_made_of():
    model, _ = adapted()
    average = copy.deepcopy(model)
    with torch.no_grad():
        average.blocks[0].attn.qkv.lora_A["default"].weight.mul_(2)
    content = {"model": model.state_dict(), "model_ema": average.state_dict(), "epoch": 3}
    merged = merge_states(content)
    assert merged.keys() == {"model", "model_ema", "epoch", "lora", "lora_ema"}
    assert not any("base_layer" in name for name in merged["lora_ema"])  # W is frozen: held once
    again = split_states(merged)
    assert all(same(again[key], content[key]) for key in ("model", "model_ema"))
    plain = {"model": classifier().state_dict(), "optimizer": {}}
    assert merge_states(plain) == plain and split_states(plain) == plain


@with_peft
def test_merging_is_refused_where_outputs_change():
    """As those of a layer would whose adapter takes no part in the forward pass."""

    class Batch:
        clip = CLIP

        def to(self, device):
            return self

    model, _ = adapted()
    merge_checked({"": model}, [Batch()], clips=2)
    model, _ = adapted()
    model.blocks[0].attn.qkv.forward = lambda x, bias: model.blocks[0].attn.qkv.base_layer(x, bias)
    with pytest.raises(CheckpointError, match="with its adapters merged it has other outputs"):
        merge_checked({"": model}, [Batch()], clips=2)


@with_peft
@pytest.mark.parametrize("frozen", [0, 2])
def test_operations_against_the_counter(frozen):
    model, _ = adapted(frozen=frozen)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(CLIP).sum().backward()
    assert counter.get_total_flops() == 3 * classifier_flops(model)
    assert not any(p.requires_grad or "lora" in name for name, p in model.blocks[:frozen].named_parameters())


@with_peft
def test_a_rank_that_is_no_low_one():
    with pytest.raises(ConfigError, match="--lora_rank 129: the model is 128 wide"):
        add_adapters(classifier(), 129)
    with pytest.raises(ConfigError, match="--freeze_blocks 4 leaves no block for adapters"):
        adapted(frozen=4)


OF_RUN = {"lora_rank": RANK, "lr": 0.3, "init_scale": 1, "save_ckpt_steps": 1, "keep_ckpts": 9, "drop_path": 0.2}
OF_RUN |= {"model_ema": True, "model_ema_decay": 0.5, "freeze_blocks": 1, "test_num_segment": 1, "test_num_crop": 1}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights to start from."""
    file = tmp_path_factory.mktemp("start") / "start.pth"
    torch.save({"model": classifier().state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def run(data, start, tmp_path_factory):
    """The folder of a run of six updates, each saved, and what it wrote."""
    folder = tmp_path_factory.mktemp("lora")
    finished = run_script(FINETUNE, *data.flags(FINETUNE, folder, finetune=start, **OF_RUN))
    assert finished.code == 0, finished.stderr
    return folder, finished.stderr


@with_peft
def test_a_run_resumes_to_the_same_bits(run, data, start, tmp_path):
    folder, _ = run
    whole = load(folder / "checkpoint-1.pth")
    saved = folder / "checkpoint-1-step1.pth"
    start.rename(tmp_path / "moved.pth")  # the checkpoint holds all that is needed of it
    flags = OF_RUN | {"resume": saved}
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "rest", **flags))
    (tmp_path / "moved.pth").rename(start)
    assert finished.code == 0, finished.stderr
    rest = load(tmp_path / "rest" / "checkpoint-1.pth")
    assert same([rest[key] for key in STATES], [whole[key] for key in STATES])
    assert not same(load(saved)["lora"], whole["lora"])
    flags |= {"lora_rank": RANK + 1}
    (error,) = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "other", **flags)).errors
    assert f"made with lora_rank {RANK}, now {RANK + 1}" in error


STATES = ("model", "model_ema", "lora", "lora_ema", "optimizer", "best", "step")


@with_peft
def test_results_are_those_of_a_plain_classifier(run, data, start, tmp_path):
    """Frozen weights stay, merged ones are read by a model without adapters, and are what the run has tested."""
    folder, log = run
    content, before = load(folder / "checkpoint-1.pth"), load(start)["model"]
    shape = {name: tensor.shape for name, tensor in before.items() if not name.startswith("head.")}
    for key in ("model", "model_ema"):
        assert content[key].keys() == before.keys()
        changed = {name for name in shape if not content[key][name].equal(before[name])}
        layers = {f"blocks.{number}.{layer}.weight" for number in (1, 2, 3) for layer in LAYERS}
        assert changed == layers | {"fc_norm.weight", "fc_norm.bias"}
    assert "adapters of rank 3 (LoRA), fc_norm and head are trained" in log
    assert "model: adapters merged" in log and "model_ema: adapters merged" in log
    flags = {"eval": True, "model_ema": True, "finetune": folder / "checkpoint-1.pth", "drop_path": None}
    flags = {**OF_RUN, **flags, "lora_rank": None, "freeze_blocks": None}
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path, **flags))
    assert finished.code == 0, finished.stderr
    for name in ("test_predictions.npz", "test_ema_predictions.npz"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@with_peft
@pytest.mark.slow
def test_a_run_on_two_processes(data, start, tmp_path):
    """The same weights up to rounding; random numbers of stochastic depth and mixing are left out."""
    flags = {**OF_RUN, "opt": "sgd", "lr": 10, "drop_path": 0, "mixup": 0, "cutmix": 0, "aa": "none", "reprob": 0}
    flags |= {"num_sample": 1, "finetune": start, "model_ema": None, "model_ema_decay": None, "save_ckpt_steps": 0}
    found = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        words = data.flags(FINETUNE, folder, **flags, batch_size=4 // size)
        finished = run_script(FINETUNE, *words, size=size)
        assert all(process.code == 0 for process in (finished if size > 1 else [finished])), finished
        found.append(load(folder / "checkpoint-1.pth")["model"])
    before = load(start)["model"]
    moved = (found[0]["blocks.2.mlp.fc1.weight"] - before["blocks.2.mlp.fc1.weight"]).abs().max()
    assert moved > 1e-4
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@with_peft
@pytest.mark.long
def test_compiled_blocks():
    model, _ = adapted()
    other = copy.deepcopy(model)
    compile_blocks(other.blocks)
    for one in (model, other):
        one(CLIP).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)
    merge_adapters(other)
    torch.testing.assert_close(other(CLIP), model(CLIP), rtol=1e-5, atol=1e-5)


FOLDER = "--data_path x --output_dir y --lora_rank 8"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (FOLDER, "--lora_rank 8 without --finetune would adapt random weights"),
        (f"{FOLDER} --finetune z --linear_probing", "--lora_rank 8: --linear_probing trains no adapters"),
        (f"{FOLDER} --finetune z --enable_deepspeed", "--lora_rank 8 is not for --enable_deepspeed"),
        (f"{FOLDER} --finetune z --lora_rank -1", "--lora_rank -1: must be 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(flags, words):
    with pytest.raises(OptionError) as error:
        parse(FinetuningConfig, flags.split())
    assert words in str(error.value)


def test_without_peft_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(OptionError, match="peft is not installed: install the extra `lora`"):
        parse(FinetuningConfig, f"{FOLDER} --finetune z".split())
    parse(FinetuningConfig, f"{FOLDER} --eval --resume z".split())  # merged weights need no peft
