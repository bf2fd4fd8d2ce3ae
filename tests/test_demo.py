"""The demo: what it shows of its stages, what it keeps, and that it goes on where it was cut off."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import ROOT

from datasets.synthetic import generate
from datasets.transforms.normalization import normalize_clips
from models import create_model
from models.tokens import gather_tokens, patchify
from scripts import demo, demo_pictures, demo_videos, figures
from scripts.demo_progress import Screen, StageError, Work, run_stage
from scripts.demo_stages import PRESETS, Demo

TITLE = "[1/7] counting"
COUNT = 'for i in 3 4 5; do echo "epoch 0  step $i/5  loss 1.0"; sleep 0.3; done'
# The smoke path with less of everything, and with epochs enough to be cut off between two of them.
TINY = """
import runpy, sys
sys.path.insert(0, ".")
from scripts import demo_stages
demo_stages.PRESETS["smoke"] = demo_stages.Preset(64, 64, 10, 30, 1, 64, (50, 100), "seconds", 50)
runpy.run_path("scripts/demo.py", run_name="__main__")
"""


def stage(stream, folder, script=COUNT):
    """Run a shell script as a stage."""
    work = Work(["bash", "-c", script], r"step (\d+)/(\d+) ", "step", 5, "testing")
    screen = Screen(stream, folder / "demo.log")
    run_stage(screen, TITLE, work, log=folder / "stage.log", cwd=folder, environment=os.environ)


def demo_process(folder, *program):
    command = [sys.executable, *(program or ("-c", TINY)), "--smoke", "--output_dir", str(folder)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **streams)


def test_plain_lines_in_a_file(tmp_path):
    with (tmp_path / "screen").open("w") as stream:
        stage(stream, tmp_path)
    assert (tmp_path / "screen").read_text() == f"{TITLE}  started\n"
    assert (tmp_path / "stage.log").read_text().count("loss 1.0") == 3
    assert f"{TITLE}  started" in (tmp_path / "demo.log").read_text()


def test_plain_lines_say_rate_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.demo_progress.PLAIN_EVERY", 0.0)
    with (tmp_path / "screen").open("w") as stream:
        stage(stream, tmp_path)
    lines = (tmp_path / "screen").read_text().splitlines()
    assert any(line.startswith(f"{TITLE}  4/5 steps, ") and line.endswith(" left") for line in lines), lines
    assert lines[-1] == f"{TITLE}  5/5 steps, testing"


def test_a_bar_on_a_terminal(tmp_path):
    """It moves, has a rate and a time left, and is gone when the stage ends."""
    ours, theirs = pty.openpty()
    shown = b""
    with os.fdopen(theirs, "w") as stream:
        stage(stream, tmp_path)
        print("end", file=stream, flush=True)
        while not shown.endswith(b"end\r\n"):
            shown += os.read(ours, 65536)
    os.close(ours)
    bars = shown.decode().removesuffix("end\r\n").split("\r")
    assert any("| 4/5 [00:0" in bar and "step/s" in bar for bar in bars), bars
    assert any(bar.startswith(f"{TITLE}, testing") for bar in bars)
    assert not bars[-1].strip() and not bars[-2].strip()
    assert "/5 [" not in (tmp_path / "demo.log").read_text()


def test_a_failed_stage_shows_the_end_of_its_log(tmp_path):
    (tmp_path / "stage.log").write_text("of an earlier call\n" * 50)
    with (tmp_path / "screen").open("w") as stream, pytest.raises(StageError) as failure:
        stage(stream, tmp_path, "echo error: no such thing; exit 3")
    text = str(failure.value)
    assert "exit code 3" in text and str(tmp_path / "stage.log") in text
    assert text.endswith("\n  error: no such thing")
    assert text.count("of an earlier call") < 20


def test_an_interrupted_stage_may_save_and_leaves_no_process(tmp_path):
    script = """trap 'echo saved; exit 75' TERM; sleep 77777 & echo "step 1/5 "; wait"""

    class Impatient(Screen):
        def note(self, text):
            signal.setitimer(signal.ITIMER_REAL, 1.0)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        work = Work(["bash", "-c", script], r"step (\d+)/(\d+) ", "step", 5)
        with (tmp_path / "screen").open("w") as stream, pytest.raises(KeyboardInterrupt):
            screen = Impatient(stream, tmp_path / "demo.log")
            run_stage(screen, TITLE, work, log=tmp_path / "log", cwd=tmp_path, environment=os.environ)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "log").read_text().endswith("saved\n")
    assert subprocess.run(["pgrep", "-f", "sleep 77777"], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "sigma"], "unrecognized arguments: --methods sigma"),
        (["--method", "mae"], "argument --method: invalid choice: 'mae'"),
        (["--seed", "-1"], "'-1' is not a whole number from 0"),
        (["--output_dir", "/dev/null/demo"], "/dev/null/demo"),
    ],
)
def test_user_errors_are_one_line(flags, message):
    finished = subprocess.run(
        [sys.executable, "scripts/demo.py", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode in (1, 2) and not finished.stdout
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert message in finished.stderr


def test_a_full_disk_is_seen_before_any_work(tmp_path, monkeypatch):
    made = Demo(base=tmp_path, method="sigma", preset="smoke", seed=0)
    demo.check_room(made)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**7))
    with pytest.raises(OSError, match="10 MB are free, the demo needs 100"):
        demo.check_room(made)


@pytest.mark.long
def test_a_demo_that_was_cut_off(tmp_path):
    """The second call resumes pre-training, the third has nothing to train; little is left on the disk."""
    run = tmp_path / "sigma-smoke-seed0"
    log = run / "pretrain.log"
    process = demo_process(tmp_path)
    while process.poll() is None and not (log.exists() and re.search(r"epoch [2-9]  step", log.read_text())):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    assert process.returncode == 130 and stderr == "interrupted; the same command resumes from here\n", stdout + stderr
    before = log.read_text()
    assert "epoch 29  " not in before

    process = demo_process(tmp_path)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    assert "\r" not in stdout and "loss" not in stdout.replace("losses", "")
    assert stdout.count("  started\n") == stdout.count("  done in ") == 7
    resumed = log.read_text()[len(before) :]
    assert "epoch 0  " not in resumed and "epoch 29  " in resumed
    for name, what in demo.PICTURES.items():
        shown = f"{run / name}" in stdout
        assert shown == (run / name).exists() == (name != "reconstructions.png"), what
    assert (run / "results.md").read_text() in stdout
    checkpoints = sorted(str(path.relative_to(run)) for path in run.rglob("checkpoint-*"))
    kinds = [f"finetune-{percent}-{start}" for percent in (50, 100) for start in ("pretrained", "scratch")]
    assert checkpoints == sorted([*(f"{kind}/checkpoint-0.pth" for kind in kinds), "pretrain/checkpoint-29.pth"])
    assert demo.megabytes(tmp_path) < 60 and f"{demo.megabytes(tmp_path)} MB in {tmp_path}" in stdout

    process = demo_process(tmp_path)
    stdout, _ = process.communicate()
    assert process.returncode == 0 and stdout.count("done before") == 5


def test_presets_fit_what_is_said_of_the_disk():
    """Videos of 46 kB, and the checkpoints of a stage before its earlier ones are removed, beside the others'."""
    for preset in PRESETS.values():
        videos = preset.num_pretrain + preset.num_train + 2 * preset.num_test
        others = 2 * len(preset.percents) - 1
        checkpoints = max(14 * preset.pretrain_epochs, 14 + 10.5 * (others + preset.finetune_epochs))
        assert 0.046 * videos + checkpoints < preset.peak_megabytes


