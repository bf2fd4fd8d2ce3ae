"""DeepSpeed's ZeRO stages are DDP: the same losses, weights and checkpoints, the same care with what is not finite."""

import copy
import dataclasses
import os
import sys
from itertools import pairwise

import pytest
import torch
from processes import FINETUNE, PRETRAIN, gloo_world, run_in_processes, run_script
from runs import load, same, series
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cpu")
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")

from engine.distributed.collectives import all_reduce_sum
from engine.distributed.ddp import Backend
from engine.distributed.deepspeed import DeepSpeedBackend, zero3_init
from engine.distributed.world import World
from engine.errors import ConfigError, NonFiniteError
from engine.optim import OptimConfig
from models import create_model

STAGES = ["ddp", 0, 1, 2, 3]
ZERO = STAGES[1:]
# A rate of 1e-3 in all steps: those of the command line are for 256 clips.
CONSTANT = OptimConfig(batch_size=1, epochs=9, lr=0.256, min_lr=0.256, warmup_epochs=0, opt_betas=(0.9, 0.95))
CPU = World(0, 1, 0, torch.device("cpu"))


def make_sigma():
    """SIGMA, whose forward pass talks to the other ranks and changes its prototypes in place."""
    torch.manual_seed(0)
    return create_model(
        "pretrain_videomae_mini_patch8_32",
        num_frames=4,
        encoder_depth=2,
        decoder_depth=1,
        decoder_num_classes=24,
        num_prototypes=500,  # with 24 values each: more than stage 3 keeps whole
        projection_dims=[32],
        all_reduce=all_reduce_sum,
    )


def make_classifier():
    torch.manual_seed(0)
    return create_model("vit_mini_patch8_32", num_classes=3, num_frames=4, depth=2, init_scale=0.5)


def backend_of(model, stage, world, *, opt="adamw", layer_decay=1.0, held_steps=None, **options):
    how = dataclasses.replace(CONSTANT, opt=opt)
    optimizer = how.build(model, lr=1e-3, layer_decay=layer_decay, held_steps=held_steps)
    how.schedule(num_batches=1, world_size=1).apply(optimizer, 0)
    options = {"world": world, "amp": "none", **options}
    return (
        Backend(model, optimizer, **options)
        if stage == "ddp"
        else DeepSpeedBackend(model, optimizer, stage=stage, **options)
    )


def sigma_backend(stage, world, **options):
    if stage == 3:
        with zero3_init(world=world):
            model = make_sigma()
    else:
        model = make_sigma()
    return backend_of(model, stage, world, **options)


def classifier_backend(stage, world, **options):
    return backend_of(make_classifier(), stage, world, layer_decay=0.7, **options)


def sigma_loss(model, generator):
    clip = torch.randn(2, 3, 4, 32, 32, generator=generator)
    mask = torch.rand(2, 32, generator=generator).argsort(dim=1) < 24
    return model(clip, mask)["loss"]


def classifier_loss(model, generator):
    clip = torch.randn(2, 3, 4, 32, 32, generator=generator)
    return nn.functional.cross_entropy(model(clip).float(), torch.randint(3, (2,), generator=generator))


def update(backend, loss_of, step, *, spoil=lambda loss: loss):
    """One update from two batches of this rank's own: mean loss of all ranks, and the gradient norm."""
    backend.model.train()
    total = torch.zeros(())
    for number in range(2):
        generator = torch.Generator().manual_seed(100 * step + 10 * backend.world.rank + number)
        with backend.accumulating(last=number == 1):
            with backend.autocast():
                loss = loss_of(backend.model, generator)
            backend.backward(spoil(loss), update_freq=2)
        total += loss.detach()
    norm = backend.step()
    return float(all_reduce_sum(total)) / (2 * backend.world.size), float(norm)


def whole(backend):
    """A copy of the state; on other ranks than the main one there may be none."""
    return copy.deepcopy(backend.training_state())


def on_all(state):
    """A copy of what the main rank has, as if every rank had read it from a file."""
    states = [copy.deepcopy(state)]
    torch.distributed.broadcast_object_list(states)
    return states[0]


# --------------------------------------------------------------------------------------------- one world, many checks


