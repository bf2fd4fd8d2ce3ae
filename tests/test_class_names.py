"""Names of classes from any list are in the checkpoint, and a test with other names is refused."""

import json

import pytest
from processes import FINETUNE, PRETRAIN, run_script
from runs import load

SHORT = {"epochs": 1, "warmup_epochs": 0, "disable_eval_during_finetuning": True}
NAMES = ("walk", "jump, high", "run")


@pytest.fixture
def lists(data, tmp_path):
    """train.jsonl, of parts of videos, and test.csv, with names of classes; the test list lacks one."""
    records = [{"path": str(path), "label": NAMES[i % 3], "start": 0.1} for i, path in enumerate(data.videos[:8])]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "test.csv").write_text("path;label\n" + "".join(f"{path};run\n" for path in data.videos[8:10]))
    return tmp_path


def test_names_from_lists(data, lists):
    out = lists / "out"
    finished = run_script(FINETUNE, *data.flags(FINETUNE, out, data_path=lists, **SHORT))
    assert finished.code == 0, finished.stderr
    assert list(load(out / "checkpoint-0.pth")["class_names"]) == ["jump, high", "run", "walk"]
    assert "train.jsonl: format 'jsonl', 8 videos, 3 classes" in finished.stderr
    assert f"line 1: {data.videos[0]}, label 2 (walk), from 0.1 s on" in finished.stderr
    assert f"line 2: {data.videos[8]}, label 1 (run)" in finished.stderr
    flags = data.flags(FINETUNE, data_path=lists, eval=True, resume=out / "checkpoint-0.pth", **SHORT)
    finished = run_script(FINETUNE, *flags)
    assert finished.code == 0 and "tested with the weights of" not in finished.stderr  # the run's own test list
    (lists / "test.csv").write_text(f"path;label\n{data.videos[8]};run\n{data.videos[9]};walk\n{data.videos[7]};walk\n")
    finished = run_script(FINETUNE, *flags)
    (line,) = [line for line in finished.stderr.splitlines() if "tested with the weights of" in line]
    assert finished.code == 0 and "another label there" in line
    (lists / "test.csv").write_text(f"path;label\n{data.videos[8]};run\n{data.videos[9]};run\n")
    (lists / "train.jsonl").rename(lists / "other.jsonl")  # the test list is alone, and has one class of three
    finished = run_script(FINETUNE, *flags)
    assert finished.code == 0, finished.stderr
    assert f"line 2: {data.videos[8]}, label 1 (run)" in finished.stderr
    assert f"its classes are numbered as in {out / 'checkpoint-0.pth'}" in finished.stderr
    (lists / "test.csv").write_text(f"path;label\n{data.videos[8]};swim\n")
    finished = run_script(FINETUNE, *flags)
    assert finished.code == 2 and "give labels.txt of the training in --data_path" in finished.stderr
    (lists / "test.csv").write_text(f"path;label\n{data.videos[8]};run\n")
    (lists / "labels.txt").write_text("walk\nrun\njump, high\n")
    finished = run_script(FINETUNE, *flags)
    assert finished.code == 2, finished.stderr
    assert "class 0 is 'jump, high', that of the lists 'walk'" in finished.errors[0]


def test_list_format_is_taken(data, tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{path} 0 -1\n" for path in data.videos))
    finished = run_script(PRETRAIN, *data.flags(PRETRAIN, data_path=file, epochs=1, warmup_epochs=0))
    assert finished.code == 2 and "--list_format videomaev2" in finished.errors[0]
    flags = data.flags(PRETRAIN, data_path=file, epochs=1, warmup_epochs=0, list_format="videomaev2")
    finished = run_script(PRETRAIN, *flags)
    assert finished.code == 0 and f"line 1: {data.videos[0]}, no label" in finished.stderr
