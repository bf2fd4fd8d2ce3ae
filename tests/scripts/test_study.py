"""The study's jobs: every command parses, each needs what is made before it, and the table is that of the results."""

import json
import statistics
import subprocess
import sys

import pytest
from processes import ROOT

from engine.flags import parse
from programs.finetuning.options import FinetuningConfig
from programs.pretraining.options import PretrainingConfig
from programs.probing.options import ProbingConfig
from scripts.study import study as command
from scripts.study.curves import _sums, draw_curves
from scripts.study.plan import ARMS, OF_OTHERS, TESTS, Job, Study
from scripts.study.settings import GENERATED, OWN, SMOKE
from scripts.study.table import score, write_tables

CONFIGS = {
    "run_sigma_pretraining.py": PretrainingConfig,
    "run_class_finetuning.py": FinetuningConfig,
    "run_probing.py": ProbingConfig,
}


@pytest.mark.parametrize("settings", [OWN, GENERATED, SMOKE], ids=["own", "generated", "smoke"])
def test_every_command_parses_and_needs_what_is_made_before_it(settings, tmp_path):
    jobs = Study(tmp_path, settings, targets=("a", "b"), seeds=2).jobs()
    seen = {}
    for job in jobs:
        config = parse(CONFIGS[job.command[1]], list(job.command[2:]))
        assert job.name not in seen and {*job.after} <= seen.keys()
        if isinstance(config, PretrainingConfig):
            assert config.probe.probe_data == str(tmp_path / "lists" / "a")
            seed = job.name.split("/")[1]
            assert config.targets.teacher in ("", str(seen.get(f"videomae/{seed}/pretrain")))
            assert config.optim.lr * config.optim.batch_size / 256 == pytest.approx(5e-4)
        elif not job.name.startswith("scratch"):
            assert config.start.finetune == str(seen[job.after[0]])
        seen[job.name] = job.result
    replicated = sum(arm.replicated for arm in ARMS.values())
    tests = len(TESTS) + len(OF_OTHERS)
    assert len(jobs) == 2 * (tests + replicated * (1 + tests)) + (len(ARMS) - replicated) * (1 + tests)


def test_arms_differ_in_what_they_are_called_by(tmp_path):
    flags = {name: arm.flags for name, arm in ARMS.items()}
    assert len({*flags.values()}) == len(flags)
    assert "0.02" in flags["epsilon-0.02"] and "soft" in flags["soft"] and "L2" in flags["l2"]


def test_what_needs_a_job_that_failed_is_left_out(tmp_path, monkeypatch):
    study = Study(tmp_path, SMOKE, targets=("own",), seeds=1, arms=("videomae", "sigma-video"))
    asked = []

    def run(job: Job, study: Study) -> int:
        asked.append(job.name)
        return int(job.name == "sigma-video/0/pretrain")

    monkeypatch.setattr(command, "_run", run)
    failed = command.run(study, num_processes=2)
    assert sorted(failed) == sorted(
        f"sigma-video/0/{step}" for step in ("pretrain", *(f"own/{test}" for test in TESTS))
    )
    assert (
        "sigma-video/0/pretrain" in asked
        and "sigma-video/0/own/knn" not in asked
        and "videomae/0/own/finetune" in asked
    )


def test_curves_are_of_what_was_logged(tmp_path):
    study = Study(tmp_path, SMOKE, targets=("own",), seeds=1, arms=("videomae", "sigma"))
    draw_curves(study)
    assert not (tmp_path / "curves.png").exists()
    folder = tmp_path / "sigma" / "0" / "pretrain"
    folder.mkdir(parents=True)
    keys = [f"train/{what}_{branch}" for what in ("loss", "entropy", "information") for branch in ("video", "target")]
    keys = [key.replace("loss_video", "video_loss").replace("loss_target", "target_loss") for key in keys]
    rows = [{"step": step, **dict.fromkeys(keys, step / 2), "probe/rankme": 3.0} for step in (10, 20)]
    (folder / "log.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(study)
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert _sums(rows, *keys[:2]) == [(10, 10.0), (20, 20.0)] and _sums(rows, "probe/linear") == []


@pytest.mark.long
def test_a_run_that_is_stopped_equals_one_that_is_not(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    sizes = ["--num_pretrain", "16", "--num_train", "10", "--num_test", "10"]
    subprocess.run([sys.executable, "scripts/demo_videos.py", videos, *sizes], cwd=ROOT, check=True)
    command = [sys.executable, "scripts/study/stability.py", out, "--videos", videos]
    refused = subprocess.run([*command, "--steps", "81"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "must be a multiple of an epoch, 8 steps" in refused.stderr
    done = subprocess.run([*command, "--steps", "80", "--stops", "2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal to the bit") == 2 and (out / "stability.png").is_file()
    assert "resumed from" in (out / "stopped" / "console.log").read_text()


def test_table(tmp_path):
    study = Study(tmp_path, SMOKE, targets=("own",), seeds=3, arms=("videomae",))
    values = [40.0, 43.0, 50.0]
    for seed, value in enumerate(values):
        tested = tmp_path / "videomae" / str(seed) / "own"
        (tested / "finetune").mkdir(parents=True)
        (tested / "finetune" / "test.json").write_text(json.dumps({"test/top1": value, "test/top5": 99.0}))
    write_tables(study)
    assert score(study, "videomae", 1, "own", "finetune") == 43.0
    assert score(study, "videomae", 1, "own", "knn") is None
    spread = statistics.stdev(values)
    assert f"| VideoMAE |  |  |  | 44.3 ± {spread:.1f} | 3 |" in (tmp_path / "tables.md").read_text()
