"""bench/step.py and its fellows: they run, and the baseline trains the same model on the same loss as ours."""

import ast
import json
import os
import sys
import types

import pytest
import torch
from processes import ROOT, fresh, run_in_processes

from bench import common, memory, operators, parts, released, scaling, step
from bench.common import Cell, Clock
from bench.ours import OurStep, one_process

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", common.TASKS)
def test_the_baseline_has_our_loss_and_gradients(task, monkeypatch):
    monkeypatch.setattr(common, "NUM_PROTOTYPES", 50)
    monkeypatch.setattr("bench.ours.NUM_PROTOTYPES", 50)
    cell = Cell(task, "mini", quick=True)
    batch = common.synthetic_batch(cell, 3, CPU)
    options = {"drop_path_rate": 0.0} if task == "finetune" else {}
    ours = OurStep(cell, world=one_process(CPU), amp="none", **options)
    theirs = step.released_step(cell, CPU, "none", drop_path=0.0)
    monkeypatch.setattr(ours.backend, "step", lambda: None)  # leaves the gradients
    loss, expected = ours(batch), theirs.loss(batch, Clock(CPU))
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    names = dict(theirs.model.named_parameters())
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter.grad, names[name].grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_baseline_s_attention_is_fused_in_the_teacher_alone(monkeypatch):
    fused, callers = torch.nn.functional.scaled_dot_product_attention, []

    def attention(*arguments, **options):
        callers.append(sys._getframe(1).f_globals["__name__"])
        return fused(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    cell = Cell("dino", "mini", quick=True)
    baseline = step.released_step(cell, CPU, "none")
    baseline.loss(common.synthetic_batch(cell, 2, CPU), Clock(CPU))
    assert set(callers) == {"timm.layers.attention"} and len(callers) == len(baseline.teacher.blocks)


def test_baseline_s_plan_is_balanced():
    scores = torch.nn.functional.normalize(torch.randn(4, 50, 16), dim=-1)
    scores = scores.flatten(0, 1) @ torch.nn.functional.normalize(torch.randn(10, 16), dim=-1).T
    assert torch.bincount(released.plan_codes(scores, 0.05), minlength=10).min() >= 10


@pytest.mark.parametrize(
    ("task", "size", "expected"),
    [  # worked out by hand, GFLOP
        ("dino", "base", 506.8),
        ("mlp", "base", 232.2),
        ("pixel", "base", 202.3),
        ("finetune", "base", 1078.4),
        ("dino", "small", 369.8),
        ("mlp", "small", 96.0),
        ("pixel", "small", 64.0),
        ("finetune", "small", 339.4),
    ],
)
def test_arithmetic_of_a_clip(task, size, expected):
    assert common.gigaflops(Cell(task, size)) == pytest.approx(expected, rel=0.01)


def test_clock_names_what_lies_between_marks():
    clock, part = Clock(CPU), torch.nn.Linear(2, 2)
    clock.watch("part", part)
    part(torch.zeros(1, 2))  # before the start: not counted
    clock.start()
    part(part(torch.zeros(1, 2)))
    clock.mark("end")
    stages = clock.stages()
    assert set(stages) == {"rest", "part", "end", "step"}
    assert stages["step"] == pytest.approx(stages["rest"] + stages["part"] + stages["end"])


def test_alternating_takes_medians():
    calls = []

    def run(name, values):
        return lambda: calls.append(name) or {"step": next(values)}

    found = common.alternate({"a": run("a", iter([1.0, 9.0, 2.0])), "b": run("b", iter([4.0, 5.0, 6.0]))}, 3)
    assert found == {"a": {"step": 2.0}, "b": {"step": 5.0}} and calls == ["a", "b", "b", "a", "a", "b"]


def test_less_memory_than_the_batch_needs(monkeypatch):
    """The baseline, and it alone, gets a smaller batch."""
    tried = []

    class Fits:
        def __init__(self, make, device, clips, warm_up):
            tried.append(clips)
            if clips > 2:
                raise torch.OutOfMemoryError
            self.clips = clips

    monkeypatch.setattr(step, "Measured", Fits)
    cell, comparison = Cell("pixel", "mini", quick=True), step.Comparison(("none",), clips=8, rounds=1, warm_up=1)
    found = step.largest_baseline(cell, common.synthetic_batch(cell, 8, CPU), comparison, CPU)
    assert tried == [8, 4, 2] and found.clips == 2


@pytest.mark.parametrize("broken", ["released", "ours, compiled, none", "all"])
def test_out_of_memory_ends_nothing(broken, tmp_path, monkeypatch):
    """A row says which implementation, or which cell, does not fit; the others are measured, and the next cell."""

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory\nand more lines")

    def ours(cell, batch, device, amp, compiled):
        run = no_memory if broken == "ours, compiled, none" and compiled else made
        return run if cell.task == "pixel" else made

    def made():
        clock = Clock(CPU)
        clock.start()
        clock.mark("step")
        return clock

    monkeypatch.setattr(step, "timed_ours", ours)
    monkeypatch.setattr(step, "timed_baseline", lambda cell, *_: no_memory if broken == "released" else made)
    if broken == "all":
        rows_of = step.rows_of
        monkeypatch.setattr(
            step, "rows_of", lambda cell, *a: no_memory() if cell.task == "pixel" else rows_of(cell, *a)
        )
    file = tmp_path / "rows.jsonl"
    arguments = ["--quick", "--device", "cpu", "--baseline", "--compile", "--no_compile", "--rounds", "1"]
    with pytest.raises(SystemExit) as ended:
        step.main([*arguments, "--tasks", "pixel", "mlp", "--rows", str(file)])
    assert ended.value.code == 1
    first, *rows = map(json.loads, file.read_text().splitlines())
    assert "GEMM peak, TFLOP/s, none" in first and all(row["part"] == "step" and row["device"] for row in rows)
    failed = {(row["cell"], row["implementation"]): row["failed"] for row in rows if "failed" in row}
    expected = {("pixel ViT-mini", broken)} | ({("mlp ViT-mini", broken)} if broken == "released" else set())
    assert failed == dict.fromkeys(expected, "OutOfMemoryError: CUDA out of memory")
    assert ("mlp ViT-mini", "ours, compiled, none") in {(row["cell"], row["implementation"]) for row in rows}


def test_implementations_share_one_batch(monkeypatch):
    """Else its memory would be counted for some and not for others."""
    cell, made, trained_on = Cell("pixel", "mini", quick=True), [], []
    make = common.synthetic_batch
    monkeypatch.setattr(common, "synthetic_batch", lambda *sizes: made.append(make(*sizes)) or made[-1])
    monkeypatch.setattr(step, "released_step", lambda *_: lambda batch, clock: trained_on.append(batch))
    step.implementations_of(cell, step.Comparison(amp=("none",), clips=4, rounds=1, warm_up=1, baseline=True), CPU)
    assert len(made) == 1 and torch.equal(trained_on[0].clip, made[0].clip)


def test_a_smaller_batch_is_compared_by_clips_a_second(monkeypatch):
    def measured(clips, seconds):
        return type("Run", (), {"clips": clips, "peak": 0, "__call__": lambda self: {"step": seconds}})()

    found = {"released": measured(2, 1.0), "ours, none": measured(8, 2.0)}
    monkeypatch.setattr(step, "implementations_of", lambda *_: (found, {"ours, compiled, none": "no compiler"}))
    cell, comparison = Cell("pixel", "mini", quick=True), step.Comparison(("none",), clips=8, rounds=1, warm_up=1)
    rows = step.rows_of(cell, comparison, CPU, {"none": 1e9})
    assert [row.get("speed-up") for row in rows] == [1, 2, None] and rows[2]["failed"] == "no compiler"
    assert rows[0]["% of GEMM peak"] == pytest.approx(100 * 2 * common.gigaflops(cell))


def test_peak_of_one_implementation_beside_others(monkeypatch):
    """What the others hold is not counted."""
    held = [100]
    made = types.SimpleNamespace(stages=lambda: {"step": 1.0})
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held[0] + 7)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(total_memory=10_000))
    measured = step.Measured(lambda: held.append(held.pop() + 50) or (lambda: made), torch.device("cuda"), 2, 1)
    held[0] += 1000  # of one that is made later
    measured()
    assert measured.peak == 50 + 7


