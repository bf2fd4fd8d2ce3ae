"""The average of the weights: its value, its test, its way through a checkpoint."""

import json
import shutil

import pytest
import torch
from processes import FINETUNE, run_script
from runs import load, same

from datasets.loading.batch import Batch
from engine.checkpointing.checkpoint import Checkpointer, TrainState
from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.monitoring.metrics import Meter, RunLog
from engine.resilience.bad_videos import BadVideoLog
from engine.resilience.nonfinite import NonFiniteGuard
from engine.resilience.preemption import PreemptionHandler
from engine.schedules import Schedule
from engine.training import Trainer

DECAY = 0.5
FLAGS = {"model_ema": True, "model_ema_decay": DECAY, "batch_size": 8, "save_ckpt_freq": 1, "epochs": 4, "lr": 0.1}
FLAGS |= {"test_num_segment": 1, "test_num_crop": 1}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Folder of a run of one update an epoch, each saved."""
    folder = tmp_path_factory.mktemp("ema")
    finished = run_script(FINETUNE, *data.flags(FINETUNE, folder, **FLAGS))
    assert finished.code == 0, finished.stderr
    return folder


def test_is_the_average_over_the_updates(run):
    """Against the sum written out in float64; the first update has learning rate 0, so its weights are the first."""
    contents = [load(run / f"checkpoint-{epoch}.pth") for epoch in range(4)]
    for name, value in contents[0]["model"].items():
        average = value.double()
        for content in contents[1:]:
            average = DECAY * average + (1 - DECAY) * content["model"][name].double()
            torch.testing.assert_close(content["model_ema"][name].double(), average, rtol=1e-5, atol=1e-6)
    last = contents[-1]
    assert not same(last["model"]["head.weight"], last["model_ema"]["head.weight"])


def test_both_are_validated_and_tested(run, data, tmp_path):
    rows = [json.loads(line) for line in (run / "log.txt").read_text().splitlines()]
    assert all(row.keys() >= {"val/top1", "val_ema/top1", "val_ema/loss"} for row in rows)
    result = json.loads((run / "test.json").read_text())
    assert result["test/loss"] != result["test_ema/loss"]
    for key, name in (("model", "test"), ("model_ema", "test_ema")):
        one_view = {"test_num_segment": 1, "test_num_crop": 1}
        flags = {"resume": run / "checkpoint-3.pth", "model_key": key, "eval": True, **one_view}
        flags = data.flags(FINETUNE, tmp_path / key, **flags)
        assert run_script(FINETUNE, *flags).code == 0
        alone = json.loads((tmp_path / key / "test.json").read_text())
        assert alone["test/loss"] == pytest.approx(result[f"{name}/loss"], rel=1e-6)
    assert (run / "test_ema_predictions.npz").exists()


@pytest.mark.slow
def test_resumed_average_is_the_uninterrupted_one(run, data, tmp_path):
    (tmp_path / "checkpoint-1.pth").write_bytes((run / "checkpoint-1.pth").read_bytes())
    assert run_script(FINETUNE, *data.flags(FINETUNE, tmp_path, **FLAGS)).code == 0
    assert same(load(tmp_path / "checkpoint-3.pth")["model_ema"], load(run / "checkpoint-3.pth")["model_ema"])


@pytest.mark.slow
def test_in_host_memory_it_is_the_same(run, data, tmp_path):
    assert run_script(FINETUNE, *data.flags(FINETUNE, tmp_path, **FLAGS, model_ema_force_cpu=True)).code == 0
    assert same(load(tmp_path / "checkpoint-3.pth")["model_ema"], load(run / "checkpoint-3.pth")["model_ema"])


def test_resuming_without_it_or_only_with_it_is_refused(run, finetuned, data, tmp_path):
    flags = {name: value for name, value in FLAGS.items() if not name.startswith("model_ema")}
    (tmp_path / "checkpoint-1.pth").write_bytes((run / "checkpoint-1.pth").read_bytes())
    finished = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path, **flags))
    assert finished.code == 2 and "made with --model_ema; add it to resume" in finished.errors[0]
    plain = shutil.copytree(finetuned, tmp_path / "plain")
    finished = run_script(FINETUNE, *data.flags(FINETUNE, plain, **FLAGS))
    assert finished.code == 2 and "made without --model_ema; remove it to resume" in finished.errors[0]


def test_training_command_with_eval_tests_both(run, data):
    before = json.loads((run / "test.json").read_text())
    assert run_script(FINETUNE, *data.flags(FINETUNE, run, **FLAGS, eval=True)).code == 0
    after = json.loads((run / "test.json").read_text())
    weights, before_weights = after.pop("weights"), before.pop("weights")
    assert {name: value for name, value in after.items() if name.startswith("test")} == pytest.approx(
        {name: value for name, value in before.items() if name.startswith("test")}
    )
    assert [entry["key"] for entry in weights.values()] == ["model|module", "model_ema"]
    assert [entry["key"] for entry in before_weights.values()] == ["model", "model_ema"]
    assert weights[""]["sha256"] == before_weights["_ema"]["sha256"]


class Average:
    """Counts its updates."""

    module, updates = None, 0

    def update(self, model, step=None):
        self.updates += 1


def test_the_loop_leaves_the_average_alone_when_an_update_is_left_out():
    model = torch.nn.Linear(2, 1)
    world, average = World(0, 1, 0, torch.device("cpu")), Average()
    groups = [{"params": list(model.parameters()), "lr_scale": 1.0, "decayed": False}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    backend = Backend(model, optimizer, world=world, amp="none", stop_on_nonfinite=False)
    rates = {"lr": 1.0, "min_lr": 0.0, "warmup_lr": 0.0, "weight_decay": 0.0, "weight_decay_end": 0.0}
    trainer = Trainer(
        backend=backend,
        state=TrainState(backend, average),
        schedule=Schedule(**rates, epochs=1, steps_per_epoch=3, warmup_epochs=0, warmup_steps=-1),
        meter=Meter(prefix="train", log_every=1, total_steps=3, clips_per_step=1),
        log=RunLog("", None, world=world),
        bad_videos=BadVideoLog("", num_videos=1, max_bad_fraction=1, batch_size=1, world=world),
        checkpointer=Checkpointer("", 1, world, {}, {}),
        guard=NonFiniteGuard("skip", limit=1, output_dir="", world=world, paths=[]),
        preemption=PreemptionHandler(world),
        restore=lambda: False,
        forward=lambda model, batch: {"loss": model(batch.clip).sum()},
        update_freq=1,
    )
    clips = [torch.ones(1, 2), torch.full((1, 2), float("nan")), torch.ones(1, 2)]
    batches = iter([Batch(clip=clip, index=torch.zeros(1)) for clip in clips])
    seen = []
    for _ in clips:
        trainer.update(batches, 0, is_log_step=False)
        seen.append(average.updates)
    assert seen == [1, 1, 2]


def test_an_update_that_is_left_out_is_seen():
    """The loop asks this before it lets the average move."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    world = World(0, 1, 0, torch.device("cpu"))
    backend = Backend(model, optimizer, world=world, amp="none", stop_on_nonfinite=False)
    for factor, left_out in ((1.0, False), (float("nan"), True), (1.0, False)):
        backend.backward(factor * model(torch.ones(1, 2)).sum(), update_freq=1)
        backend.step()
        assert backend.last_update_skipped() is left_out
