"""Results belong to weights, a list and views: a run is done only if those of `test.json` are its own."""

import hashlib
import json
import shutil
import subprocess

import pytest
import torch
from conftest import write_list
from processes import FINETUNE, PRETRAIN, run_script
from runs import load

from datasets.lists.read import read_list
from datasets.lists.splits import LabelledData
from engine import results
from engine.config import RunFacts
from engine.distributed.world import World
from engine.flags import parse
from engine.results import TestedOn, hash_of, is_tested
from programs.finetuning import results as finetuning
from programs.finetuning.options import FinetuningConfig

ONE_EPOCH = {"epochs": 1, "warmup_epochs": 0}
ON = TestedOn("/data/test.csv", "0123456789ab", {"input_size": 32, "test_num_segment": 2})


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "checkpoint-0.pth"
    file.write_bytes(b"some weights" * 1000)
    return file


def write_result(folder, origin, **changes):
    (folder / "test_predictions.npz").touch()
    (folder / "test.json").write_text(json.dumps({"test/top1": 50.0, **origin, **changes}))


def test_the_hash_is_that_of_sha256sum(weights, monkeypatch):
    monkeypatch.setattr(results, "CHUNK", 5000)  # read in three parts
    said = subprocess.run(["sha256sum", weights], capture_output=True, text=True, check=True).stdout
    assert hash_of(weights) == said.split()[0]


def test_the_hash_of_a_folder_knows_names_contents_and_places(tmp_path):
    hashes = set()
    for number, (name, content) in enumerate([("a/x", b"1"), ("a/x", b"2"), ("b/x", b"1"), ("x", b"1")]):
        file = tmp_path / str(number) / name
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        hashes.add(hash_of(tmp_path / str(number)))
    assert len(hashes) == 4
    shutil.copytree(tmp_path / "0", tmp_path / "copy")
    assert hash_of(tmp_path / "copy") == hash_of(tmp_path / "0")


def test_done_means_that_weights_list_and_views_agree(weights, tmp_path):
    origin = ON.origin({"": (str(weights), "model")})
    assert not is_tested(tmp_path, origin)  # no results
    write_result(tmp_path, origin)
    assert is_tested(tmp_path, origin)
    moved = TestedOn("/elsewhere/test.csv", ON.fingerprint, ON.settings).origin({"": (str(weights), "module")})
    assert is_tested(tmp_path, moved)  # the same bytes and videos by other names
    for other in (
        TestedOn(ON.list_file, "ffffffffffff", ON.settings),
        TestedOn(ON.list_file, ON.fingerprint, {**ON.settings, "test_num_segment": 7}),
    ):
        assert not is_tested(tmp_path, other.origin({"": (str(weights), "model")}))
    average = {"": (str(weights), "model"), "_ema": (str(weights), "model_ema")}
    assert not is_tested(tmp_path, ON.origin(average))  # the results of the average are missing
    (tmp_path / "test_predictions.npz").unlink()
    assert not is_tested(tmp_path, origin)
    write_result(tmp_path, origin)
    weights.write_bytes(b"other weights")
    assert not is_tested(tmp_path, ON.origin({"": (str(weights), "model")}))


def test_whatever_changes_what_is_seen_is_another_test(data):
    """Each option that decides which pixels a view has, how many there are, what is made of them, and how precisely."""
    listed = read_list(data.folder / "test.csv")

    def settings(*words):
        flags = data.flags(FINETUNE, **dict(zip(words[::2], words[1::2], strict=True)))
        config = parse(FinetuningConfig, flags).resolved()
        world, listed_data = World(0, 1, 0, torch.device("cpu")), LabelledData({"test": listed}, 3, [], False, {})
        return finetuning.tested_on(config, world, listed_data, RunFacts(decoder_used="pyav 15")).settings

    changes = [("short_side_size", 40), ("num_frames", 8), ("sampling_rate", 3), ("fps", 7.5), ("amp", "bf16")]
    changes += [("sampling", "uniform"), ("test_num_segment", 3), ("test_num_crop", 1), ("task", "multilabel")]
    changes += [("task", "multilabel", "view_pooling", "max")]
    found = [settings(), *(settings(*words) for words in changes)]
    assert all(one != other for place, one in enumerate(found) for other in found[:place])
    assert settings() == settings("batch_size", 2, "lr", 1)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"test/top1": 50}', '{"weights": [], "list": 1, "settings": null}', '{"weights": {"": 5}}']
    + ['{"test/top1": 50, "weights": {"": ["checkpoint-0.pth", "model"]}}'],  # as written before these entries
)
def test_results_of_unknown_origin_are_none(text, weights, tmp_path):
    (tmp_path / "test.json").write_text(text)
    assert not is_tested(tmp_path, ON.origin({"": (str(weights), "model")}))


