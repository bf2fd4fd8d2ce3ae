"""Features of videos on disk: equal for any number of processes and any interruption."""

import csv
import json
import pickle
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from processes import run_script
from safetensors.numpy import load_file

from inference import features
from inference.video_model import load
from scripts import extract_features, feature_ray


def extract(*words, size=1):
    return run_script("scripts/extract_features.py", *words, "--device", "cpu", "--num_workers", "0", size=size)


@pytest.fixture(scope="module")
def made(pretrained, data, tmp_path_factory):
    """A folder of features of a list."""
    folder = tmp_path_factory.mktemp("features") / "out"
    finished = extract(pretrained / "checkpoint-0.pth", data.folder / "test.csv", folder, "--batch_size", "2")
    assert finished.code == 0, finished.stderr
    assert finished.stdout == f"{folder / 'features.npy'}: 7 x 1 x 128 float32\n"
    return folder


def test_rows_are_the_videos_of_the_index(made, pretrained, data):
    features = np.load(made / "features.npy", mmap_mode="r")
    rows = list(csv.DictReader((made / "index.csv").open()))
    assert [row["path"] for row in rows] == [str(video) for video in data.videos[5:]]
    model = load(pretrained / "checkpoint-0.pth", device="cpu")
    for row in (rows[0], rows[6]):
        np.testing.assert_allclose(features[int(row["row"]), 0], model.features(row["path"]), rtol=1e-5, atol=1e-6)
    assert json.loads((made / "meta.json").read_text())["key"]["encoding"]["final_norm"] is True


def test_ranks_and_parts_make_the_same_bits(made, pretrained, data, tmp_path, monkeypatch):
    command = [pretrained / "checkpoint-0.pth", data.folder / "test.csv"]
    monkeypatch.setattr("inference.features.SHARD", 2)  # several; processes are forked
    finished = extract(*command, tmp_path / "ranks", "--batch_size", "2", size=2)
    assert [rank.code for rank in finished] == [0, 0], finished[0].stderr
    for part in ("1/3", "3/3", "2/3"):
        assert extract(*command, tmp_path / "parts", "--batch_size", "2", "--part", part).code == 0
        assert not (tmp_path / "parts" / "features.npy").exists()
    joined = extract(*command, tmp_path / "parts", "--batch_size", "2", "--format", "safetensors")
    assert joined.code == 0 and "4 of 4 shards are there" in joined.stderr + joined.stdout, joined.stderr
    expected = np.load(made / "features.npy")
    for folder in ("ranks", "parts"):
        np.testing.assert_array_equal(np.load(tmp_path / folder / "features.npy"), expected)
        assert (tmp_path / folder / "index.csv").read_bytes() == (made / "index.csv").read_bytes()
    np.testing.assert_array_equal(load_file(tmp_path / "parts" / "features.safetensors")["features"], expected)


def test_a_ray_worker_opens_the_model_once_for_all_of_its_shards(made, pretrained, data, tmp_path, monkeypatch, capsys):
    """With one worker, in this process; with a Ray: tests/test_ray_engine.py."""
    opened, sent = [], []

    def one_worker(tasks, function, **options):
        sent.append([task.work for task in tasks])
        monkeypatch.setattr(features, "SHARD", 512)  # a worker has the plan's
        for task in tasks:
            yield task, pickle.loads(pickle.dumps(function))(task.work)

    def command(*words):
        monkeypatch.setattr(features, "SHARD", 2)
        flags = ("--batch_size", "2", "--device", "cpu", "--num_workers", "0")
        extract_features.main([str(pretrained / "checkpoint-0.pth"), str(listed), str(out), *flags, *words])

    listed, out = data.folder / "test.csv", tmp_path / "out"
    monkeypatch.setattr(feature_ray, "run_with_ray", one_worker)
    monkeypatch.setattr(extract_features, "check_engine", lambda name: None)
    by = feature_ray.open_model
    monkeypatch.setattr(feature_ray, "open_model", lambda *args: opened.append(by(*args)) or opened[-1])
    feature_ray._opened.cache_clear()
    command("--part", "2/4")
    command("--engine", "ray")
    assert sent == [[(0, 4), (2, 4), (3, 4)]] and len(opened) == 1
    for name in ("features.npy", "index.csv", "meta.json"):
        assert (out / name).read_bytes() == (made / name).read_bytes()
    command("--engine", "ray")
    assert sent[1:] == [[]]  # all is there
    command("--engine", "ray", "--rebuild")
    assert sent[2:] == [[(number, 4) for number in range(4)]]

    wrong = replace(opened[0], digest="of other weights")
    monkeypatch.setattr(feature_ray, "open_model", lambda *a: wrong)
    feature_ray._opened.cache_clear()
    for words, said in (
        (["--engine", "ray", "--rebuild"], r"rows 0 to 1: .*checkpoint-0.pth: it was overwritten meanwhile"),
        (["--engine", "ray", "--part", "1/2"], "without torchrun and --part"),
        (["--workers", "2"], "are those of --engine ray"),
    ):
        with pytest.raises(SystemExit, match="2"):
            command(*words)
        assert re.match(rf"error: .*{said}", capsys.readouterr().err.splitlines()[-1])
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match="2"):
        command("--engine", "ray")
    assert re.fullmatch(r'error: --engine ray needs Ray: pip install "ray>=2.51".*\n', capsys.readouterr().err)


def test_tokens_of_windows(finetuned, data, tmp_path):
    """Of a fine-tuned classifier, which has no final norm."""
    checkpoint, video = finetuned / "checkpoint-0.pth", data.videos[11]
    words = [checkpoint, video, tmp_path, "--window", "0.5", "--views", "2x1", "--tokens", "--dtype", "float16"]
    finished = extract(*words)
    assert finished.code == 0, finished.stderr
    tokens = np.load(tmp_path / "features.npy")
    assert tokens.shape[1:] == (2, 32, 128) and tokens.dtype == np.float16
    rows = list(csv.DictReader((tmp_path / "index.csv").open()))
    assert len(rows) == len(tokens) > 2 and float(rows[1]["start"]) == 0.25 and float(rows[1]["end"]) == 0.75


def test_what_cannot_be_done_is_one_line(made, pretrained, finetuned, data, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    of, listed = pretrained / "checkpoint-0.pth", data.folder / "test.csv"
    for words, said in (
        ([finetuned / "checkpoint-0.pth", listed, made], "its features are of another checkpoint"),
        ([of, listed, made, "--views", "2x1"], "views"),
        ([of, tmp_path / "x.mp4", tmp_path / "o"], "x.mp4"),
        ([of, listed, tmp_path / "notes"], "not a folder of features, and not empty"),
        ([of, listed, tmp_path / "o", "--part", "4/3"], "write i/n, with i from 1 to n"),
        ([of, data.videos[0], tmp_path / "o", "--window", "99"], "give a shorter --window"),
    ):
        finished = extract(*words)
        assert finished.code == 2 and said in finished.stderr, finished.stderr
        assert finished.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in finished.stderr
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"