@pytest.mark.parametrize("dark", [False, True])
def test_visible_tubelets_are_drawn_as_they_are(dark):
    style = figures.DARK if dark else figures.LIGHT
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = np.zeros((32, 32), bool)
    seen[:16] = True
    drawn, plain = figures.fade(frame, seen, style), figures.enlarge(frame)
    half = figures.FRAME // 2
    assert (drawn[:half] == plain[:half]).all()
    assert drawn[half:].astype(int).std() < 0.5 * plain[half:].std()


@torch.no_grad()
def make_samples(**options):
    """What a model that has learned nothing makes of 20 random clips of 2 classes."""
    model = create_model(
        "pretrain_videomae_mini_patch8_32", img_size=32, num_frames=8, decoder_depth=1, **options
    ).eval()
    draw = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (20, 8, 3, 32, 32), generator=draw, dtype=torch.uint8)
    masks = (torch.rand(20, 1, 16, generator=draw).argsort(-1) < 12).expand(20, 4, 16).flatten(1)
    out = model(normalize_clips(clips), masks)
    return demo_pictures.Samples(model, clips, masks, ["up", "down"] * 10, out)


def test_masked_tubelets_are_put_where_they_belong():
    """A perfect prediction gives the clip back; another changes all of the masked tubelets and nothing else."""
    samples = make_samples(target_type="pixel", loss_func="L2")
    clips = samples.clips.transpose(1, 2).float() / 255
    true = gather_tokens(patchify(clips, samples.model.encoder.tubelet), samples.out["decoded"]).transpose(2, 3)
    perfect = (true - true.mean(2, keepdim=True)) / true.std(2, keepdim=True)
    samples.out["predicted"] = perfect.flatten(2)
    assert (demo_pictures.fill_masked(samples, [0, 7]) == samples.frames[[0, 7]]).all()
    samples.out["predicted"] = torch.zeros_like(perfect.flatten(2))
    same = (demo_pictures.fill_masked(samples, [0, 7]) == samples.frames[[0, 7]]).all(-1)
    assert same[samples.visible[[0, 7]]].all() and same[~samples.visible[[0, 7]]].mean() < 0.05
    assert len(demo_pictures.reconstructions_figure(samples).axes) == demo_pictures.NUM_SHOWN


