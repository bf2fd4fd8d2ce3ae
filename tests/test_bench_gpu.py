"""bench/gpu.sh: both runs in small, without a GPU and without decoders; limits; parts that fail."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from processes import ROOT

from bench.gpu.part import begin

SCRIPT = ROOT / "bench" / "gpu.sh"
PARTS = {
    "decide": {"versions", "checks", "sinkhorn", "attention", "steps", "copies", "ddp"},
    "report": {"versions", "step", "memory"},
}
BLOCKED = ("av", "decord", "torchcodec", "deepspeed")


def gpu_sh(*arguments, **environment):
    """The script as from a shell; its CompletedProcess."""
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(("run", "most"), [("decide", 400), ("report", 300)])
def test_limits_add_up(run, most):
    """Two runs, their start and a fresh machine fit into a quarter of an hour."""
    decide, report = re.search(
        r"if \[\[ \$run = decide \]\]; then\n(.*?)\nelse\n(.*?)\nfi", SCRIPT.read_text(), re.S
    ).groups()
    first = re.search(r"^part (\d+) versions", SCRIPT.read_text(), re.M)[1]
    limits = [int(first), *map(int, re.findall(r"^    part (\d+) ", {"decide": decide, "report": report}[run], re.M))]
    assert len(limits) > 4 and sum(limits) <= most


def test_base_comes_before_small_and_memory_last():
    report = SCRIPT.read_text().partition("\nelse\n")[2]
    assert re.findall(r'^    part \d+ "?(step, \w+|memory)', report, re.M) == [
        "step, base", "step, base", "step, small", "memory",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [(), ("all",), ("decide", "--fast"), ("report", "--quick", "a", "b")])
def test_other_arguments_are_refused(arguments, tmp_path):
    finished = gpu_sh(*arguments)
    assert finished.returncode == 2 and finished.stderr.startswith("usage: ")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_at_once(tmp_path):
    finished = gpu_sh("decide", tmp_path)
    assert finished.returncode == 2
    assert "error: no CUDA GPU here" in finished.stdout and "== checks" not in finished.stdout


def test_a_cell_that_fails(tmp_path, capsys):
    part = begin("trial", "", ["--quick", "--device", "cpu", "--rows", str(tmp_path / "rows.jsonl")])
    with part.cell("first"):
        raise torch.OutOfMemoryError("CUDA out of memory\nmore")
    with part.cell("second"):
        part.row(a_b=1.5)
    with pytest.raises(SystemExit) as ended:
        part.finish()
    assert ended.value.code == 1 and "FAILED: first" in capsys.readouterr().out
    facts, failed, measured = rows(tmp_path / "rows.jsonl")
    assert facts["python"] and failed["failed"] == "OutOfMemoryError: CUDA out of memory"
    assert measured["a b"] == 1.5 and measured["part"] == "trial" and measured["device"] and measured["torch"]


@pytest.mark.long
@pytest.mark.parametrize("run", ["decide", "report"])
def test_a_quick_run(run, tmp_path):
    """Without decoders, and with one part that ends at once: every other part leaves rows."""
    blocks, results = tmp_path / "blocks", tmp_path / "results"
    blocks.mkdir()
    for name in BLOCKED:
        (blocks / f"{name}.py").write_text("raise ImportError('not on this machine')\n")
    broken = {"decide": "attention", "report": "memory"}[run]
    (blocks / "sitecustomize.py").write_text(
        f"import os, sys\nif any(word.endswith('/{broken}.py') for word in sys.orig_argv): os._exit(7)\n"
    )
    finished = gpu_sh(run, "--quick", results, PYTHONPATH=str(blocks), FLAGS="--device cpu")
    assert finished.returncode == 1, finished.stdout
    assert sorted(file.name for file in results.iterdir()) == [f"{run}.jsonl", f"{run}.log"]
    assert re.findall(r"== .*: status (?!0)(\d+) after", finished.stdout) == ["7"], finished.stdout
    found = rows(results / f"{run}.jsonl")
    assert {row["part"] for row in found} == PARTS[run] - {broken}
    assert not [row for row in found if "failed" in row]
    assert all(row["device"] and row["torch"] for row in found)
    if run == "report":
        steps = {(row["cell"], row["implementation"]) for row in found if "implementation" in row}
        assert len(steps) == 4 * 3  # released, ours, ours compiled
    assert (results / f"{run}.log").read_text().count("== ") == finished.stdout.count("== ")
