"""What a run shows besides its numbers: TensorBoard's pictures and histograms, a profile."""

import json

import numpy as np
import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_script
from runs import records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.monitoring.console import ProgressBar
from engine.monitoring.metrics import RunLog
from engine.monitoring.monitor import TrainingMonitor

CPU = World(0, 1, 0, torch.device("cpu"))


def events_in(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    return events


@pytest.mark.parametrize(
    ("script", "changes", "pictures", "size"),
    [
        pytest.param(PRETRAIN, {}, {"masks", "prototypes/use", "prototypes/cosine"}, 2, marks=pytest.mark.slow),
        (PRETRAIN, {"target_type": "pixel"}, {"reconstruction"}, 1),
        (FINETUNE, {"update_freq": 2}, {"clips"}, 1),
    ],
    ids=["SIGMA on two ranks", "VideoMAE", "fine-tuning"],
)
def test_pictures_of_a_run(script, changes, pictures, size, data, tmp_path):
    """At the end of every epoch, once; by the main process alone."""
    flags = data.flags(script, tmp_path / "run", log_dir=tmp_path / "events", batch_size=4 // size, **changes)
    finished = run_script(script, *flags, size=size)
    assert all(f.code == 0 for f in (finished if size > 1 else [finished]))
    assert len(list((tmp_path / "events").iterdir())) == 1
    events = events_in(tmp_path / "events")
    assert set(events.Tags()["images"]) == pictures
    rows = records(tmp_path / "run")
    ends = [row["step"] for row in rows if "train_epoch/loss" in row]
    for name in pictures:
        assert [event.step for event in events.Images(name)] == ends
    for row in rows:
        if row["step"] in ends:  # the norms of the blocks make up that of the whole
            norms = {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}
            parts = [found[row["step"]] for name, found in norms.items() if name.startswith("grad_norm/")]
            assert np.linalg.norm(parts) == pytest.approx(row["train/grad_norm"], rel=1e-4)
    block = "encoder.blocks.3" if script == PRETRAIN else "blocks.3"
    assert {f"weights/{block}"} < set(events.Tags()["histograms"])
    assert all(row["train/tflops"] > 0 and "train/mfu" not in row for row in rows)


def test_histograms_are_those_of_the_values(tmp_path):
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(40, 50)])})
    values = torch.cat([torch.tensor([7.0, float("nan")]), torch.arange(1000.0)])
    log = RunLog("", str(tmp_path), world=CPU)
    monitor = TrainingMonitor(
        bar=ProgressBar(world=CPU, first_step=0, total_steps=4),
        profile=None,
        log=log,
        backend=Backend(model, torch.optim.SGD(model.parameters(), lr=0.1), world=CPU, amp="none"),
        figure_fn=lambda batch, out: (
            {},
            {"numbers": out["numbers"], "constant": torch.ones(5), "none": torch.ones(0)},
        ),
        steps_per_epoch=2,
    )
    monitor.before_step(None, {}, step=0)  # not the last of an epoch: nothing is looked at
    monitor.before_step(None, {"numbers": values}, step=1)
    log.close()
    events = events_in(tmp_path)
    assert set(events.Tags()["histograms"]) == {"numbers", "constant", "weights/blocks.0"}
    (event,) = events.Histograms("numbers")
    found = event.histogram_value
    assert (event.step, found.min, found.max, found.num) == (2, 0, 999, 1001)
    assert found.sum == pytest.approx(float(values[2:].sum()) + 7)
    counts, edges = np.histogram(values[torch.isfinite(values)].numpy(), bins=64)
    assert found.bucket == counts.tolist() and found.bucket_limit == pytest.approx(edges[1:].tolist())
    (event,) = events.Histograms("weights/blocks.0")
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert event.histogram_value.num == 2050
    assert event.histogram_value.sum_squares == pytest.approx(float(weights.square().sum()), rel=1e-5)
    assert events.Histograms("constant")[0].histogram_value.num == 5


@pytest.mark.slow
def test_profile(data, tmp_path):
    """Profiles the given number of steps; the run continues and ends as without a profile."""
    for name, profile in (("plain", 0), ("profiled", 2)):
        flags = data.flags(PRETRAIN, tmp_path / name, epochs=1, warmup_epochs=0, batch_size=2, profile=profile)
        finished = run_script(PRETRAIN, *flags)
        assert finished.code == 0, finished.stderr
    assert [row["train/loss"] for row in records(tmp_path / "plain")] == [
        row["train/loss"] for row in records(tmp_path / "profiled")
    ]
    assert not (tmp_path / "plain" / "profile").exists()
    (trace,) = (tmp_path / "profiled" / "profile").iterdir()
    assert trace.name == "trace-2-steps.json"
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event.get("ph") == "X"]
    assert {name for name in names if name.startswith("ProfilerStep#")} == {"ProfilerStep#2", "ProfilerStep#3"}
    assert any(name.startswith("Optimizer.step") for name in names)
    assert f"profile of 2 steps: {trace}" in finished.stderr and "aten::addmm" in finished.stderr


@pytest.mark.parametrize(("epochs", "recorded"), [(1, 0), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_profile_of_a_run_that_is_too_short(epochs, recorded, data, tmp_path):
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path, epochs=epochs, warmup_epochs=0, profile=9))
    assert finished.code == 0, finished.stderr
    traces = list(tmp_path.glob("profile/*"))
    assert [trace.name for trace in traces] == [f"trace-{recorded}-steps.json"] * (recorded > 0)
    assert ("nothing recorded" in finished.stderr) == (not recorded)
