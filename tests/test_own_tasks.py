"""Fine-tuning on own data: tasks, classes of unequal size, frozen blocks, the best checkpoint; whole runs."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from processes import FINETUNE, run_script
from runs import load, records, same

from engine.flags import parse
from engine.results import hash_of
from run_class_finetuning import FinetuningConfig
from sigma_video.options import OptionError


@pytest.fixture(scope="module")
def own(data, tmp_path_factory):
    """Folders of lists by task; no video of one part is in another."""
    root = tmp_path_factory.mktemp("own")
    parts = {"train": data.videos[:6], "val": data.videos[6:9], "test": data.videos[9:]}
    rows = {
        "regression": lambda i: f"{1e6 + 7 * i}",
        "multilabel": lambda i: ";".join(map(str, [i % 3, *([3] if i % 2 else [])])),
        "classification": lambda i: str(int(i > 1) + int(i > 3)),
    }
    for task, label in rows.items():
        (root / task).mkdir()
        for part, videos in parts.items():
            text = "".join(f"{video},{label(i)}\n" for i, video in enumerate(videos))
            (root / task / f"{part}.csv").write_text("path,label\n" + text)
    return root


def run(data, own, task, folder, size=1, **changes):
    options = {"data_path": own / task, "task": task, "batch_size": 2, "num_sample": 1, **changes}
    finished = run_script(FINETUNE, *data.flags(FINETUNE, folder, **options), size=size)
    for process in finished if size > 1 else [finished]:
        assert process.code == 0, process.stderr
    return finished


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


OF_REGRESSION = {"init_scale": 1, "lr": 0.5, "test_best": True, "save_ckpt_steps": 1, "keep_ckpts": 9}


@pytest.fixture(scope="module")
def regression(data, own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    run(data, own, "regression", folder, **OF_REGRESSION)
    return folder


def test_regression_tests_the_best_checkpoint_in_the_unit_of_the_list(regression, data, own, tmp_path):
    best = load(regression / "checkpoint-best.pth")
    values = 1e6 + 7 * np.arange(6)
    assert best["args"]["target_scale"] == pytest.approx([values.mean(), values.std()])
    validated = [row["val/mae"] for row in records(regression) if "val/mae" in row]
    assert len(validated) == 2 and best["best"] == min(validated) == validated[best["epoch"]]
    result = json.loads((regression / "test.json").read_text())
    assert result["weights"][""]["file"] == str(regression / "checkpoint-best.pth")
    rows = rows_of(regression / "test_predictions.csv")
    assert [row["path"] for row in rows] == [str(video) for video in data.videos[9:]]
    errors = [abs(float(row["predicted"]) - float(row["target"])) for row in rows]
    assert result["test/mae"] == pytest.approx(np.mean(errors), rel=1e-3)
    # the same command again: the results are those of the best weights already, also where these are not the last
    (regression / "checkpoint-best.pth").unlink()
    torch.save({**best, "other": 1}, regression / "checkpoint-best.pth")
    result["weights"][""]["sha256"] = hash_of(regression / "checkpoint-best.pth")
    (regression / "test.json").write_text(json.dumps(result))
    again = run(data, own, "regression", regression, **OF_REGRESSION)
    assert (
        "finished already: all 2 epochs are done" in again.stderr
        and json.loads((regression / "test.json").read_text()) == result
    )
    # the file alone, on other numbers of processes
    for size in (1, 2):
        folder = tmp_path / str(size)
        weights = {"eval": True, "finetune": regression / "checkpoint-best.pth"}
        run(data, own, "regression", folder, size=size, **weights)
        ours, theirs = np.load(folder / "test_predictions.npz"), np.load(regression / "test_predictions.npz")
        assert ours.keys() == theirs.keys() and ours["paths"].tolist() == theirs["paths"].tolist()
        np.testing.assert_allclose(ours["view_predictions"], theirs["view_predictions"], rtol=1e-9)


def test_regression_resumes_to_the_same_bits(regression, data, own, tmp_path):
    start = regression / "checkpoint-1-step1.pth"
    options = {"init_scale": 1, "lr": 0.5, "save_ckpt_steps": 1, "keep_ckpts": 9, "resume": start}
    run(data, own, "regression", tmp_path, **options)
    ours, theirs = (load(folder / "checkpoint-1.pth") for folder in (tmp_path, regression))
    assert same(ours["model"], theirs["model"]) and same(ours["optimizer"], theirs["optimizer"])
    assert ours["best"] == theirs["best"]


@pytest.mark.slow
def test_regression_resumed_on_another_list_keeps_its_unit(regression, data, own, tmp_path):
    """Outputs stand for deviations from the first list's mean: weights that go on must mean the same by them."""
    changed = tmp_path / "regression"
    shutil.copytree(own / "regression", changed)
    rows = (changed / "train.csv").read_text().replace(",10000", ",20000")
    (changed / "train.csv").write_text(rows)
    resume = regression / "checkpoint-0-step3.pth"  # all of the epoch, but for its validation
    options = {"init_scale": 1, "lr": 0.5, "save_ckpt_steps": 1}
    finished = run(data, tmp_path, "regression", tmp_path / "out", resume=resume, **options)
    assert "training continues on the current list" in finished.stderr
    assert "its outputs keep the unit of the list they" in finished.stderr
    before, after = load(resume), load(tmp_path / "out" / "checkpoint-1.pth")
    assert after["args"]["target_scale"] == before["args"]["target_scale"]
    seen = [row["train/mae"] for row in records(tmp_path / "out") if "train/mae" in row]
    assert len(seen) == 4 and all(0.9e6 < value < 1.1e6 for value in seen[1:])  # the first is of the first list