@pytest.fixture
def finished(finetuned, data, tmp_path):
    """A finished fine-tuning with lists of its own; (folder of the run, flags by name)."""
    shutil.copytree(finetuned, tmp_path / "run")
    for name in ("train", "val", "test"):
        shutil.copy(data.folder / f"{name}.csv", tmp_path)
    return tmp_path / "run", {"data_path": tmp_path, **ONE_EPOCH}


def test_a_finished_run_tests_again_where_something_has_changed(finished, data):
    folder, flags = finished
    before = json.loads((folder / "test.json").read_text())
    weights = hashlib.sha256((folder / "checkpoint-0.pth").read_bytes()).hexdigest()
    assert before["weights"][""]["sha256"] == weights
    ended = run_script(FINETUNE, *data.flags(FINETUNE, folder, **flags))
    assert ended.code == 0 and "finished already" in ended.stderr and "top-1" not in ended.stderr
    assert json.loads((folder / "test.json").read_text()) == before
    ended = run_script(FINETUNE, *data.flags(FINETUNE, folder, **flags, test_num_segment=7))
    after = json.loads((folder / "test.json").read_text())
    assert ended.code == 0 and (before["views"], after["views"]) == (4, 14)
    write_list(flags["data_path"] / "test.csv", data.videos[7:])
    ended = run_script(FINETUNE, *data.flags(FINETUNE, folder, **flags, test_num_segment=7))
    again = json.loads((folder / "test.json").read_text())
    assert ended.code == 0 and (after["videos"], again["videos"]) == (7, 5)
    assert again["weights"][""]["sha256"] == weights


def test_results_of_fewer_epochs_are_not_those_of_more(finished, data):
    """The test fails, because of a broken video: it fails again, and the results of the first epoch do not hide it."""
    folder, flags = finished
    broken = flags["data_path"] / "broken.mp4"
    broken.write_bytes(data.videos[0].read_bytes()[:1200])
    with (flags["data_path"] / "test.csv").open("a") as test_list:
        test_list.write(f"{broken} 0\n")
    for _ in range(2):
        ended = run_script(FINETUNE, *data.flags(FINETUNE, folder, **{**flags, "epochs": 2}))
        assert ended.code == 2 and str(broken) in ended.errors[0], ended.stderr
        assert "finished already: all" not in ended.stderr
    assert load(folder / "checkpoint-1.pth")["epoch"] == 1


def test_a_finished_run_of_another_training_list_is_refused(finished, data):
    folder, flags = finished
    write_list(flags["data_path"] / "train.csv", data.videos[:7])
    ended = run_script(FINETUNE, *data.flags(FINETUNE, folder, **flags))
    assert ended.code == 2 and "finished, on another list" in ended.errors[0] and "--output_dir" in ended.errors[0]


def test_the_best_accuracy_is_of_one_list(finished, data):
    folder, flags = finished
    content = load(folder / "checkpoint-0.pth")
    assert content["best"] >= 0 and content["validated_on"]
    write_list(flags["data_path"] / "val.csv", [data.videos[0]] * 3)  # labels 0, 1, 2: one in three is right
    ended = run_script(FINETUNE, *data.flags(FINETUNE, folder, **{**flags, "epochs": 2}))
    assert ended.code == 0 and "validated on another list" in ended.stderr
    assert load(folder / "checkpoint-1.pth")["best"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"model": "pretrain_videomae_tiny_patch8_32"}, 2, "made with model pretrain_videomae_mini_patch8_32, now"),
        ({"target_type": "pixel", "num_prototypes": None}, 2, "target_type mlp, now pixel"),
        ({"lr": 1e-3}, 0, "0.00015 -> 0.001"),
        ({"data_path": "other.csv"}, 2, "finished, on another list"),
        ({"data_path": "/no/such/list.csv"}, 0, "not compared with the list"),
    ],
)
def test_a_finished_pretraining_of_other_options(changes, code, words, pretrained, data, tmp_path):
    shutil.copytree(pretrained, tmp_path / "run")
    write_list(tmp_path / "other.csv", data.videos[:11])
    flags = data.flags(PRETRAIN, tmp_path / "run", **{**ONE_EPOCH, **changes})
    ended = run_script(PRETRAIN, *flags, cwd=tmp_path)
    assert ended.code == code and words in ended.stderr and ("finished already" in ended.stderr) is (code == 0)
