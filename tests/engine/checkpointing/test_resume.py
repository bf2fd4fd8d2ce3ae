"""An interrupted and resumed run equals an uninterrupted one bit for bit, through the entry scripts."""

import shutil

import pytest
from processes import FINETUNE, PRETRAIN, run_script
from runs import load, records, same, series

STATE = ("model", "optimizer", "scaler", "epoch", "step", "best", "rng")
CHANGES = {
    PRETRAIN: {"drop_path": 0.5},
    FINETUNE: {"drop_path": 0.5, "fc_drop_rate": 0.5, "num_sample": 2, "batch_size": 2},  # mixup and erasing are on
}
PROBING = {"linear_probing": True, "random_encoder": True, "opt": "sgd", "lr": 1}
TIMES = ("step_time", "data_time", "clips_per_second", "tflops", "mfu", "memory_gib")


def without_times(folder):
    return [{k: v for k, v in record.items() if not k.endswith(TIMES)} for record in records(folder)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((PRETRAIN, 1, {}), id="pretrain"),
        pytest.param((FINETUNE, 1, {}), id="finetune"),
        pytest.param((FINETUNE, 2, {}), id="finetune on 2 ranks", marks=pytest.mark.slow),
        pytest.param((FINETUNE, 1, PROBING), id="probe", marks=pytest.mark.slow),
    ],
)
def runs(request, data, tmp_path_factory):
    """Ranks, `run(folder, **changes)`, and the folder of a run of two epochs with a checkpoint of each."""
    script, size, more = request.param
    straight = tmp_path_factory.mktemp("resume") / "straight"

    def run(folder, **changes):
        flags = {**CHANGES[script], **more, "save_ckpt_freq": 1, "log_dir": folder / "events", **changes}
        finished = run_script(script, *data.flags(script, folder, **flags), size=size)
        finished = finished if size > 1 else [finished]
        assert [f.code for f in finished] == [0] * size, finished[0].stderr
        return finished[0]

    run(straight)
    assert {p.name for p in straight.glob("*.pth") if "-step" not in p.name} >= {"checkpoint-0.pth", "checkpoint-1.pth"}
    return size, run, straight


@pytest.fixture(scope="module")
def resumed(runs, tmp_path_factory):
    """A copy of the straight run without what came after an epoch, as if killed just before saving it; run again."""
    _, run, straight = runs
    folder = tmp_path_factory.mktemp("resume") / "resumed"
    shutil.copytree(straight, folder)
    for later in folder.glob("checkpoint-1*"):
        later.unlink()
    with (folder / "log.txt").open("a") as log:
        log.write('{"step": 99, "train/lo')  # killed in the middle of a line
    return folder, run(folder)


def test_final_state_is_the_same_bit_for_bit(runs, resumed):
    size, _, straight = runs
    a, b = (load(folder / "checkpoint-1.pth") for folder in (straight, resumed[0]))
    for key in STATE:
        assert same(a[key], b[key]), key
    assert len(a["rng"]) == size
    assert not same(a["model"], load(straight / "checkpoint-0.pth")["model"])


def test_log_is_that_of_the_straight_run(runs, resumed):
    _, _, straight = runs
    assert without_times(resumed[0]) == without_times(straight)
    steps = series(resumed[0], "step")[:, 0].tolist()
    assert steps == sorted(set(steps)) and len(steps) >= 4


def test_resuming_is_said(resumed):
    assert "resumed from" in resumed[1].stderr and "checkpoint-0.pth: 1 epochs" in resumed[1].stderr
    assert "other options" not in resumed[1].stderr and "another list" not in resumed[1].stderr


def test_a_finished_run_is_not_trained_again(runs, resumed):
    _, run, straight = runs
    before = (straight / "checkpoint-1.pth").read_bytes()
    finished = run(straight)
    assert "finished already" in finished.stderr and "plan" not in finished.stderr
    assert (straight / "checkpoint-1.pth").read_bytes() == before
    assert without_times(straight) == without_times(resumed[0])


@pytest.fixture(scope="module")
def two_epochs(data, tmp_path_factory):
    """The folder of a pre-training of two epochs with a checkpoint of each. Tests copy it."""
    folder = tmp_path_factory.mktemp("two") / "epochs"
    assert run_script(PRETRAIN, *data.flags(PRETRAIN, folder, save_ckpt_freq=1)).code == 0
    assert sorted(path.name for path in folder.glob("*.pth")) == ["checkpoint-0.pth", "checkpoint-1.pth"]
    return folder


def test_damaged_checkpoint_is_passed_over_and_explicit_one_is_refused(data, two_epochs, tmp_path):
    shutil.copytree(two_epochs, tmp_path, dirs_exist_ok=True)
    flags = data.flags(PRETRAIN, tmp_path, save_ckpt_freq=1)
    whole = load(tmp_path / "checkpoint-1.pth")
    last = tmp_path / "checkpoint-1.pth"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    refused = run_script(PRETRAIN, *flags, "--resume", last)
    assert refused.code == 2 and len(refused.errors) == 1 and str(last) in refused.errors[0]
    finished = run_script(PRETRAIN, *flags)
    assert finished.code == 0
    assert "cut off; trying the one before" in finished.stderr and "checkpoint-0.pth: 1 epochs" in finished.stderr
    assert all(same(load(last)[key], whole[key]) for key in STATE)


@pytest.mark.slow
def test_workers_change_nothing(data, tmp_path):
    for workers in (0, 2):
        flags = data.flags(FINETUNE, tmp_path / str(workers), num_workers=workers, epochs=2)
        assert run_script(FINETUNE, *flags).code == 0
    a, b = (load(tmp_path / name / "checkpoint-1.pth") for name in ("0", "2"))
    assert all(same(a[key], b[key]) for key in STATE)


def test_starting_anew_among_the_checkpoints_of_another_run_is_refused(data, two_epochs, tmp_path):
    shutil.copytree(two_epochs, tmp_path, dirs_exist_ok=True)
    flags = data.flags(PRETRAIN, tmp_path)
    before = (tmp_path / "log.txt").read_text()
    again = run_script(PRETRAIN, *flags, "--no_auto_resume")
    assert again.code == 2 and "--no_auto_resume" in again.errors[0] and "checkpoint-1.pth" in again.errors[0]
    assert (tmp_path / "log.txt").read_text() == before


def test_checkpoint_of_another_run_is_refused(data, two_epochs, tmp_path):
    pretrained = shutil.copytree(two_epochs, tmp_path / "pretrained")
    for changes in ({"resume": pretrained / "checkpoint-1.pth"}, {"output_dir": pretrained}):
        finished = run_script(FINETUNE, *data.flags(FINETUNE, **{"output_dir": tmp_path / "other", **changes}))
        assert finished.code == 2 and "Traceback" not in finished.stderr
        assert len(finished.errors) == 1 and "made with model pretrain" in finished.errors[0]
        assert finished.stderr.splitlines()[-1] == finished.errors[0]


def test_a_command_that_was_started_again_goes_on_from_its_own_file(data, two_epochs, tmp_path, monkeypatch):
    """`--resume` tells where to begin; after a requeue the run has newer files of its own."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(two_epochs, folder)
    (second / "checkpoint-0.pth").unlink()
    flags = data.flags(PRETRAIN, second, resume=first / "checkpoint-0.pth", save_ckpt_freq=1, epochs=3)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert "second/checkpoint-1.pth: 2 epochs" in run_script(PRETRAIN, *flags).stderr
    (second / "checkpoint-2.pth").unlink()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert "first/checkpoint-0.pth: 1 epochs" in run_script(PRETRAIN, *flags).stderr
