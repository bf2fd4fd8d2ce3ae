"""--compile: the same results as without it, on two ranks, with recomputation, in evaluation.

Compiling happens in processes of their own: one that has compiled cannot be forked any more.
"""

import copy
import shutil

import pytest
import torch
from golden.cases import PretrainingCase
from processes import FINETUNE, PRETRAIN, gloo_world, run_script
from runs import load, same, series

import run_class_finetuning
from engine.acceleration.compilation import compile_blocks
from engine.distributed.ddp import Backend
from engine.errors import ConfigError
from engine.flags import parse
from models import create_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(" " in torch.__file__, reason="torch cannot compile from a path with a blank"),
]


def classifier():
    torch.manual_seed(0)
    options = {"num_frames": 4, "num_classes": 3, "depth": 5, "init_scale": 1.0, "drop_path_rate": 0.5}
    return create_model("vit_mini_patch8_32", **options)


def compile_in_place(world):
    """Results of a plain and of a compiled classifier; what a compiled model makes of a golden case."""
    plain, compiled = classifier(), classifier()
    compile_blocks(compiled.blocks)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    clip = torch.randn(2, 3, 4, 32, 32)
    graphs, results = torch._dynamo.utils.counters["stats"], []
    for train in (True, False):
        before = graphs["unique_graphs"]
        for model in (plain.train(train), compiled.train(train)):
            torch.manual_seed(1)
            with torch._inductor.config.patch(fallback_random=True):  # stochastic depth draws the same
                logits = model(clip)
            results.append((logits.detach(), *torch.autograd.grad(logits.square().sum(), model.head.weight)))
        assert before < graphs["unique_graphs"] <= before + 3  # blocks share them, whatever their rates
    again = copy.deepcopy(compiled)  # as the average of the weights is made
    assert again.blocks[0]._compiled_call_impl is None
    results += [(model(clip).detach(),) for model in (again, compiled)]

    case = PretrainingCase("pretrain_mlp")
    compile_blocks(case.model.encoder.blocks, case.model.decoder.blocks)
    loss = case.run()["loss"]
    loss.backward()
    expected = dict(zip(case.golden["gradnorm_names"], case.golden["gradnorm_values"], strict=True))
    norms = {name: (p.grad.norm().item(), float(expected[name])) for name, p in case.model.named_parameters()}
    halves = []
    for either in (case, PretrainingCase("pretrain_mlp")):  # compiled and plain, in bf16
        either.model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            half = either.run()["loss"]
        half.backward()
        halves.append([half.item(), *(p.grad.norm().item() for p in either.model.parameters() if p.grad is not None)])
    return results, (loss.item(), float(case.golden["loss"])), norms, halves


def test_blocks_are_compiled_in_place_and_golden_numbers_hold():
    results, losses, norms, halves = gloo_world(compile_in_place, size=1)[0]
    for plain, compiled in zip(results[::2], results[1::2], strict=True):
        torch.testing.assert_close(compiled, plain)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, (ours, expected) in norms.items():
        assert ours == pytest.approx(expected, rel=1e-4), name
    compiled, plain = halves
    assert compiled[0] == pytest.approx(plain[0], rel=2e-3)
    assert compiled[1:] == pytest.approx(plain[1:], rel=5e-2, abs=1e-4)


def gradients_of_ranks(world):
    """Of a plain and of a compiled classifier inside DDP, and the graphs that its blocks were compiled to."""
    clip = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(world.rank))
    gradients = []
    for compiles in (False, True):
        torch.manual_seed(0)
        # a block of 3 MB: more than the first of DDP's buckets, at whose border torch would cut it
        model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=3, embed_dim=256, depth=2, init_scale=1.0)
        if compiles:
            compile_blocks(model.blocks)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        backend = Backend(model, optimizer, world=world, amp="none")
        backend.backward(backend.model(clip).square().sum(), update_freq=1)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return gradients, torch._dynamo.utils.counters["aot_autograd"]["total"]


def test_inside_ddp_a_block_is_one_graph():
    """torch's optimisation for DDP would cut it: 2 graphs, and more launches."""
    for (plain, compiled), graphs in gloo_world(gradients_of_ranks, size=2):
        assert graphs == 1
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


def test_pretraining_with_a_teacher_on_two_ranks(data, frozen_weights, tmp_path):
    flags = {"target_type": "dino_v1", "distillation_teacher": "dino_s", "epochs": 1, "warmup_epochs": 0, "opt": "sgd"}
    flags |= {"teacher_weights": frozen_weights / "dino_v1.pth", "model": "pretrain_videomae_mini_patch16_32", "lr": 1}
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    assert run_script(PRETRAIN, *data.flags(PRETRAIN, plain, **flags)).code == 0
    flags |= {"compile": True, "use_checkpoint": True, "batch_size": 2}
    ranks = run_script(PRETRAIN, *data.flags(PRETRAIN, compiled, **flags), size=2)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].stderr
    names = ("step", "train/video_loss", "train/target_loss", "train/grad_norm")
    torch.testing.assert_close(series(compiled, *names), series(plain, *names), rtol=2e-4, atol=1e-6)
    a, b = (load(folder / "checkpoint-0.pth")["model"] for folder in (plain, compiled))
    torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


def test_a_compiled_run_goes_on_from_a_checkpoint_bit_for_bit(data, tmp_path):
    """Pre-training with compiled blocks, cut off inside its second epoch."""
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    flags = {"compile": True, "save_ckpt_steps": 1, "keep_ckpts": 9}
    assert run_script(PRETRAIN, *data.flags(PRETRAIN, straight, **flags)).code == 0
    cut.mkdir()
    shutil.copy(straight / "checkpoint-1-step1.pth", cut)
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, cut, **flags))
    assert finished.code == 0 and "1 epochs and 1 steps" in finished.stderr
    a, b = (load(folder / "checkpoint-1.pth") for folder in (straight, cut))
    assert all(same(a[key], b[key]) for key in ("model", "optimizer", "step", "rng"))


def without_compiler(world, argv):
    import torch._inductor.config as settings  # and not above, where every process would have to import it

    settings.cpp.cxx, settings.force_disable_caches = ("no-such-compiler",), True
    with pytest.raises(ConfigError) as caught:
        run_class_finetuning.main(parse(run_class_finetuning.FinetuningConfig, argv), world)
    return str(caught.value)


def test_a_machine_without_a_compiler(data, tmp_path):
    argv = data.flags(FINETUNE, tmp_path / "run", compile=True)
    (said,) = gloo_world(without_compiler, list(map(str, argv)), size=1)
    assert said.startswith("--compile: torch cannot compile for cpu here (") and "g++" in said and "\n" not in said
