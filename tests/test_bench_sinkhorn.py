"""bench/sinkhorn.py: it runs, its baselines compute what ours computes, and its report is complete."""

import json

import pytest
import torch
import torch.nn.functional as F

from bench import sinkhorn as bench_sinkhorn
from models.kernels import support
from models.objectives import SwappedClusterPrediction
from models.sinkhorn.balance import sinkhorn_codes
from models.sinkhorn.prototype_loss import prototype_cross_entropy


def rows(number, seed):
    return F.normalize(torch.randn(number, 24, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_quick_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_sinkhorn, "QUICK", bench_sinkhorn.Scale(tokens=50, prototypes=20, rounds=1))
    bench_sinkhorn.main(["--quick", "--clips", "1", "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"date", "processor", "device", "torch", "python"} <= set(report["facts"])
    assert all(row["milliseconds"] >= 0 and row["ratio"] > 0 and row["megabytes"] > 0 for row in report["rows"])
    assert {row["equal_codes"] for row in report["rows"] if "codes" in row["what"]} == {1.0}
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(report["rows"])


@pytest.mark.slow
def test_where_kernels_run_they_are_measured_too(tmp_path, monkeypatch):
    """In Triton's interpreter, as on a GPU: the passes by themselves, and the loss from stored float16 scores."""
    pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")
    monkeypatch.setattr(support, "DEVICE_TYPES", ("cpu",))
    monkeypatch.setattr("models.kernels.sinkhorn.num_programs", lambda *sizes, leave_room: 2)
    monkeypatch.setattr(bench_sinkhorn, "QUICK", bench_sinkhorn.Scale(tokens=3, prototypes=9, rounds=1))
    monkeypatch.setattr(bench_sinkhorn, "WIDTHS", {"tiny": 8})
    bench_sinkhorn.main(["--quick", "--clips", "1", "--json", str(tmp_path / "report.json")])
    rows = [(row["what"], row["implementation"]) for row in json.loads((tmp_path / "report.json").read_text())["rows"]]
    forms = [name for what, name in rows if what == "a pass: marginals"]
    assert forms[0] == "plain torch" and len(forms) == 5
    assert ("a pass: codes", "kernel, 8 warps") in rows
    assert ("cross-entropy, tiny", "ours, with Sinkhorn's scores") in rows


def test_baselines_compute_the_same():
    scores = rows(200, 0) @ rows(30, 1).T
    ours = sinkhorn_codes(scores, epsilon=0.05, num_iters=bench_sinkhorn.ITERATIONS)
    assert torch.equal(bench_sinkhorn.plan_codes(scores, 0.05), ours)
    assert torch.equal(bench_sinkhorn.rescaled_codes(scores, 0.05), ours)
    loss = prototype_cross_entropy(rows(200, 0), rows(30, 1), ours, temperature=bench_sinkhorn.TEMPERATURE)
    torch.testing.assert_close(bench_sinkhorn.permuted_cross_entropy(rows(200, 0), rows(30, 1), ours, tokens=50), loss)


def test_baseline_of_the_objective_gives_the_same_gradients():
    def leaves():
        return [rows(number, seed).requires_grad_() for seed, number in ((0, 200), (1, 200), (2, 30))]

    *branches, prototypes = theirs = leaves()
    bench_sinkhorn.released_objective(branches, prototypes, tokens=50)
    video, target, weights = ours = leaves()
    SwappedClusterPrediction()(video.unflatten(0, (4, 50)), target.unflatten(0, (4, 50)), weights)["loss"].backward()
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)
