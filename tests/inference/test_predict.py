"""Predictions without labels: those of the run's own test, in any company, after any interruption."""

import csv
import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from conftest import Data
from processes import run_script

from datasets.decoding.open import open_video
from engine.distributed.world import World
from engine.errors import ConfigError
from engine.resilience.lock import output_lock
from inference.sources import Sample, find_samples, windows_of
from inference.video_model import load
from inference.views import Views
from scripts.predict import locked, read_done

SCRIPT = "scripts/predict.py"


@pytest.fixture(scope="module")
def checkpoint(finetuned):
    return finetuned / "checkpoint-0.pth"


def predict(*words, size=1):
    return run_script(SCRIPT, *words, "--device", "cpu", "--num_workers", "0", size=size)


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def predicted(checkpoint, data, tmp_path_factory):
    """The file of a command, and what was on screen."""
    file = tmp_path_factory.mktemp("predicted") / "predictions.jsonl"
    finished = predict(checkpoint, data.folder / "test.csv", "--json", file)
    assert finished.code == 0, finished.stderr
    return file, finished.stdout


def test_scores_are_those_of_the_test(predicted, finetuned, data):
    """Of all classes, with the same views, which nobody had to name."""
    tested = np.load(finetuned / "test_predictions.npz")
    rows = rows_of(predicted[0])
    assert [row["path"] for row in rows] == [str(video) for video in data.videos[5:]]
    scores = np.zeros((len(rows), 3), np.float32)
    for place, row in enumerate(rows):
        for entry in row["top"]:
            scores[place, entry["label"]] = entry["score"]
            assert entry["class"] == str(entry["label"])  # the list names no classes
        assert [entry["score"] for entry in row["top"]] == sorted((e["score"] for e in row["top"]), reverse=True)
    np.testing.assert_array_equal(scores, tested["probabilities"])
    assert {(row["views"], row["amp"]) for row in rows} == {("2x2", "none")}
    assert predicted[1].splitlines()[0].startswith(f"{data.videos[5]}: {rows[0]['top'][0]['class']} 0.")


def test_two_ranks_write_the_same_file(predicted, checkpoint, data, tmp_path):
    file = tmp_path / "two.jsonl"
    main, other = predict(checkpoint, data.folder / "test.csv", "--json", file, size=2)
    assert main.code == other.code == 0, main.stderr + other.stderr
    assert file.read_bytes() == predicted[0].read_bytes()
    assert main.stdout == predicted[1] and other.stdout == ""


def test_the_same_command_goes_on(predicted, checkpoint, data, tmp_path):
    """From a file that ends in the middle of a line; what is there is not predicted again."""
    file, table = tmp_path / "some.jsonl", tmp_path / "all.csv"
    whole = predicted[0].read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = lines[0].replace(b'"score": 0', b'"score": 7')  # to be known again
    file.write_bytes(kept + lines[1] + lines[2][:30])
    finished = predict(checkpoint, data.folder / "test.csv", "--json", file, "--csv", table)
    assert finished.code == 0, finished.stderr
    assert file.read_bytes() == kept + b"".join(lines[1:])
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == len(lines) and rows[1]["class1"] == json.loads(lines[1])["top"][0]["class"]
    for changes in (["--views", "1x1"], ["--top", "1"], ["--top", "2"]):
        refused = predict(checkpoint, data.folder / "test.csv", "--json", file, *changes)
        assert refused.code == 2 and refused.stderr.startswith(f"error: --json {file}, line 1: of other weights")


def test_an_unreadable_video_is_listed_and_changes_nothing(predicted, checkpoint, data, tmp_path):
    """In a batch with others; alone it is the error."""
    broken, file = tmp_path / "broken.mp4", tmp_path / "p.jsonl"
    broken.write_bytes(b"not a video")
    finished = predict(checkpoint, data.videos[5], broken, data.videos[6], "--json", file)
    assert finished.code == 1 and "1 of 3 could not be read" in finished.stderr
    first, failed, second = rows_of(file)
    assert "top" not in failed and failed["path"] == str(broken) and failed["error"]
    assert [first, second] == rows_of(predicted[0])[:2]
    alone = predict(checkpoint, broken)
    assert alone.code == 2 and f"error: {broken}: {failed['error']}\n" in alone.stderr


