"""bench/loader.py: it runs, "before" makes the same batches, and steps on the loader's are compared with synthetic."""

import dataclasses
import json
import sys

import pytest
import torch
from processes import ROOT, fresh
from videos import write_video

from bench import loader as bench_loader
from bench.common import Cell
from datasets.loading.batch import collate


@pytest.mark.parametrize("repeats", [None, 2])
def test_the_collation_of_before_makes_the_same_batch(repeats):
    dataset = bench_loader.ReadyClips(8, repeats, Cell("pixel", "mini", quick=True))
    items = [dataset[index] for index in range(3)]
    before, now = bench_loader.collate_twice(items), collate(items)
    assert before.clip.is_shared() and not now.clip.is_shared()
    for field in dataclasses.fields(now):
        old, new = getattr(before, field.name), getattr(now, field.name)
        assert torch.equal(old, new) if isinstance(new, torch.Tensor) else old == new, field.name


@pytest.mark.slow
def test_handing_over(tmp_path, capsys):
    bench_loader.main(["--quick", "--json", str(tmp_path / "report.json")])
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert len(rows) == 6
    for row in rows:
        assert row["worker, ms / clip"] >= row["collation, ms / clip"] > 0 and row["wall, ms / clip"] > 0
    assert capsys.readouterr().out.count("used again") == 2


def check_rows(rows, cell, samples):
    synthetic, fed = rows
    assert [row["source"] for row in rows] == ["synthetic", "loader"]
    assert all(row["cell"] == cell and row["samples"] == samples for row in rows)
    assert synthetic["of synthetic"] == 1
    assert fed["of synthetic"] == pytest.approx(fed["clips / s"] / synthetic["clips / s"])


_BLOCKED = """
import sys
for name in ("av", "decord", "torchcodec", "deepspeed"):
    sys.modules[name] = None
from bench import loader
loader.main(sys.argv[1:])
"""


@pytest.mark.long
def test_end_to_end_without_decoders(tmp_path):
    flags = ("--end_to_end", "--quick", "--device", "cpu", "--tasks", "pixel")
    finished = fresh(sys.executable, "-c", _BLOCKED, *flags, "--json", str(tmp_path / "report.json"), cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    check_rows(json.loads((tmp_path / "report.json").read_text())["rows"], "pixel ViT-mini", "random frames")


@pytest.mark.slow
def test_end_to_end_with_videos(tmp_path):
    videos = [write_video(tmp_path / f"{number}.mp4", 24, width=48, height=48, gop=4) for number in range(4)]
    (tmp_path / "list.csv").write_text("".join(f"{video} 0\n" for video in videos))
    flags = [
        "--end_to_end",
        "--quick",
        "--device",
        "cpu",
        "--tasks",
        "finetune",
        "--videos",
        str(tmp_path / "list.csv"),
    ]
    bench_loader.main([*flags, "--json", str(tmp_path / "report.json")])
    check_rows(json.loads((tmp_path / "report.json").read_text())["rows"], "finetune ViT-mini", "videos")
