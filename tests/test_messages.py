"""What the console and errors say: one line that fits, names what is meant, and is true."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from processes import PRETRAIN, ROOT
from runs import load, records

from datasets.errors import AnnotationError, DecodeError
from datasets.lists.read import read_list
from datasets.lists.splits import LabelledListConfig, read_labelled
from datasets.loading.loaders import LoaderConfig, build_train_loader
from datasets.loading.workers import loader_errors
from datasets.samples import read_or_replace
from engine.checkpointing.checkpoint import Checkpointer, TrainState
from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.errors import LONGEST, CheckpointError, user_errors
from engine.optim import build_optimizer, parameter_groups
from engine.record import _count
from engine.tasks.classification import Classification
from engine.tasks.task import VideoPredictions
from models import create_model

CPU = World(0, 1, 0, torch.device("cpu"))


def test_a_checkpoint_inside_an_epoch_says_where(tmp_path, caplog):
    model = torch.nn.Linear(2, 2)
    groups = parameter_groups(model, weight_decay=0.1)
    optimizer = build_optimizer(groups, opt="adamw", lr=0.1, betas=(0.9, 0.99), eps=1e-8, momentum=0)
    state = TrainState(Backend(model, optimizer, world=CPU, amp="none"), steps_per_epoch=3, step=2)
    checkpointer = Checkpointer(str(tmp_path), 1, CPU, {}, {}, save_steps=1)
    with caplog.at_level(logging.INFO):
        checkpointer.after_step(state, sampler={}, meter={})
        state.epoch, state.step = 0, 3
        checkpointer.after_epoch(state, last=True)
        checkpointer.finish()
    texts = [record.getMessage() for record in caplog.records if "saved" in record.getMessage()]
    assert texts == [
        f"saved {tmp_path / 'checkpoint-0-step2.pth'} (0 epochs and 2 of 3 steps of the next, 2 steps in all)",
        f"saved {tmp_path / 'checkpoint-0.pth'} (1 epochs, 3 steps in all)",
    ]


def test_a_clip_without_a_batch():
    model = create_model("vit_mini_patch8_32", num_classes=2, num_frames=4)
    for shape, said in (
        ((3, 4, 32, 32), r"a batch of clips, \(B, \*\(3, 4, 32, 32\)\), got one clip: clip\[None\]"),
        ((4, 32, 32), r"a batch of clips, .*, got shape \(4, 32, 32\)"),
        ((1, 3, 8, 32, 32), r"of shape \(3, 4, 32, 32\), got \(3, 8, 32, 32\)"),
    ):
        with pytest.raises(ValueError, match=said):
            model(torch.zeros(shape))


def test_all_videos_broken_says_how_many_and_of_which_list(tmp_path):
    (tmp_path / "list.csv").write_text("".join(f"{tmp_path / name}.mp4\n" for name in "abc"))
    videos = read_list(tmp_path / "list.csv")

    def fail(path, span):
        raise DecodeError(path, "empty file")

    with pytest.raises(DecodeError, match=r"nor can 2 other videos of .*list\.csv be .* \(/.*\.mp4: empty file; /.*"):
        read_or_replace(videos, 0, rng=np.random.default_rng(0), read=fail)


@pytest.mark.parametrize("text", ["[" * 100_000, "a\nb" * 50_000])
def test_errors_are_of_bearable_length(text, capsys):
    with pytest.raises(SystemExit), user_errors():
        raise CheckpointError(f"first {text} last")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: first ") and line.endswith(" last") and " [...] " in line
    assert len(line) < LONGEST + 20


@pytest.mark.parametrize("name", ["deep.csv", "deep.jsonl", "deep.txt"])
def test_a_list_of_brackets(name, tmp_path, capsys):
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(SystemExit), user_errors(AnnotationError):
        read_list(tmp_path / name)
    assert len(capsys.readouterr().err) < LONGEST + 20


def labelled(folder, parts):
    return read_labelled(LabelledListConfig(data_path=str(folder), data_set="custom"), parts)


def test_no_list_for_validation_names_the_flag(data, tmp_path):
    (tmp_path / "train.csv").write_text((data.folder / "train.csv").read_text())
    with pytest.raises(AnnotationError, match=r"val\.csv: no such file\. .*--disable_eval_during_finetuning"):
        labelled(tmp_path, ["train", "val"])


def test_lists_without_labels_get_one_answer(data, tmp_path):
    """A classifier needs labels; a list for pre-training may have none: no message says that they are optional here."""
    lines = [line.rsplit(maxsplit=1)[0] for line in (data.folder / "test.csv").read_text().splitlines()]
    (tmp_path / "test.csv").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(AnnotationError, match="To train or test a classifier every video needs one: `path label`"):
        labelled(tmp_path, ["test"])
    (tmp_path / "test.csv").write_text("".join(f"{line} -1\n" for line in lines))
    with pytest.raises(AnnotationError, match=r"labels count from 0\. A list without labels, for pre-training"):
        labelled(tmp_path, ["test"])


def test_workers_and_cores_are_said_once_and_not_by_torch():
    dataset = [{"clip": torch.zeros(1)}] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # as the module does for all
        build_train_loader(dataset, batch_size=1, num_workers=500)
    cores = len(os.sched_getaffinity(0))
    assert LoaderConfig(num_workers=0).describe() == "0 per process"
    assert f"more than this machine's {cores} cores" in LoaderConfig(num_workers=cores + 1).describe()


@pytest.mark.slow
def test_torch_does_not_speak_of_workers_in_a_fresh_process():
    program = "import datasets.loading.loaders as l; l.build_train_loader([1, 2], batch_size=1, num_workers=500)"
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0 and "worker" not in finished.stderr, finished.stderr


def test_an_iterator_that_could_not_be_made_says_nothing_more(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(Exception, match="ulimit -n"), loader_errors():
        raise OSError(24, "Too many open files")

    class _MultiProcessingDataLoaderIter:
        def __del__(self):
            raise AttributeError("_workers_status")

    class Other:
        def __del__(self):
            raise AttributeError("shown")

    _MultiProcessingDataLoaderIter()
    assert shown == []
    Other()
    assert len(shown) == 1


def test_a_loss_of_zero_is_not_negative():
    scores = np.array([[1.0000001, 0.0]], np.float32)
    sure = VideoPredictions(scores, np.array([0]), views=scores[:, None])
    assert f"{Classification().metrics(sure)['loss']:.2f}" == "0.00"


def test_few_trainable_parameters_are_counted():
    assert [_count(number) for number in (513, 940_896, 86_230_272)] == ["513", "940,896", "86.23 M"]


# ---------------------------------------------------------------------------------------------- log.txt and the console


def test_the_log_has_what_the_released_one_has(finetuned):
    (last,) = [row for row in records(finetuned) if "val/top1" in row]
    content = load(finetuned / "checkpoint-0.pth")
    assert last["n_parameters"] == sum(tensor.numel() for tensor in content["model"].values())
    # four blocks, layer decay 0.75: the embedding has the lowest rate
    assert last["train/min_lr"] == pytest.approx(last["train/lr"] * 0.75**5)
    assert last["train/weight_decay"] == 0.05 and last["train/loss_scale"] == 1
    assert json.loads((finetuned / "run.json").read_text())[0]["args"]["layer_decay"] == 0.75


def test_weight_decay_is_logged_as_it_changes(pretrained):
    rows = records(pretrained)
    assert all(row["train/weight_decay"] == 0.05 and row["train/min_lr"] == row["train/lr"] for row in rows)
    assert ["n_parameters" in row for row in rows] == [False] * (len(rows) - 1) + [True]


def test_a_log_step_is_one_line_of_a_terminal(pretrained, finetuned):
    for folder in (pretrained, finetuned):
        lines = [line for line in (folder / "console.txt").read_text().splitlines() if "clips/s left" in line]
        assert len(lines) == len(records(folder))
        assert max(map(len, lines)) <= 120


# ---------------------------------------------------------------------------------------------- before it has begun


@pytest.mark.slow
def test_isolated_python(tmp_path):
    """`python -I` leaves the script's folder out of the path."""
    command = [sys.executable, "-I", str(ROOT / PRETRAIN), "--nonsense"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr == "error: unknown flag --nonsense. --help lists all flags.\n"


@pytest.mark.slow
def test_ctrl_c_during_the_imports():
    process = subprocess.Popen([sys.executable, str(ROOT / PRETRAIN)], stderr=subprocess.PIPE, text=True)
    time.sleep(0.7)  # the imports take two seconds and more
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130, 2) and "Traceback" not in err, err