@pytest.mark.slow
def test_a_quick_run(tmp_path, capsys):
    file = tmp_path / "results" / "step.json"
    step.main(["--quick", "--baseline", "--rounds", "1", "--tasks", "dino", "finetune", "--json", str(file)])
    content = json.loads(file.read_text())
    assert {"date", "device", "torch", "python"} <= content["facts"].keys()
    rows = {(row["cell"], row["implementation"]): row for row in content["rows"]}
    assert len(rows) == 4
    for (cell, name), row in rows.items():
        assert row["s / step"] == pytest.approx(sum(row["stages, s"].values()))
        assert row["clips / s"] == pytest.approx(2 / row["s / step"])
        assert row["speed-up"] == pytest.approx(rows[cell, "released"]["s / step"] / row["s / step"])
        assert "teacher" in row["stages, s"] or cell.startswith("finetune"), name
    assert capsys.readouterr().out.count("| dino ViT-mini |") == 2


def test_beside_transformers(tmp_path):
    pytest.importorskip("transformers")
    file = tmp_path / "step.json"
    step.main(["--quick", "--hf", "--rounds", "1", "--tasks", "pixel", "--json", str(file)])
    found = [row["implementation"] for row in json.loads(file.read_text())["rows"]]
    assert found == ["transformers, eager, none", "transformers, sdpa, none", "ours, none"]