def compare(world):
    """Everything that one world of two ranks can tell, by back end."""
    found, backends = {}, {}
    for stage in STAGES:  # 3 comes last: it replaces torch's linear layer with its own
        backend = backends[stage] = sigma_backend(stage, world, clip_grad=0.5)
        begun = copy.deepcopy(backend.model_state())
        trace = [update(backend, sigma_loss, step) for step in range(2)]
        middle = whole(backend)
        trace.append(update(backend, sigma_loss, 2))
        found["sigma", stage] = begun, trace, middle, whole(backend)
        found["resumed", stage, stage] = resumed(backend, middle)
        found["held", stage] = held(stage, world)
        backend = classifier_backend(stage, world, clip_grad=0.5, opt="sgd")
        trace = [update(backend, classifier_loss, step) for step in range(3)]
        found["classifier", stage] = None, trace, None, whole(backend)
        backend = classifier_backend(stage, world, amp="bf16")
        found["bf16", stage] = [update(backend, classifier_loss, step) for step in range(2)]
    for stage in ZERO:
        for before, after in (("ddp", stage), (stage, "ddp")):
            found["resumed", before, after] = resumed(backends[after], found["sigma", before][2])
    return found


def held(stage, world):
    """Norms of two updates in which the projection network is held and of two afterwards, weights before and after."""
    backend = sigma_backend(stage, world, clip_grad=0.5, held_steps={"head.": 2})
    weights, norms = [copy.deepcopy(backend.model_state())], []
    schedule = CONSTANT.schedule(num_batches=1, world_size=1)
    for step in range(4):
        schedule.apply(backend.optimizer, step)
        norms.append(update(backend, sigma_loss, step)[1])
        weights.append(copy.deepcopy(backend.model_state()))
    return norms, weights


def resumed(backend, state):
    """The state after loading it into a backend, the third update, and the state after that."""
    for group in backend.optimizer.param_groups:
        group["eps"] = 2e-8
    backend.load_training_state(on_all(state))
    assert {group["eps"] for group in backend.optimizer.param_groups} == {2e-8}  # the command line's
    for group in backend.optimizer.param_groups:
        group["eps"] = 1e-8
    return whole(backend), update(backend, sigma_loss, 2), whole(backend)


@pytest.fixture(scope="module", autouse=True)
def imported_once():
    """Import here what DeepSpeed imports late, so that not every process has to that is forked."""
    import deepspeed.runtime.zero.muon.muon_optimizer
    import deepspeed.runtime.zero.stage3  # noqa: F401


@pytest.fixture(scope="module")
def compared():
    return gloo_world(compare)[0]