def test_prototypes_show_their_tubelets():
    samples = make_samples(target_type="mlp", loss_func="SWAV", num_prototypes=16, decoder_num_classes=32)
    texts = [text.get_text() for text in demo_pictures.prototypes_figure(samples).axes[0].texts]
    named = [text for text in texts if text.startswith("prototype ")]
    most_used = samples.out["codes_target"].flatten().bincount(minlength=16).argmax().item()
    assert len(named) == demo_pictures.NUM_PROTOTYPES and named[0].startswith(f"prototype {most_used}\n")
    (height, width), place = samples.model.encoder.tubelet[1:], 3 * 16 + 1 * 4 + 2  # slot 3, row 1, column 2
    cut = demo_pictures.surroundings(samples, 5, place)
    assert (cut[:, 2:-2, 2:-2] == samples.frames[5, 6:8, height : 2 * height, 2 * width : 3 * width]).all()


def test_gaps_are_transparent():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in (10, 20)]
    row = figures.join(frames, gap=3)
    assert row.shape == (4, 11, 4)
    assert (row[:, 4:7, 3] == 0).all() and (row[:, :4, 3] == 255).all() and (row[:, 7:, 0] == 20).all()


@pytest.mark.parametrize("dark", [False, True])
def test_confusion_has_its_numbers_and_names(dark):
    counts = np.array([[7, 3], [0, 10]])
    figure = figures.draw_confusion({"a": counts, "b": counts.T}, ["up", "down"], dark=dark)
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["7", "3", "·", "10"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["up", "down"]
    assert figure.axes[-1].get_ylabel() == "share of the true class's videos"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--num_train 20 --percents 0", "'0' is not a whole number from 1 to 100"),
        ("--num_train 20 --percents 10 101", "'101' is not a whole number from 1 to 100"),
        ("--num_train 20 --percents 4", "--percents 4: of 20 labelled videos that is none"),
    ],
)
def test_shares_that_are_refused(flags, words, tmp_path, monkeypatch, capsys):
    argv = ["demo_videos.py", str(tmp_path / "out"), "--num_pretrain", "1", "--num_test", "1", *flags.split()]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        demo_videos.main()
    assert ended.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_smaller_share_is_balanced_and_part_of_a_larger_one(tmp_path):
    made = generate(tmp_path, num_pretrain=1, num_train=40, num_val=2, size=(32, 32), num_frames=2, workers=1)
    rows = {}
    for percent in (50, 100):
        demo_videos.write_share(made, percent)
        folder = tmp_path / f"labels-{percent}"
        rows[percent] = (folder / "train.csv").read_text().splitlines()
        assert {file.name for file in folder.iterdir()} == {"train.csv", "val.csv", "test.csv", "labels.txt"}
    assert len(rows[50]) == 20 and rows[100] == made.train.read_text().splitlines() and rows[50] == rows[100][:20]
    assert Counter(row.split()[1] for row in rows[50]) == {str(label): 2 for label in range(10)}
