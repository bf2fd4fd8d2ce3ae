"""`--dry_run`: everything once, and nothing left behind."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_in_processes, run_script, script_target

from engine import dry_run
from engine.checkpointing.checkpoint import Checkpointer
from engine.distributed.world import World
from engine.dry_run import num_checkpoints


def content(folder):
    """Every file and folder below `folder`, with bytes and time of change."""
    return {
        path.relative_to(folder): (path.is_file() and path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
    }


def check_table(text, *, ranks, evaluated=(), checkpoints=1, steps=3, made=3):
    """The table is complete, and stands last; the steps above it are those of the dry run."""
    assert re.findall(r"step (\d+/\d+) ", text) == [f"{number}/{steps}" for number in range(1, made + 1)]
    table = text.split("dry run\n")[1]
    assert re.search(r"time per step +\d+\.\d{3} s \(data \d+\.\d{3}\), \d+\.\d clips/s\n", table)
    assert re.search(r"checkpoint +0\.0\d\d GiB, saved in \d+\.\d\d s, loaded in \d+\.\d\d s\n", table)
    assert re.search(rf"disk for checkpoints +{checkpoints} x = \d+\.\d\d GiB; \d+\.\d GiB are free\n", table)
    parts = "".join(rf", {name} \d+:\d\d:\d\d" for name in evaluated)
    assert re.search(rf"time of the run +about \d+:\d\d:\d\d \(training \d+:\d\d:\d\d{parts}\)\n", table)
    assert re.findall(r"memory of rank (\d) +\d+\.\d\d GiB of host memory\n", table) == list(map(str, range(ranks)))


@pytest.mark.parametrize(
    ("script", "size"),
    [
        (PRETRAIN, 1),
        pytest.param(PRETRAIN, 2, marks=pytest.mark.slow),
        pytest.param(FINETUNE, 1, marks=pytest.mark.slow),
        (FINETUNE, 2),
    ],
)
def test_a_dry_run_leaves_nothing(script, size, data, pretrained, finetuned, tmp_path):
    """Where there was nothing, and beside a run that was there, which it neither resumes nor changes."""
    shutil.copytree(pretrained if script == PRETRAIN else finetuned, tmp_path / "old")
    before = content(tmp_path)
    for folder in ("old", "new/deep")[: 1 if (script, size) == (FINETUNE, 2) else 2]:
        changes = {"log_dir": tmp_path / "events", "epochs": 5, "save_ckpt_freq": 2, "batch_size": 4 // size}
        finished = run_script(script, *data.flags(script, tmp_path / folder, **changes), "--dry_run", size=size)
        main, *others = finished if size > 1 else [finished]
        assert main.code == 0, main.stderr
        evaluated = ("val", "test") if script == FINETUNE else ()
        check_table(main.stderr, ranks=size, evaluated=evaluated, checkpoints=3 + 3 * bool(evaluated))
        assert "resumed" not in main.stderr
        assert all(other.code == 0 and other.stderr == "" for other in others)
    found = content(tmp_path)
    assert found.keys() == before.keys()
    assert {path: what[0] for path, what in found.items()} == {path: what[0] for path, what in before.items()}
    assert all(
        found[path] == before[path] for path in found if path != Path("old")
    )  # a folder was made and removed there


@pytest.mark.slow
def test_one_step_is_enough_where_it_is_slow(data, tmp_path):
    """On a CPU a large model takes minutes for three; one rank that finds it slow decides for all."""
    script = script_target(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "a", batch_size=2), "--dry_run")

    def slow_on_one_rank():
        dry_run.SLOW_STEP = 0.0 if os.environ["RANK"] == "1" else 1e9
        script()

    main, other = run_in_processes(slow_on_one_rank, size=2)
    assert main.code == other.code == 0, main.stderr + other.stderr
    check_table(main.stderr, ranks=2, made=1)


def test_a_run_without_an_output_folder(data, tmp_path):
    """One step of training in all, of which the dry run makes three."""
    flags = data.flags(PRETRAIN, update_freq=3, epochs=1, warmup_epochs=0, log_dir=tmp_path / "events")
    finished = run_script(PRETRAIN, *flags, "--dry_run", cwd=tmp_path)
    assert finished.code == 0, finished.stderr
    assert "checkpoints       none: no --output_dir" in finished.stderr
    assert re.findall(r"step (\d+/\d+) ", finished.stderr) == ["1/3", "2/3", "3/3"]
    assert re.search(r"  steps +1 = 1 epochs x 1", finished.stderr)
    assert list(tmp_path.iterdir()) == []


def test_of_a_test(data, finetuned, tmp_path):
    """`--eval`: the weights are loaded and a batch is tested; nothing is written."""
    flags = data.flags(FINETUNE, tmp_path / "test", finetune=finetuned / "checkpoint-0.pth")
    finished = run_script(FINETUNE, *flags, "--eval", "--dry_run")
    assert finished.code == 0, finished.stderr
    assert re.search(r"time of the run +about \d:\d\d:\d\d \(test \d:\d\d:\d\d\)\n", finished.stderr)
    assert "top-1" not in finished.stderr and not (tmp_path / "test").exists()


def test_resumes_what_it_is_told_to(data, pretrained, tmp_path):
    """The rest of the run is estimated; a file that does not fit is refused, as it would be by the run."""
    file = pretrained / "checkpoint-0.pth"
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "b", epochs=3, resume=file), "--dry_run")
    assert finished.code == 0 and f"resumed from {file}" in finished.stderr, finished.stderr
    check_table(finished.stderr, ranks=1)
    finished = run_script(
        PRETRAIN, *data.flags(PRETRAIN, tmp_path / "b", epochs=3, resume=file, num_prototypes=13), "--dry_run"
    )
    assert finished.code == 2 and "does not fit this model" in finished.errors[0]
    assert not (tmp_path / "b").exists()


def test_not_finite_from_the_start(data, tmp_path):
    """Weights so large that no loss is finite."""
    flags = data.flags(PRETRAIN, tmp_path / "a", init_values=1e38, warmup_epochs=0, target_type="pixel")
    finished = run_script(PRETRAIN, *flags, "--dry_run")
    assert finished.code == 2 and "step 1: the loss of rank 0 is not finite" in finished.errors[0]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("script", "epochs", "every", "steps"), [(PRETRAIN, 3, 2, 2), (PRETRAIN, 4, 2, 0), (FINETUNE, 3, 2, 0)]
)
def test_number_of_checkpoints(script, epochs, every, steps, data, tmp_path):
    """As many as a run of that length leaves."""
    one_view = {"test_num_segment": 1, "test_num_crop": 1} if script == FINETUNE else {}
    changes = {"batch_size": 4 if steps else 8 if script == FINETUNE else 12, **one_view}
    flags = data.flags(script, tmp_path, epochs=epochs, save_ckpt_freq=every, save_ckpt_steps=steps, **changes)
    assert run_script(script, *flags).code == 0
    files = {path.stat().st_ino for path in tmp_path.glob("checkpoint-*.pth")}  # the best may be another's second name
    validates = script == FINETUNE
    saver = Checkpointer(str(tmp_path), every, World(0, 1, 0, torch.device("cpu")), {}, {}, steps)
    assert 0 <= num_checkpoints(saver, epochs, validates=validates) - len(files) <= validates


def test_profile_is_refused_beside_it(data, tmp_path):
    for flags in (["--profile", "2", "--dry_run"], ["--profile", "2", "--output_dir", ""]):
        finished = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path / "x"), *flags)
        assert finished.code == 2 and "--profile 2" in finished.errors[0]
    assert torch.cuda.is_available() or not (tmp_path / "x").exists()