def test_windows_of_a_video(checkpoint, data, tmp_path):
    """A window is the video that its seconds make alone."""
    video = data.videos[11]
    with open_video(str(video)) as reader:
        seconds = reader.num_frames / reader.fps
    windows = windows_of(Sample(str(video)), 0.5, 0.25)
    assert [window.span for window in windows] == [
        (0.25 * k, 0.25 * k + 0.5) for k in range(int((seconds - 0.5) / 0.25 + 1e-6) + 1)
    ]
    file = tmp_path / "w.jsonl"
    assert predict(checkpoint, video, "--window", "0.5", "--json", file).code == 0
    rows = rows_of(file)
    assert [(row["start"], row["end"]) for row in rows] == [window.span for window in windows]
    listed = tmp_path / "spans.csv"
    listed.write_text("path,start,end\n" + "".join(f"{video},{row['start']},{row['end']}\n" for row in rows))
    again = tmp_path / "again.jsonl"
    assert predict(checkpoint, listed, "--json", again).code == 0
    assert again.read_bytes() == file.read_bytes()
    refused = predict(checkpoint, video, "--window", "100")
    assert refused.code == 2 and "a window 100 s: give a shorter --window" in refused.stderr


def test_submission_has_official_numbers(checkpoint, data, tmp_path):
    refused = predict(checkpoint, data.videos[5], "--submission", "ssv2", "--output", tmp_path / "s.csv")
    assert (
        refused.code == 2
        and "--submission needs 5 classes, it has 3" in refused.stderr
        and not (tmp_path / "s.csv").exists()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nowhere.mp4"], "/nowhere.mp4: no such video, folder or list"),
        (["{empty}"], "no videos in it"),
        (["{video}", "--stride", "1"], "--stride 1 is the distance of windows: give --window"),
        (["{video}", "--views", "5"], "clips x crops, such as 5x3"),
        (["{video}", "--json", "/nowhere/x.json"], "--json /nowhere/x.json: the folder /nowhere is not there"),
        (["{video}", "--output", "x"], "--submission and --output go together"),
        (["{video}", "--json", "{empty}"], "a folder: give a file in it"),
        (["{video}", "--csv", "{video}"], "this file is read: give another"),
        (["{video}", "--json", "{empty}/x", "--csv", "{empty}/./x"], "this file is that of --json: give another"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, said, checkpoint, data, tmp_path):
    words = [word.format(video=data.videos[0], empty=tmp_path) for word in words]
    finished = predict(checkpoint, *words)
    assert finished.code == 2 and said in finished.stderr and finished.stderr.count("\n") == 1


def test_a_pretrained_model_is_no_classifier(pretrained, data):
    finished = predict(pretrained / "checkpoint-0.pth", data.videos[0])
    assert finished.code == 2 and "no classification head: fine-tune it first" in finished.stderr


# ------------------------------------------------------------------------------------------------- files of --json

KEY = {"weights": "abc", "views": "1x1", "amp": "none"}


@pytest.mark.parametrize("content", [b'{"a": 1}', b'{"path": "x"}\n{"a": 1}', b"\x9e\xff", b"mine"])
def test_a_file_of_something_else_is_refused_and_left(content, tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="not a prediction"):
        read_done(str(file), KEY, 5)
    assert file.read_bytes() == content


def test_scores_of_another_precision_are_refused(tmp_path):
    """Or of one that is not known: an earlier version did not write it."""
    file, row = tmp_path / "x.json", {"path": "a.mp4", "top": [{}] * 5} | KEY
    file.write_text(json.dumps(row) + "\n")
    assert list(read_done(str(file), KEY, 5).values()) == [row]
    for other in ({**row, "amp": "bf16"}, {key: value for key, value in row.items() if key != "amp"}):
        file.write_text(json.dumps(other) + "\n")
        with pytest.raises(ConfigError, match="line 1: of other weights, --views, --amp or --top"):
            read_done(str(file), KEY, 5)


def test_files_that_another_command_writes_are_refused(tmp_path):
    """Others of the folder, and the folder itself, which a run may train in, are not."""
    world = World(0, 1, 0, torch.device("cpu"))
    files = {"json": str(tmp_path / "p.jsonl"), "csv": str(tmp_path / "p.csv"), "output": None}
    with output_lock(str(tmp_path), world), locked(Namespace(**files), world):
        for other in ({"csv": files["csv"]}, {"output": files["json"]}):
            refused = Namespace(**{"json": None, "csv": None, "output": None} | other)
            file = next(iter(other.values()))
            with pytest.raises(ConfigError, match=rf"{file}: process .* writes this file"), locked(refused, world):
                raise AssertionError("both write")
        with locked(Namespace(json=str(tmp_path / "q.jsonl"), csv=None, output=None), world):
            assert (tmp_path / "q.jsonl.lock").exists()
    assert not list(tmp_path.iterdir())


def test_names_may_hold_line_breaks_of_unicode(tmp_path):
    rows = [{"path": f"{name}.mp4", "error": "e"} | KEY for name in ["a\u2028", "a\x85", "a\x0c"]]
    file = tmp_path / "x.json"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + '{"pa')
    assert list(read_done(str(file), KEY, 5).values()) == rows
    assert file.read_text().endswith("}\n")


