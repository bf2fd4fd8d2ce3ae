"""The study's jobs: every command parses, each needs what is made before it, and the table is that of the results."""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict

import pytest
from processes import ROOT

from datasets.errors import AnnotationError
from engine.errors import ConfigError
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
            frozen = ARMS[job.name.split("/")[0]].frozen
            held = config.targets.freeze_projection_epochs
            assert (held > 0) == (frozen > 0) and abs(held - frozen * settings.pretrain_epochs) <= 0.5
            assert config.optim.lr * config.optim.batch_size / 256 == pytest.approx(5e-4)
        elif not job.name.startswith("scratch"):
            assert config.start.finetune == str(seen[job.after[0]])
        seen[job.name] = job.result
    replicated = sum(arm.replicated for arm in ARMS.values())
    tests = len(TESTS) + len(OF_OTHERS)
    assert len(jobs) == 2 * (tests + replicated * (1 + tests)) + (len(ARMS) - replicated) * (1 + tests)


def test_arms_differ_in_what_they_are_called_by(tmp_path):
    flags = {name: arm.flags for name, arm in ARMS.items()}
    assert len({(arm.flags, arm.frozen) for arm in ARMS.values()}) == len(flags)
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


def write_lists(folder, **lists):
    """SET_PART.csv with two real files for each, and these labels."""
    folder.mkdir(exist_ok=True)
    for name, labels in lists.items():
        rows = []
        for i, label in enumerate(labels):
            (folder / f"{name}{i}.mp4").write_bytes(b"video")
            rows.append(f"{name}{i}.mp4 {label}\n")
        (folder / f"{name}.csv").write_text("".join(rows))
    return folder


def begun(tmp_path, folder, *, sets=("a",), settings=SMOKE, root=""):
    """A study's lists, written."""
    study = Study(tmp_path / "out", settings, targets=sets[:1], seeds=1)
    command._write_lists(study, folder, sets, root=root)
    return study


def rows_of(file):
    return [line.rsplit(" ", 1) for line in file.read_text().splitlines()]


def test_lists_have_absolute_paths_and_one_numbering_of_names(tmp_path, monkeypatch):
    folder = write_lists(tmp_path / "lists", a_train=("cat", "dog", "fox"), a_val=("fox", "dog"))
    monkeypatch.chdir(tmp_path)
    study = begun(tmp_path, folder, root="lists")
    train, test = (rows_of(study.lists("a") / f"{part}.csv") for part in ("train", "test"))
    assert [label for _, label in train] == ["0", "1", "2"] and [label for _, label in test] == ["2", "1"]
    assert [path for path, _ in train] == [str(folder / f"a_train{i}.mp4") for i in range(3)]
    assert study.pretrain_list.read_text().split() == [path for path, _ in train]


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (("0", "1"), ("cat", "dog"), "one names its classes and the other numbers them"),
        (("cat", "dog"), ("cat", "cow"), "cow"),
        (("", ""), ("0", "1"), "label"),
    ],
)
def test_labels_that_are_refused(train, val, words, tmp_path):
    folder = write_lists(tmp_path / "lists", a_train=train, a_val=val)
    with pytest.raises((ConfigError, AnnotationError), match=words):
        begun(tmp_path, folder)


def test_missing_videos_are_refused_before_anything_runs(tmp_path):
    folder = write_lists(tmp_path / "lists", a_train=("0", "1"), a_val=("0", "1"))
    (folder / "a_val1.mp4").unlink()
    with pytest.raises(ConfigError, match=r"1 of 2 videos do not exist, for example .*a_val1\.mp4"):
        begun(tmp_path, folder)


def test_a_folder_has_the_results_of_one_study(tmp_path):
    folder = write_lists(tmp_path / "lists", a_train=("0", "1"), a_val=("0", "1"), b_train=("0", "1"), b_val=("1", "0"))
    study = begun(tmp_path, folder)
    begun(tmp_path, folder)
    with pytest.raises(ConfigError, match="another study; choose another --out"):
        begun(tmp_path, folder, sets=("a", "b"))
    command._keep(study.out / "settings.json", json.dumps(asdict(SMOKE)))
    with pytest.raises(ConfigError, match="another study"):
        command._keep(study.out / "settings.json", json.dumps(asdict(OWN)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "a whole number, at least 1"),
        (["--jobs", "0"], "a whole number, at least 1"),
        (["--data", "videos"], "--lists FOLDER"),
        (["--lists", "l", "--sets", "a,a"], "each once"),
        (["--arms", "sigma,sigma"], "each once"),
        (["--arms", "sigma-video"], "needs the arm videomae"),
    ],
)
def test_options_that_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command._arguments(["--out", "out", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


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
    again = subprocess.run([*command, "--steps", "80", "--stops", "2"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout == done.stdout, again.stderr


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
