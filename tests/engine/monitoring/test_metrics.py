"""Log files, meters and what the console shows."""

import json
import logging
import math

import pytest
import torch
from processes import gloo_world, run_in_processes
from runs import records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.distributed.readout import Readout
from engine.distributed.world import World
from engine.monitoring.metrics import Meter, RunLog, format_seconds, log_table, means_over_ranks, setup_logging

CPU = World(0, 1, 0, torch.device("cpu"))


def meter(**changes):
    return Meter(**{"prefix": "train", "log_every": 2, "total_steps": 6, "clips_per_step": 8, **changes})


def flush(m, step, world=CPU, epoch=0):
    """What a log step does with a meter: its record."""
    interval = m.end_interval()
    values = Readout(interval.means, {"count": interval.count}).read()
    means = means_over_ranks({name: values[name] for name in interval.means}, values["count"], num_ranks=world.size)
    return m.report(interval, means, step=step, epoch=epoch, lr=0.1, settings={}, diagnostics={})


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2])
def test_an_epoch_that_was_cut_off_has_the_means_of_a_whole_one(cut, size):
    """Also if the world size changes from one to two: each rank then continues from the mean of the sums."""

    def count(m, values, first):
        means = []
        for step, value in enumerate(values, start=first):
            m.add_step({"loss": torch.tensor(value)})
            if m.is_log_step(step) or step == 4:
                record = flush(m, step)
                assert record["train/clips_per_second"] == pytest.approx(8 / record["train/step_time"])
                means.append(record["train/loss"])
        return means

    values, straight = [1.0, 2.0, 6.0, 4.0, 7.0], meter()
    expected = count(straight, values, 0)
    before, after = meter(), meter()
    found = count(before, values[:cut], 0)
    saved = [before.state_dict() for _ in range(3 - size)]  # of as many ranks as there are now, or of another number
    after.load_state_dicts(saved, world=World(0, size, 0, CPU.device))
    found += count(after, values[cut:], cut)
    assert found == expected and after.epoch_means(CPU) == straight.epoch_means(CPU)


def test_sums_of_other_ranks_are_averaged():
    states = [{"sums": {"a": torch.tensor(x)}, "count": 1, "epoch_sums": {}, "epoch_count": 0} for x in (1.0, 2.0, 6.0)]
    own, merged = meter(), meter()
    own.load_state_dicts(states, world=World(1, 3, 0, CPU.device))
    merged.load_state_dicts(states, world=CPU)
    assert own.sums["a"] == 2 and merged.sums["a"] == 3 and merged.count == 1


def test_means_over_steps_and_epochs():
    m = meter()
    values, means = [1.0, 2.0, 6.0, 4.0, 7.0], []
    for step, value in enumerate(values):
        m.add_step({"loss": torch.tensor(value, dtype=torch.float64, requires_grad=True)})
        m.add_data_time(0.5)
        if m.is_log_step(step) or step == 4:
            record = flush(m, step)
            means.append(record["train/loss"])
            assert record["train/data_time"] == pytest.approx(0.5)
            assert record["train/clips_per_second"] == pytest.approx(8 / record["train/step_time"])
    assert means == [1.5, 5.0, 7.0]
    assert m.epoch_means(CPU) == {"train_epoch/loss": pytest.approx(4.0)}  # not the mean of the means
    m.add_step({"loss": torch.tensor(3.0)})
    flush(m, 5, epoch=1)
    assert m.epoch_means(CPU) == {"train_epoch/loss": 3.0}
    assert m.epoch_means(CPU) == {}


def rank_means(world):
    m = meter()
    m.add_step({"loss": torch.tensor(1.0 + 4 * world.rank), "top1": torch.tensor(50.0)})
    record = flush(m, 0, world)
    return record["train/loss"], record["train/top1"], m.epoch_means(world)["train_epoch/loss"]


def test_means_over_ranks():
    assert gloo_world(rank_means) == [(3.0, 50.0, 3.0)] * 2


def test_steps_that_are_not_finite_or_skipped_are_excluded_from_the_means():
    m = meter()
    m.add_step({"loss": torch.tensor(3.0)}, is_finite=torch.tensor(True))
    m.add_step({"loss": torch.tensor(float("nan"))}, is_finite=torch.tensor(False))
    m.skip_step()
    assert m.steps_since_flush == 3
    assert flush(m, 2)["train/loss"] == 3.0


def test_not_a_number_is_shown_as_such():
    m = meter()
    m.add_step({"loss": torch.tensor(float("nan"))})
    assert math.isnan(flush(m, 0)["train/loss"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (0.2, "0:00:01"), (59.5, "0:01:00"), (3661, "1:01:01"), (-3, "0:00:00")]
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_log_of_a_resumed_run_forgets_what_is_done_again(tmp_path):
    log = RunLog(str(tmp_path), str(tmp_path / "events"), world=CPU)
    for step in (1, 2, 3):
        log.write(step, loss=step / 2)
    log.close()
    with (tmp_path / "log.txt").open("ab") as file:  # what others write there, and what a killed process leaves
        file.write(b'\xff\xfe\n[1]\n{"step": "one"}\n{"step": 4, "lo')
    log = RunLog(str(tmp_path), str(tmp_path / "events"), world=CPU, resumed_step=2)
    for step in (3, 4):
        log.write(step, loss=10.0 + step)
    log.close()
    assert [(row["step"], row["loss"]) for row in records(tmp_path)] == [(1, 0.5), (2, 1.0), (3, 13.0), (4, 14.0)]
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 13.0), (4, 14.0)]


def test_another_place_gets_the_same_records(tmp_path):
    class Place:
        def __init__(self):
            self.records, self.is_closed = [], False

        def write(self, step, values):
            self.records.append({"step": step, **values})

        def close(self):
            self.is_closed = True

    place = Place()
    log = RunLog(str(tmp_path), None, world=CPU, sink=place)
    for step in (1, 2):
        log.write(step, loss=step / 2)
    log.close()
    assert place.records == records(tmp_path) and place.is_closed


def test_only_the_main_process_writes(tmp_path):
    log = RunLog(str(tmp_path), str(tmp_path / "events"), world=World(1, 2, 1, torch.device("cpu")))
    log.write(1, loss=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_console(rank, tmp_path):
    """Info from rank 0, into console.txt too; from the others warnings only, with their rank."""

    def talk():
        setup_logging(World(rank, 2, rank, torch.device("cpu")), str(tmp_path))
        log_table("facts", {"a": 1, "longer": "x"})
        logging.getLogger("engine").warning("careful")

    (finished,) = run_in_processes(talk)
    assert finished.stdout == "" and "careful" in finished.stderr
    if rank:
        assert "[rank 1] careful" in finished.stderr and "facts" not in finished.stderr
        assert list(tmp_path.iterdir()) == []
    else:
        assert "  a       1\n  longer  x\n" in finished.stderr
        assert (tmp_path / "console.txt").read_text() == finished.stderr


def test_records_are_json_lines(tmp_path):
    log = RunLog(str(tmp_path), None, world=CPU)
    log.write(1, **meter_record())
    assert json.loads((tmp_path / "log.txt").read_text()).keys() >= {"step", "epoch", "train/loss", "train/lr"}
    assert [p.name for p in tmp_path.iterdir()] == ["log.txt"]


def meter_record():
    m = meter()
    m.add_step({"loss": torch.tensor(1.0)})
    return flush(m, 0)
