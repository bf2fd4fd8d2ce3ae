"""`--memory_plan`: its step without data against real steps, and what it says of a run."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from processes import FINETUNE, LIMIT, PRETRAIN, ROOT

from bench.common import Cell
from bench.memory import row_of
from engine.distributed.ddp import Backend
from engine.flags import parse
from engine.memory import GIB
from engine.memory_plan.plan import largest_batch, machine_of
from engine.memory_plan.step import ONE_PROCESS, Meter, measure_step
from engine.optim import build_optimizer, parameter_groups
from models import create_model
from models.kernels.support import planned_for_gpu
from models.sinkhorn.prototype_loss import prototype_scores
from programs.finetuning.memory_plan import plan as plan_finetuning
from programs.pretraining.memory_plan import plan as plan_pretraining
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig
from sigma_video.options import OptionError

CLIPS = 8


def tiny(**options):
    return create_model("vit_mini_patch8_32", num_frames=4, num_classes=3, depth=2, **options)


def optimizer_of(model):
    groups = parameter_groups(model, weight_decay=0.05)
    return build_optimizer(groups, opt="adamw", lr=1e-3, betas=(0.9, 0.95), eps=1e-8, momentum=0)


def clips_of(model):
    return SimpleNamespace(clip=torch.zeros(CLIPS, *model.clip_shape))


def planned(amp="none", accumulates=False, **options):
    with torch.device("meta"):
        model = tiny(**options)
    return measure_step(
        model,
        lambda batch: {"loss": model(batch.clip).float().square().mean()},
        batch=lambda: clips_of(model),
        optimizer=optimizer_of,
        amp=amp,
        accumulates=accumulates,
    )


def real_step():
    """(bytes that autograd saves of a forward pass, parameters and clips not counted; peak of a second step)."""
    model, saved = tiny(), {}
    backend, batch = Backend(model.train(), optimizer_of(model), world=ONE_PROCESS, amp="none"), clips_of(model)
    others = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), batch.clip)}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in others:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step():
        backend.backward(model(batch.clip).square().mean(), update_freq=1)
        backend.step()

    step()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(batch.clip).square().mean()
    del loss
    with Meter() as meter:
        step()
    return sum(saved.values()), meter.peak


def test_a_step_without_data_takes_what_a_real_one_takes():
    plan, (saved, peak) = planned(), real_step()
    number = sum(p.numel() for p in tiny().parameters())
    assert plan.gradients == 4 * number and plan.moments == pytest.approx(8 * number, rel=0.01)
    assert plan.batch == CLIPS * 3 * 4 * 32 * 32 * 4
    above = plan.total - plan.weights - plan.moments - plan.batch
    assert above == pytest.approx(peak, rel=0.001)
    assert saved <= above <= 1.25 * saved  # it is worst early in the backward pass


def test_what_saves_memory_and_what_costs_some():
    plan = planned()
    assert max(planned(use_checkpoint=True).total, planned(amp="bf16").total) < 0.9 * plan.total
    waiting = planned(accumulates=True)
    assert waiting.total - plan.total == pytest.approx(plan.gradients, rel=0.1)


def test_a_plan_for_a_gpu_takes_its_ways():
    vectors = torch.zeros(5, 4), torch.zeros(5, 4)
    with planned_for_gpu():
        assert prototype_scores(vectors, torch.zeros(7, 4)).dtype == torch.float16
    assert prototype_scores(vectors, torch.zeros(7, 4)).dtype == torch.float32


@pytest.mark.parametrize(("unit", "batch"), [(1, 1), (1, 16), (2, 2), (2, 64), (1, 300)])
def test_the_largest_batch_fits_and_is_large(unit, batch):
    def total(clips):
        return max(500 + clips, 100 + 9 * clips, 11 * clips)

    best = max(n for n in range(0, 200, unit) if total(n) <= 1000 and n <= 8 * max(batch, 2 * unit))
    found = largest_batch(total, batch, unit=unit, limit=1000)
    assert found % unit == 0 and 0.9 * best <= found <= best
    assert largest_batch(total, batch, unit=unit, limit=500) == 0


def table_of(script, cls, plan, capsys, data, **changes):
    plan(parse(cls, data.flags(script, "", data_path="nowhere", **changes)))
    written = capsys.readouterr()
    return written.out + written.err


@pytest.mark.long
def test_the_table_of_pretraining(capsys, data):
    shown = table_of(PRETRAIN, PretrainingConfig, plan_pretraining, capsys, data, memory_plan="1.002", device="auto")
    rows = dict(re.findall(r"^  (\w[\w ]*?)  +([\d.]+) GiB", shown, re.M))
    assert set(rows) == {"weights", "gradients", "optimizer moments", "batch", "activations", "runtime", "total"} | {
        "memory of the GPU"
    }
    parts = sum(float(rows[name]) for name in rows if name not in ("total", "memory of the GPU"))
    assert float(rows["total"]) == pytest.approx(parts, abs=0.04)
    assert "not even --batch_size 1 fits" in shown and "--use_checkpoint" in shown and "what would help" in shown


@pytest.mark.slow
def test_the_table_of_finetuning(capsys, data):
    changes = {"memory_plan": True, "finetune": "no.pth", "mixup": 0, "cutmix": 0, "num_sample": 1, "model_ema": True}
    shown = table_of(FINETUNE, FinetuningConfig, plan_finetuning, capsys, data, **changes)
    assert "memory of the CPU" in shown and "what would help" not in shown
    fits = int(re.search(r"largest batch +--batch_size (\d+)", shown)[1])
    assert fits == 8 * 4 and f"--batch_size {fits} or more" in shown  # no larger batch is looked for


@pytest.mark.parametrize("value", ["0", "-1", "abc", "nan", "inf", "1e9"])
def test_bad_sizes(value, data):
    with pytest.raises(OptionError, match=rf"--memory_plan {value}: must be a positive number"):
        parse(PretrainingConfig, [*data.flags(PRETRAIN), f"--memory_plan={value}"])


def test_what_it_is_not_for(data):
    with pytest.raises(OptionError, match="--memory_plan is for training, and --eval"):
        parse(FinetuningConfig, data.flags(FINETUNE, memory_plan=8, eval=True))
    for flag in ("dry_run", "enable_deepspeed"):
        with pytest.raises(OptionError, match=f"--memory_plan .*--{flag}"):
            parse(PretrainingConfig, data.flags(PRETRAIN, memory_plan=8, **{flag: True}))
    config = parse(PretrainingConfig, data.flags(PRETRAIN, memory_plan=True, device="cpu"))
    assert config.run.planned_gib is None and not machine_of(config).on_gpu
    assert machine_of(parse(PretrainingConfig, data.flags(PRETRAIN, memory_plan=8, device="auto"))).capacity == 8 * GIB


@pytest.mark.long
def test_a_script_ends_with_its_plan(data, tmp_path):
    flags = data.flags(PRETRAIN, tmp_path / "out", memory_plan=8, data_path="nowhere")
    command = [sys.executable, PRETRAIN, *map(str, flags)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode == 0 and "memory plan" in ended.stdout + ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_estimate_against_a_real_step():
    """A step of ViT-mini on whole clips, in a process of its own, by its resident memory."""
    row = row_of("ours", Cell("finetune", "mini"), batches=[2], amp="none", device_name="cpu")
    assert abs(row["off by %, 2 clips"]) < 10, row