def check_close(state, expected):
    """States of two back ends: the same layout, numbers that differ by rounding."""
    assert state.keys() == expected.keys() and state["scaler"] == expected["scaler"]
    assert state["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    torch.testing.assert_close(dict(state["model"]), dict(expected["model"]), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(state["optimizer"]["state"], expected["optimizer"]["state"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ZERO)
@pytest.mark.parametrize("kind", ["sigma", "classifier"])
def test_losses_norms_weights_and_moments_are_those_of_ddp(kind, stage, compared):
    """With accumulation, clipping, layer-wise learning rates, AdamW and SGD, and Sinkhorn over the ranks."""
    _, expected, _, final = compared[kind, "ddp"]
    _, trace, _, state = compared[kind, stage]
    assert min(norm for _, norm in expected) > 0.5  # clipped
    torch.testing.assert_close(torch.tensor(trace), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    check_close(state, final)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_held_stays_as_it_is_and_is_not_in_the_norm(stage, compared):
    norms, weights = compared["held", stage]
    _, trained, _, _ = compared["sigma", stage]
    projection = {name for name in weights[0] if name.startswith("head.")}
    for before, after in pairwise(weights[:3]):
        assert {name for name in before if same(before[name], after[name])} == projection
    for before, after in pairwise(weights[2:]):
        assert not any(same(before[name], after[name]) for name in before)
    assert norms[0] < 0.9 * trained[0][1]  # the same weights and batches, but for the projection's gradient
    torch.testing.assert_close(norms, compared["held", "ddp"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ZERO)
def test_the_model_begins_alike(stage, compared):
    """Also if it is sharded while it is built."""
    assert same(dict(compared["sigma", stage][0]), dict(compared["sigma", "ddp"][0]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_resuming_is_exact(stage, compared):
    _, trace, middle, final = compared["sigma", stage]
    loaded, third, state = compared["resumed", stage, stage]
    assert same_state(loaded, middle) and third == trace[2] and same_state(state, final)


def same_state(a, b):
    """Weights and moments, bit by bit; on other ranks than the main one both may be empty."""
    if not a or not b:
        return a == b
    return same(dict(a["model"]), dict(b["model"])) and same(a["optimizer"]["state"], b["optimizer"]["state"])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ZERO)
def test_any_back_end_goes_on_with_the_state_of_any_other(stage, compared):
    for before, after in (("ddp", stage), (stage, "ddp")):
        loaded, third, state = compared["resumed", before, after]
        assert same_state(loaded, compared["sigma", before][2])
        torch.testing.assert_close(third, compared["sigma", before][1][2], rtol=1e-5, atol=1e-6)
        check_close(state, compared["sigma", before][3])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ZERO)
def test_low_precision_is_that_of_ddp(stage, compared):
    losses, expected = (torch.tensor(compared["bf16", which]) for which in (stage, "ddp"))
    torch.testing.assert_close(losses, expected, rtol=0.02 if stage == 3 else 1e-5, atol=0)


# ------------------------------------------------------------------------------------------------ numbers of ranks


def reshard(world, states):
    backends = {stage: sigma_backend(stage, world) for stage in ZERO}
    for stage, backend in backends.items():
        backend.load_training_state(states[stage])
    return {stage: whole(backend) for stage, backend in backends.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_the_state_goes_to_another_number_of_ranks(size, compared):
    """From two ranks, each time of another stage."""
    states = {stage: compared["sigma", 3 - stage][3] for stage in ZERO}
    found = gloo_world(reshard, states, size=size)[0]
    for stage in ZERO:
        assert same_state(found[stage], states[stage])


def shares(world):
    with zero3_init(world=world):
        model = make_sigma()
    empty = all(parameter.numel() == 0 for parameter in model.parameters())
    held = sum(parameter.ds_tensor.numel() for parameter in model.parameters())
    return empty, held, sum(parameter.ds_numel for parameter in model.parameters())


@pytest.mark.slow
def test_in_stage_3_no_rank_holds_the_model():
    number, total = len(list(make_sigma().parameters())), sum(p.numel() for p in make_sigma().parameters())
    for empty, held, known in gloo_world(shares):
        assert empty and known == total
        assert total / 2 <= held <= total / 2 + number  # each parameter is filled up to an even number of values


# ------------------------------------------------------------------------------------------------------ not finite


def spoiled(world):
    """By back end, kind of fault and policy: what happens around one bad update of rank 1."""
    faults = {
        "nan": lambda loss: loss * float("nan"),
        "gradient": lambda loss: loss + (loss - loss.detach()) * float("inf"),  # the loss is finite
        "loss": lambda loss: loss + float("inf"),  # the gradient is finite
    }
    found = {}
    for stage in STAGES:
        backend = classifier_backend(stage, world)
        update(backend, classifier_loss, 0)
        before = whole(backend)
        for name, fault in faults.items():
            update(backend, classifier_loss, 1, spoil=fault if world.rank == 1 else lambda loss: loss)
            seen = bool(backend.last_update_finite), int(backend.num_skipped_updates), backend.last_update_skipped()
            states = [whole(backend)]
            update(backend, classifier_loss, 2)
            seen += bool(backend.last_update_finite), int(backend.num_skipped_updates)
            states.append(whole(backend))
            with pytest.raises(NonFiniteError, match="step 5"):
                backend.check_finite(5)
            backend.load_training_state(on_all(before))  # what a rollback does
            backend.check_finite(6)
            found[stage, name] = seen, all(same_state(state, before) for state in states)
        update(backend, classifier_loss, 2)
        straight = whole(backend)
        backend = classifier_backend(stage, world, stop_on_nonfinite=False)
        for step in range(3):  # without the stop a bad update is as if it had not been
            spoils = step == 1 and world.rank == 1
            update(backend, classifier_loss, step, spoil=faults["nan"] if spoils else lambda loss: loss)
        backend.check_finite(2)
        found[stage, "skip"] = int(backend.num_skipped_updates), same_state(whole(backend), straight)
    return found


@pytest.mark.slow
def test_what_is_not_finite_on_one_rank_moves_nothing_on_any():
    for found in gloo_world(spoiled):
        for stage in STAGES:
            for fault in ("nan", "gradient", "loss"):
                assert found[stage, fault] == ((False, 1, True, True, 2), True), (stage, fault)
            assert found[stage, "skip"] == (1, True), stage


# --------------------------------------------------------------------------------------------------- entry scripts


@pytest.mark.slow
def test_pretraining_goes_on_in_another_stage(data, tmp_path):
    """Two epochs, the second with another back end, against DDP throughout."""
    names = ("step", "train/loss", "train/grad_norm")
    flags = {"batch_size": 2, "update_freq": 2, "clip_grad": 1.0, "save_ckpt_freq": 1, "decoder_num_classes": 24}
    assert all(f.code == 0 for f in run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "ddp", **flags), size=2))
    flags |= {"enable_deepspeed": True}
    first = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "zero", **flags, zero_stage=2), size=2)
    assert all(f.code == 0 and f.stdout == "" for f in first), first
    assert "DeepSpeed ZeRO stage 2" in first[0].stderr and first[1].stderr == ""
    (tmp_path / "zero" / "checkpoint-1.pth").unlink()
    (tmp_path / "zero" / "log.txt").write_text("")
    second = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "zero", **flags, zero_stage=3), size=2)
    assert all(f.code == 0 for f in second), second
    assert "resumed from" in second[0].stderr
    rows, expected = series(tmp_path / "zero", *names), series(tmp_path / "ddp", *names)
    torch.testing.assert_close(rows, expected[-len(rows) :], rtol=1e-4, atol=1e-6)
    weights, reference = (load(tmp_path / name / "checkpoint-1.pth")["model"] for name in ("zero", "ddp"))
    torch.testing.assert_close(weights, reference, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_fine_tuning_in_stage_3(data, tmp_path):
    """From given weights, validated and tested though the ranks have different numbers of videos."""
    torch.manual_seed(1)
    start = create_model("vit_mini_patch8_32", num_classes=3, num_frames=4)
    torch.save({"model": start.state_dict()}, tmp_path / "start.pth")
    flags = {"batch_size": 4, "finetune": tmp_path / "start.pth", "clip_grad": 1.0, "epochs": 1, "warmup_epochs": 0}
    flags |= {"test_num_segment": 1, "test_num_crop": 1}
    zero = {"enable_deepspeed": True, "zero_stage": 3}
    for name, more in (("ddp", {}), ("zero", zero)):
        finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / name, **flags, **more), size=2)
        assert all(f.code == 0 for f in finished), finished
    rows = [series(tmp_path / name, "train/loss", "train/grad_norm", "val/loss")[-1] for name in ("zero", "ddp")]
    torch.testing.assert_close(*rows, rtol=1e-4, atol=1e-6)
    weights, reference = (load(tmp_path / name / "checkpoint-0.pth")["model"] for name in ("zero", "ddp"))
    torch.testing.assert_close(weights, reference, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_dry_run_in_stage_3_with_a_rank_that_has_nothing_to_test(data, tmp_path):
    for name in ("train.csv", "val.csv", "test.csv"):
        lines = (data.folder / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join(lines[: 1 if name == "test.csv" else None]) + "\n")
    flags = {"enable_deepspeed": True, "zero_stage": 3, "batch_size": 2, "data_path": tmp_path, "dry_run": True}
    finished = run_script(FINETUNE, *data.flags(FINETUNE, **flags), size=2)
    assert all(f.code == 0 for f in finished), finished
    assert "time of the run" in finished[0].stderr


def test_a_single_process_needs_no_launcher(data, tmp_path):
    flags = {"enable_deepspeed": True, "zero_stage": 1, "linear_probing": True, "epochs": 1, "warmup_epochs": 0}
    flags |= {"test_num_segment": 1, "test_num_crop": 1, "batch_size": 8}
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "run", **flags, random_encoder=True))
    assert finished.code == 0 and finished.stdout == "", finished.stderr
    assert (tmp_path / "run" / "test.json").is_file()


def test_without_deepspeed_one_line_says_what_to_do(data):
    def target():
        sys.modules["deepspeed"] = None  # as if it were not installed
        sys.argv = [FINETUNE, *data.flags(FINETUNE, enable_deepspeed=True)]
        import runpy

        runpy.run_path(FINETUNE, run_name="__main__")

    (finished,) = run_in_processes(target)
    assert finished.code == 2 and len(finished.errors) == 1, finished.stderr
    assert "pip install deepspeed" in finished.errors[0] and "DDP" in finished.errors[0]


def test_bad_options_are_named():
    for stage, amp, words in ((4, "none", "--zero_stage 4"), (1, "fp16", "--amp fp16")):
        with pytest.raises(ConfigError, match=words):
            DeepSpeedBackend(nn.Linear(1, 1), None, world=CPU, amp=amp, stage=stage)