def test_what_a_folder_holds_and_no_list_can_is_told(tmp_path, caplog):
    for name in ("a.mp4", "line\nend.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert find_samples([tmp_path]) == [Sample(str(tmp_path / "a.mp4"))]
    assert "passed over 1 names with line ends" in caplog.text


# ------------------------------------------------------------------------------------------------- as a library


def test_files_and_frames_in_memory_are_the_same_video(predicted, checkpoint, data: Data):
    model, video = load(checkpoint, device="cpu"), data.videos[5]
    found = model.predict(video)
    assert list(found.top(2).items()) == [(e["class"], e["score"]) for e in rows_of(predicted[0])[0]["top"]][:2]
    with open_video(str(video)) as reader:
        frames = reader.get_frames(range(reader.num_frames)).permute(0, 2, 3, 1)
    for given in (frames, frames.numpy()):
        np.testing.assert_array_equal(model.predict(given).scores, found.scores)
    several = model.predict([data.videos[6], video])
    np.testing.assert_array_equal(several[1].scores, found.scores)
    with pytest.raises(ValueError, match="uint8 of \\(frames, height, width, 3\\)"):
        model.predict(frames.float().numpy())


def test_features_are_the_mean_of_the_tokens(pretrained, data):
    model, video = load(pretrained / "checkpoint-0.pth", device="cpu"), data.videos[5]
    pooled, tokens = model.features(video, views=(2, 1)), model.features(video, views=(2, 1), tokens=True)
    assert tokens.shape == (2, 2 * 4 * 4, 128) and pooled.shape == (128,)
    np.testing.assert_allclose(pooled, tokens.mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)
    clip = model.load_clip(video)
    assert clip.shape == (3, 4, 32, 32) and clip.dtype == torch.float32
    np.testing.assert_array_equal(model.loaded.tokens(clip[None])[0], model.features(video, tokens=True)[0])
    np.testing.assert_array_equal(model.features([video, video])[1], model.features(video))
    assert model.features([]).shape == (0, 128) and model.features([], tokens=True).shape == (0, 1, 32, 128)


def test_the_distance_of_frames_that_a_file_does_not_say(checkpoint, data, tmp_path):
    """Every 4th is taken, with a word; the same as asked for without a word."""
    content = torch.load(checkpoint, weights_only=True)
    rate = content["args"].pop("sampling_rate")
    assert rate != 2 and content["args"].pop("data_set")
    torch.save(content, tmp_path / "silent.pth")
    said, rows = {}, {}
    for name, words in (("silent", []), ("four", ["--sampling_rate", 4]), ("two", ["--sampling_rate", 2])):
        file = tmp_path / f"{name}.jsonl"
        finished = predict(tmp_path / "silent.pth", data.videos[11], "--json", file, *words)
        assert finished.code == 0, finished.stderr
        said[name], rows[name] = "every 4th is taken" in finished.stderr, rows_of(file)[0]
    assert said == {"silent": True, "four": False, "two": False}
    assert rows["silent"]["top"] == rows["four"]["top"] != rows["two"]["top"]
    assert rows["two"]["views"] == "2x2, every 2. frame"


def test_weights_alone_take_the_clips_that_are_asked_for(checkpoint, data, tmp_path, caplog):
    torch.save(torch.load(checkpoint, weights_only=True)["model"], tmp_path / "bare.pth")
    original = load(checkpoint, device="cpu")
    clip = original.clip
    sizes = {"num_frames": clip.num_frames, "input_size": clip.input_size}
    bare = load(tmp_path / "bare.pth", device="cpu", sampling_rate=clip.sampling_rate, **sizes)
    assert not caplog.records
    given = original.load_clip(data.videos[5])[None]
    assert torch.equal(bare.loaded.model(given), original.loaded.model(given))
    load(tmp_path / "bare.pth", device="cpu", input_size=clip.input_size)
    assert "16 frames of 32 pixels are taken; num_frames and" in caplog.text and "every 4th is taken" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": "nowhere"}, "device='nowhere': not a device"),
        ({"device": "cuda:99"}, "device='cuda:99': there is no such GPU"),
        ({"sampling_rate": 0}, "sampling_rate=0: must be at least 1"),
    ],
)
def test_load_refuses_what_is_not_there(given, words, checkpoint):
    with pytest.raises(ConfigError, match=words):
        load(checkpoint, **given)


def test_sources(data, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.mp4").symlink_to(data.videos[0])
    (tmp_path / "notes.txt.bak").write_text("x")
    assert find_samples([tmp_path]) == [Sample(str(tmp_path / "a" / "b.mp4"))]
    listed = tmp_path / "l.csv"
    listed.write_text(f"{data.videos[1]}\n{data.videos[0]}\n")
    assert [sample.path for sample in find_samples([listed, data.videos[2]])] == [
        str(data.videos[1]), str(data.videos[0]), str(data.videos[2]),
    ]  # fmt: skip
    assert str(Views(5, 3)) == "5x3"