def test_position_tables_are_equal_bit_for_bit(monkeypatch):
    monkeypatch.setattr(parts, "SHAPES", {"tiny": (1, 1, 4)})
    rows = parts.position_rows(1, [(1568, 64), (20, 96)])
    assert rows[0]["same bits"] and rows[0]["ratio"] > 1
    assert [row["dtype"] for row in parts.attention_rows(1)] == ["torch.float32", "torch.bfloat16"]


@pytest.mark.slow
def test_operators_of_a_step():
    rows = operators.rows_of(Cell("pixel", "mini", quick=True), 2, "bf16")
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    product = next(row for row in rows if row["operator"] == "aten::addmm")
    _, (tokens, width), (_, columns) = ast.literal_eval(product["shapes"])
    work = 2 * tokens * width * columns * product["calls"]
    assert product["GFLOP/s"] * product["ms"] * 1e6 == pytest.approx(work)
    kinds = {row["kind"]: row["ms"] for row in operators.sums(rows)}
    assert sum(kinds.values()) == pytest.approx(sum(row["ms"] for row in rows)) and min(kinds.values()) > 0


def test_a_file_that_is_cut_off_while_it_is_written(tmp_path, monkeypatch):
    """Keeps what was there."""
    file = tmp_path / "step.json"
    common.write_json({}, [{"a": 1}], file)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        common.write_json({}, [{"a": 1}, {"a": 2}], file)
    assert json.loads(file.read_text())["rows"] == [{"a": 1}]


def test_state_of_the_gpu_is_that_of_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert common.gpu_state() == {}
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.1, 1980 MHz, 3201 MHz, 300.12 W, 700.00 W, 40'\n")
    program.chmod(0o755)
    state = common.gpu_state()
    assert state["driver_version"] == "580.1" and state["power.limit"] == "700.00 W" and len(state) == 6


def test_memory_table_is_written_row_by_row(tmp_path, monkeypatch):
    """A call that is cut off leaves what it has measured."""
    file, written = tmp_path / "memory.json", []
    row_of = lambda name, *_, **__: written.append(file.exists()) or {"implementation": name}  # noqa: E731
    monkeypatch.setattr(memory, "row_of", row_of)
    memory.main(["--quick", "--device", "cpu", "--tasks", "pixel", "--json", str(file)])
    assert written == [False, True, True]
    assert [row["implementation"] for row in json.loads(file.read_text())["rows"]] == list(memory.IMPLEMENTATIONS)


def test_the_largest_batch_is_on_the_line_or_below(monkeypatch):
    gpu = types.SimpleNamespace(total_memory=1050)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    tried = []
    fits = lambda clips: tried.append(clips) or (clips if clips < 95 else None)  # noqa: E731
    assert memory.largest({16: 210, 64: 690}, fits) == 90 and tried == [100, 95, 90]
    assert memory.largest({16: 210}, fits) is None


def test_a_rank_of_scaling_measures_its_steps(tmp_path):
    arguments = ["--quick", "--device", "cpu", "--amp", "none", "--tasks", "mlp", "--rounds", "1", "--result"]
    ranks = run_in_processes(lambda: scaling.main([*arguments, str(tmp_path / "seconds")]), size=2)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].stderr
    assert 0 < json.loads((tmp_path / "seconds").read_text()) < 60


def test_efficiency_of_scaling(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "seconds_of", lambda setup, cell, *, ranks, clips: clips / 10 + (ranks - 1) * 0.1)
    scaling.main(["--quick", "--tasks", "mlp", "--ranks", "1", "2", "--batch", "4", "--json", str(tmp_path / "json")])
    rows = json.loads((tmp_path / "json").read_text())["rows"]
    assert [(row["scaling"], row["ranks"], row["clips per rank"]) for row in rows] == [
        ("weak", 1, 4), ("weak", 2, 4), ("strong", 1, 8), ("strong", 2, 4),
    ]  # fmt: skip
    assert [row["efficiency"] for row in rows] == pytest.approx([1, 0.8, 1, 0.8])


@pytest.mark.long
def test_no_decoder_is_needed():
    program = (
        "import sys\n"
        "for name in ('av', 'decord', 'torchcodec', 'deepspeed'): sys.modules[name] = None\n"
        "import bench.step, bench.memory, bench.scaling\n"
        "assert 'datasets' not in sys.modules\n"
    )
    finished = fresh(sys.executable, "-c", program, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