@pytest.mark.slow
def test_several_classes_on_several_processes(data, own, tmp_path):
    run(data, own, "multilabel", tmp_path / "one", epochs=1, warmup_epochs=0, init_scale=1)
    weights = {"eval": True, "finetune": tmp_path / "one" / "checkpoint-0.pth"}
    run(data, own, "multilabel", tmp_path / "two", size=2, **weights)
    ours, theirs = (rows_of(tmp_path / name / "test_predictions.csv") for name in ("one", "two"))
    assert [row["labels"] for row in ours] == [row["labels"] for row in theirs] == ["0", "1;3", "2"]
    table = rows_of(tmp_path / "two" / "test_classes.csv")
    assert [row["videos"] for row in table] == ["1", "1", "1", "1"]
    result = json.loads((tmp_path / "one" / "test.json").read_text())
    assert result["test/mAP"] == pytest.approx(np.mean([float(row["average_precision"]) for row in table]), abs=1e-3)
    other = data.flags(FINETUNE, "", data_path=own / "classification", nb_classes=4, **weights)
    (error,) = run_script(FINETUNE, *other).errors
    assert "trained with --task multilabel, not classification: give --task multilabel" in error


@pytest.mark.slow
def test_what_decides_training_resumes_to_the_same_bits(data, own, finetuned, tmp_path):
    """Order, weights, frozen blocks and times of frames, after an interruption inside an epoch."""
    (tmp_path / "weights.txt").write_text("1\n0.5\n2\n")
    options = {"balanced_sampling": True, "class_weights": tmp_path / "weights.txt", "samples_per_epoch": 8}
    options |= {"freeze_blocks": 2, "finetune": finetuned / "checkpoint-0.pth", "fps": 7.5, "drop_path": 0.5}
    options |= {"save_ckpt_steps": 1, "keep_ckpts": 9}
    finished = run(data, own, "classification", tmp_path / "whole", **options)
    assert "frozen" in finished.stderr and "patch embedding, 2 of 4 blocks" in finished.stderr
    whole = load(tmp_path / "whole" / "checkpoint-1.pth")
    assert whole["step"] == 8
    start = tmp_path / "whole" / "checkpoint-1-step2.pth"
    run(data, own, "classification", tmp_path / "rest", resume=start, **options)
    rest = load(tmp_path / "rest" / "checkpoint-1.pth")
    assert same(rest["model"], whole["model"]) and same(rest["optimizer"], whole["optimizer"])
    before = load(finetuned / "checkpoint-0.pth")["model"]
    frozen = [name for name in before if name.startswith(("patch_embed.", "blocks.0.", "blocks.1."))]
    changed = {name for name in before if not before[name].equal(whole["model"][name])}
    assert frozen and not changed & set(frozen) and any(name.startswith("blocks.2.") for name in changed)
    options["samples_per_epoch"] = None
    flags = {"data_path": own / "classification", "batch_size": 2, "num_sample": 1, "resume": start, **options}
    (error,) = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "other", **flags)).errors
    assert "updates an epoch" in error


