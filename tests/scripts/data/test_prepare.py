"""prepare.py: the lists of a data set, and what is said of them."""

import json
import re

import pytest
from data_tools import call, numbers
from PIL import Image
from videos import _paint

from datasets.decoding.open import open_video
from datasets.lists.read import read_list
from scripts.data import prepare

KINETICS = "label,youtube_id,time_start,time_end,split\n"
FORMS = {
    "kinetics": (
        {
            "train.csv": KINETICS + '"zip, line",aaaaaaaaaaa,5,15,train\nair drum,bbbbbbbbbbb,0,10,train\n',
            "val.csv": KINETICS + '"zip, line",ccccccccccc,0,10,val\n',
        },
        ["zip, line/aaaaaaaaaaa_000005_000015.mp4", "air drum/bbbbbbbbbbb_000000_000010.mp4", "ccccccccccc.mp4"],
        {"train": [1, 0], "val": [1], "test": [1]},
        ["air drum", "zip, line"],
    ),
    "ssv2": (
        {
            "something-something-v2-train.json": '[{"id": "1", "template": "Moving [something]"}]',
            "something-something-v2-validation.json": '[{"id": "2", "template": "Closing [something]"}]',
            "something-something-v2-test.json": '[{"id": "1"}]',
            "something-something-v2-labels.json": '{"Moving something": "1", "Closing something": "0"}',
        },
        ["1.webm", "2.webm"],
        {"train": [1], "val": [0], "test": [0]},
        ["Closing something", "Moving something"],
    ),
    "ucf101": (
        {
            "trainlist01.txt": "B/v_B_g01_c01.avi 2\nA/v_A_g01_c01.avi 1\n",
            "testlist01.txt": "B/v_B_g02_c01.avi\n",
            "trainlist02.txt": "A/none.avi 1\n",
            "classInd.txt": "1 A\n2 B\n",
        },
        ["B/v_B_g01_c01.avi", "A/v_A_g01_c01.avi", "B/v_B_g02_c01.avi"],
        {"train": [1, 0], "val": [1], "test": [1]},
        ["A", "B"],
    ),
    "hmdb51": (
        {"run_test_split1.txt": "#1.avi 1 \n2.avi 2 \n3.avi 0 \n", "eat_test_split1.txt": "4.avi 1 \n"},
        ["run/#1.avi", "run/2.avi", "run/3.avi", "eat/4.avi"],
        {"train": [0, 1], "val": [1], "test": [1]},
        ["eat", "run"],
    ),
    "gym": (
        {
            "gym99_train.txt": "aaaaaaaaaaa_E_000001_000002_A_0001_0002 3\n",
            "gym99_val.txt": "aaaaaaaaaaa_E_000001_000002_A_0003_0004 1\n",
        },
        ["aaaaaaaaaaa_E_000001_000002_A_0001_0002.mkv", "aaaaaaaaaaa_E_000001_000002_A_0003_0004.mp4"],
        {"train": [3], "val": [1], "test": [1]},
        None,
    ),
    "csv": (
        {"train.csv": "path,label\na.mp4,dog\nb.mp4,cat\n", "val.csv": "path,label\nc.mp4,dog\n"},
        ["a.mp4", "b.mp4", "c.mp4"],
        {"train": [1, 0], "val": [1], "test": [1]},
        ["cat", "dog"],
    ),
    "videomae": (
        {"train.txt": "a b.mp4   4\n", "val.txt": "c.mp4\t0\n", "test.txt": "d.mp4 2\n"},
        ["a b.mp4", "c.mp4", "d.mp4"],
        {"train": [4], "val": [0], "test": [2]},
        None,
    ),
    "diving48": (
        {
            "Diving48_V2_train.json": '[{"vid_name": "a_0", "label": 7, "start_frame": 0, "end_frame": 30}]',
            "Diving48_V2_test.json": '[{"vid_name": "b_0", "label": 1, "start_frame": 0, "end_frame": 30}]',
        },
        ["a_0.mp4", "b_0.mp4"],
        {"train": [7], "test": [1], "val": [1]},
        None,
    ),
    "moments": (
        {"trainingSet.csv": "run/a.mp4,run,3,1\n", "validationSet.csv": "run/b.mp4,run,3,0\n"},
        ["training/run/a.mp4", "validation/run/b.mp4"],
        {"train": [0], "val": [0], "test": [0]},
        ["run"],
    ),
    "jsonl": ({"train.jsonl": '{"path": "a.mp4", "label": 3}\n'}, ["a.mp4"], {"train": [3]}, None),
    "videomaev2": ({"train.csv": "a.mp4 0 -1\n"}, ["a.mp4"], {"train": [-1]}, None),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_lists_of_a_data_set(form, sources):
    annotations, names, labels, classes = FORMS[form]
    lists, folder, out = sources(annotations, names)
    prepare.main(["--from", form, str(lists), "--videos", str(folder), "--out", str(out)])
    for part, expected in labels.items():
        plain, index = (read_list(out / f"{part}.{ending}") for ending in ("csv", "jsonl"))
        assert list(plain.labels) == list(index.labels) == expected
        assert list(plain.paths) == list(index.paths)
        for path in plain.paths:
            with open_video(path) as video:
                assert video.num_frames == 30
    assert (out / "labels.txt").exists() == (classes is not None)
    if classes:
        assert (out / "labels.txt").read_text().splitlines() == classes
    assert (out / "missing.txt").read_text() == ""


def test_a_folder_of_classes(sources):
    _, folder, out = sources({}, ["train/dog/1.mp4", "train/cat/2.mp4", "val/dog/3.mp4", "val/cat/4.mp4"])
    prepare.main(["--from", "folder", str(folder), "--out", str(out)])
    assert list(read_list(out / "train.csv").labels) == [0, 1]
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    assert (out / "val.csv").read_text() == (out / "test.csv").read_text()


def test_several_labels_a_video(sources, tmp_path):
    header = "original_vido_id video_id frame_id path labels\n"
    frames = [("AAA", 1, "3,1"), ("AAA", 2, "3"), ("BBB", 1, ""), ("BBB", 2, ""), ("CCC", 1, ""), ("CCC", 2, "156,3")]
    lines = [f'{name} 0 {number} {name}/{name}-{number:06}.jpg "{labels}"\n' for name, number, labels in frames]
    lists, folder, out = sources({"train.csv": header + "".join(lines)}, [])
    for name, number, _ in frames:
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(_paint(number, 64, 48)).save(folder / name / f"{name}-{number:06}.jpg")
    prepare.main(["--from", "charades", str(lists), "--videos", str(folder), "--out", str(out)])
    assert not (out / "train.csv").exists()
    call("check", out / "train.jsonl", "--out", tmp_path / "checked", "--full")
    made = read_list(tmp_path / "checked" / "train.jsonl")
    assert list(made.label_sets) == [(1, 3), (), (3, 156)] and made.num_classes == 157
    assert numbers(made.paths[0]) == [1, 2]
    assert made.moments.unit == "frames"  # what a training clip shows of a video's classes
    assert [sorted(map(tuple, video)) for video in made.moments.by_video] == [
        [(0, 0, 1), (0, 1, 3)],
        [],
        [(1, 1, 3), (1, 1, 156)],
    ]


def test_anomalies_are_reported(sources, capsys):
    lines = "a.mp4 0\nb.mp4 1\na.mp4 0\ngone.mp4 1\n"
    lists, folder, out = sources({"train.csv": lines, "val.csv": "b.mp4 1\n"}, ["a.mp4", "b.mp4"])
    prepare.main(["--from", "videomae", str(lists), "--videos", str(folder), "--out", str(out)])
    text = capsys.readouterr().out
    assert "train: 3 of 4 videos" in text
    assert re.search(r"1 are not there and left out, for example \S*gone\.mp4", text)
    assert re.search(r"1 are listed more than once, for example \S*a\.mp4", text)
    assert re.search(r"1 videos are in train and in val, for example \S*b\.mp4", text)
    assert (out / "missing.txt").read_text() == f"train\t{folder}/gone.mp4\n"
    assert len(read_list(out / "train.csv")) == 3


@pytest.mark.parametrize(("words", "message"), [
    (("--from", "csv", "LISTS", "--videos", "/none"), "none of the 1 videos is there, for example /none/a.mp4"),
    (("--from", "csv", "LISTS/nothing"), "does not exist"),
    (("--from", "ucf101", "LISTS"), "no lists of ucf101"),
    (("--from", "jsonl", "LISTS"), "no .jsonl with train, val or test in its name"),
    (("--from", "kinetics", "LISTS"), "youtube_id"),
])  # fmt: skip
def test_user_errors_of_prepare(words, message, sources, capsys):
    lists, _, out = sources({"train.csv": "path,label\na.mp4,1\n"}, [])
    with pytest.raises(SystemExit) as stopped:
        prepare.main([*(word.replace("LISTS", str(lists)) for word in words), "--out", str(out)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_a_folder_says_what_is_passed_over_and_reads_its_own_lists(sources, capsys):
    """Names that a list cannot hold, system names and empty classes do not stop the others."""
    names = ["dog/1.mp4", "cat/2.mp4", "cat/a\nb.mp4", "__MACOSX/._1.mp4", f"cat/{'x' * 251}.mp4", "cat/2.jpg"]
    _, folder, out = sources({}, names)
    (folder / "ant").mkdir()
    prepare.main(["--from", "folder", str(folder), "--out", str(out)])
    text = capsys.readouterr().out
    assert sorted(read_list(out / "train.csv").paths) == sorted(str(folder / names[place]) for place in (0, 1, 4))
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    for said in (
        "1 folders without a video are no classes: ant",
        "1 pictures beside videos: cat/2.jpg",
        "cat/a\\nb.mp4",
    ):
        assert said in text


def test_parts_of_one_list(sources):
    header, videos = "classname,youtube_id,subset,start,end,label\n", ["v_a.mp4", "v_b.mp4"]
    lines = "Run,a,training,1,3,1\nRun,a,training,5,7,-1\nWalk,b,validation,0,2,1\nWalk,a,training,8,9.5,1\n"
    lists, folder, out = sources({"HACS_clips_v1.1.1.csv": header + lines}, videos)
    prepare.main(["--from", "hacs", str(lists), "--videos", str(folder), "--out", str(out)])
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    path = str(folder / "v_a.mp4")
    assert rows == [
        {"path": path, "label": 0, "label_name": "Run", "start": 1.0, "end": 3.0},
        {"path": path, "label": 1, "label_name": "Walk", "start": 8.0, "end": 9.5},
    ]
    assert [json.loads(line)["label"] for line in (out / "val.jsonl").read_text().splitlines()] == [1]