FOLDER = "--data_path x --output_dir y"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (f"{FOLDER} --task multilabel --mixup 0.8", "--mixup needs one class for every video"),
        (f"{FOLDER} --task multilabel --cutmix 1", "--cutmix needs one class for every video"),
        (f"{FOLDER} --task regression --smoothing 0.1", "--smoothing needs one class for every video"),
        (f"{FOLDER} --task regression --cutmix_minmax 0.2 0.4", "--cutmix_minmax needs one class for every video"),
        (f"{FOLDER} --task multilabel --class_weights balanced", "--class_weights needs one class for every video"),
        (f"{FOLDER} --task regression --balanced_sampling", "--balanced_sampling needs one class for every video"),
        (f"{FOLDER} --class_weights balanced --balanced_sampling", "each make up for the sizes of the classes"),
        (f"{FOLDER} --task regression --nb_classes 3", "--nb_classes 3: --task regression has one number"),
        (f"{FOLDER} --regression_loss smooth_l1", "--regression_loss smooth_l1 is for --task regression"),
        (f"{FOLDER} --freeze_blocks 2", "--freeze_blocks 2 without --finetune would keep random weights"),
        (f"{FOLDER} --freeze_blocks 2 --finetune z --linear_probing", "--linear_probing freezes all blocks already"),
        (f"{FOLDER} --freeze_blocks -1 --finetune z", "--freeze_blocks -1"),
        (f"{FOLDER} --test_best --disable_eval_during_finetuning", "--test_best needs a validation"),
        ("--data_path x --test_best", "--test_best tests checkpoint-best.pth in --output_dir"),
        (f"{FOLDER} --test_best --eval --resume z", "--test_best and --resume both name the weights"),
        (f"{FOLDER} --test_best --enable_deepspeed --zero_stage 3", "--test_best is not for --zero_stage 3"),
        (f"{FOLDER} --fps 8 --sampling_rate 4", "--fps 8 and --sampling_rate 4 both say"),
        (f"{FOLDER} --fps 8 --data_set SSV2", "--sampling uniform spreads the frames over the whole video"),
        (f"{FOLDER} --samples_per_epoch 0", "--samples_per_epoch 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(flags, words):
    with pytest.raises(OptionError) as error:
        parse(FinetuningConfig, flags.split()).resolved()
    assert words in str(error.value)


def test_mixing_and_smoothing_are_left_to_the_task():
    def mixing(*flags):
        return parse(FinetuningConfig, [*FOLDER.split(), *flags]).resolved().mixing

    assert (mixing().mixup, mixing().cutmix, mixing().smoothing) == (0.8, 1.0, 0.1)
    assert mixing("--mixup", "0").mixup == 0 and not mixing("--mixup", "0", "--cutmix", "0").is_on
    assert not mixing("--task", "regression").is_on and mixing("--task", "multilabel").smoothing == 0


def test_the_same_list_for_validation_and_test_is_refused(data, tmp_path):
    for part, source in (("train", "train"), ("val", "val"), ("test", "val")):
        (tmp_path / f"{part}.csv").write_text((data.folder / f"{source}.csv").read_text())
    flags = data.flags(FINETUNE, tmp_path / "out", data_path=tmp_path, test_best=True)
    (error,) = run_script(FINETUNE, *flags).errors
    assert "hold the same videos" in error and "leave --test_best out" in error
