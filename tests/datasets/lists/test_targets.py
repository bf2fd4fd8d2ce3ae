"""Lists with several classes, or a number, for every video."""

import pickle
import re

import pytest
import torch

from datasets.errors import AnnotationError
from datasets.lists import read as reading
from datasets.lists.checks import check_labels, refuse_same_videos
from datasets.lists.read import read_list
from datasets.loading.batch import collate


def read(tmp_path, text, name="train.csv", **options):
    (tmp_path / name).write_text(text)
    return read_list(tmp_path / name, require_labels=True, **options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,labels\na.mp4,0;2\nb.mp4,\nc.mp4,1\n"),
        ("a.csv", 'path,labels\na.mp4,"2, 0"\nb.mp4,""\nc.mp4,1\n'),
        ("a.csv", "path\tlabel\na.mp4\t0|2\nb.mp4\t\nc.mp4\t1\n"),
        (
            "a.jsonl",
            '{"path": "a.mp4", "label": [0, 2]}\n{"path": "b.mp4", "label": []}\n{"path": "c.mp4", "label": 1}\n',
        ),
        (
            "a.jsonl",
            '{"video": "a.mp4", "labels": ["a", "c"]}\n{"video": "b.mp4", "labels": []}\n'
            '{"video": "c.mp4", "labels": ["b"]}\n',
        ),
        ("a.csv", "path,class\na.mp4,c;a\nb.mp4,\nc.mp4,b\n"),
        ("a.csv", "path,class\nb.mp4,\na.mp4,c | a\nc.mp4,b\n"),
    ],
)
def test_several_classes(tmp_path, name, text):
    videos = read(tmp_path, text, name, labels="classes")
    found = {path[-5:]: labels for path, labels in zip(videos.paths, videos.label_sets, strict=True)}
    assert {path: sorted(labels) for path, labels in found.items()} == {"a.mp4": [0, 2], "b.mp4": [], "c.mp4": [1]}
    assert videos.num_classes == 3 and videos.class_names in ((), ("a", "b", "c"))
    targets = videos.with_targets(4).labels
    assert len(targets) == 3 and targets[videos.paths.index(next(p for p in videos.paths if "a.mp4" in p))] == [
        1,
        0,
        1,
        0,
    ]


def test_a_list_with_one_class_a_video_is_a_special_case(tmp_path):
    videos = read(tmp_path, "a.mp4 2\nb.mp4 0\n", labels="classes")
    assert list(videos.label_sets) == [(2,), (0,)] and videos.with_targets(3).labels[0] == [0, 0, 1]
    check_labels(videos, 3, labels="classes")
    with pytest.raises(AnnotationError, match="line 1: label 2 does not fit 2 classes"):
        check_labels(videos, 2, labels="classes")


def test_names_follow_labels_txt(tmp_path):
    text = "path,label\na.mp4,jump;run\nb.mp4,run\n"
    videos = read(tmp_path, text, labels="classes", class_names=["run", "fall", "jump"])
    assert [sorted(labels) for labels in videos.label_sets] == [[0, 2], [0]]
    with pytest.raises(AnnotationError, match="label 'jump' is none of the 2 classes"):
        read(tmp_path, text, labels="classes", class_names=["run", "fall"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,target\na.mp4,0.5\nb.mp4,-3\nc.mp4,1e9\n"),
        ("a.csv", "a.mp4 0.5\nb.mp4 -3\nc.mp4 1e9\n"),
        ("a.csv", "a b.mp4 0.5\nb.mp4 -3\nc.mp4 1e9\n"),
        ("a.csv", "a.mp4,0.5\nb.mp4,-3\nc.mp4,1e9\n"),
        (
            "a.jsonl",
            '{"path": "a.mp4", "label": 0.5}\n{"path": "b.mp4", "label": -3}\n{"path": "c.mp4", "label": "1e9"}\n',
        ),
    ],
)
def test_numbers(tmp_path, name, text):
    videos = read(tmp_path, text, name, labels="value")
    assert list(videos.values) == [0.5, -3.0, 1e9] and list(videos.with_targets(1).labels) == [0.5, -3.0, 1e9]
    assert "numbers from -3 to 1e+09" in videos.describe() and "label 0.5" in videos.describe_lines()[0]
    assert pickle.loads(pickle.dumps(videos)).values == videos.values


@pytest.mark.parametrize(
    ("labels", "text", "words"),
    [
        ("value", "path,target\na.mp4,tall\n", "line 2: label 'tall' is not a number"),
        ("value", "path,target\na.mp4,nan\n", "line 2: label 'nan' is not a number"),
        ("value", "path,target\na.mp4,1\nb.mp4,inf\n", "line 3: label 'inf' is not a number"),
        ("value", "path,target\na.mp4,1\nb.mp4,\n", "line 3: no label"),
        ("value", "path\na.mp4\nb.mp4\n", "no label"),
        ("value", "path,score\na.mp4,1\nb.mp4,2\n", "not read: score.* needs a number .* in a column `target`"),
        ("classes", "path,labels\na.mp4,0;run\nb.mp4,1\n", "label"),
        ("classes", "path,labels\na.mp4,\nb.mp4,\n", "no label .*classes that at least one video has"),
        ("classes", "path,labels\na.mp4,0.5\nb.mp4,1\n", r"line 2: label '0\.5': .*--task regression"),
        ("classes", "path,labels\na.mp4,run;2.0\n", r"line 2: label '2\.0': write 2, not 2\.0"),
        ("classes", "path,labels\na.mp4,0\nb.mp4,0;-1\n", "line 3: label '-1': labels are whole numbers from 0"),
        ("classes", "path,labels\na.mp4,0;1\nb.mp4,run\n", "is a set of names, that of line 2 a set of numbers"),
        ("class", "path,target\na.mp4,0.5\nb.mp4,1\n", "label '0.5': labels are whole numbers from 0"),
    ],
)
def test_labels_that_are_refused(tmp_path, labels, text, words):
    with pytest.raises(AnnotationError, match=words):
        read(tmp_path, text, labels=labels)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,label,target\na.mp4,3,0.5\nb.mp4,1,2\n"),
        ("a.jsonl", '{"path": "a.mp4", "label": 3, "target": 0.5}\n{"path": "b.mp4", "label": 1, "target": 2}\n'),
    ],
)
def test_beside_a_class_the_target_is_the_number(tmp_path, name, text):
    assert list(read(tmp_path, text, name, labels="value").values) == [0.5, 2.0]
    assert list(read(tmp_path, text, name).labels) == [3, 1]


@pytest.mark.parametrize(
    ("labels", "text", "words"),
    [
        ("class", "a.mp4 0\nb.mp4 1\na.mp4 0\n", "1 paths are listed more than once"),
        (
            "class",
            "a.mp4 0\nb.mp4 1\na.mp4 1\na.mp4 1\n",
            "2 paths .*once, 1 of them with different labels .*; for several",
        ),
        ("value", "a.mp4 0.5\nb.mp4 1\na.mp4 2\n", "1 paths .*once, 1 of them with different labels [^;]*$"),
        (
            "classes",
            "path,label\na.mp4,0;1\nb.mp4,\na.mp4,1\nb.mp4,\n",
            "2 paths .*once, 1 of them with different labels",
        ),
        ("classes", "path,label\na.mp4,0;1\nb.mp4,\na.mp4,0;1\nb.mp4,\n", "2 paths are listed more than once$"),
    ],
)
def test_videos_that_are_listed_with_different_labels(tmp_path, labels, text, words):
    note = next(note for note in read(tmp_path, text, labels=labels).notes if "more than once" in note)
    assert re.search(words, note) and ("different" in note) == ("different" in words), note


def test_the_index_of_a_long_list_has_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "INDEX_FROM", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = "path,label\n" + "".join(f"{i}.mp4,{i}\n" for i in range(4))
    for _ in range(2):  # read, then from the index
        assert list(read(tmp_path, text, labels="value").values) == [0.0, 1.0, 2.0, 3.0]
        assert list(read(tmp_path, text, labels="classes").label_sets) == [(0,), (1,), (2,), (3,)]
        assert list(read(tmp_path, text).labels) == [0, 1, 2, 3]
    assert list((tmp_path / "train.csv.index").iterdir())


def test_batches_of_targets():
    clip = torch.zeros(2, 1, 3, 2, 2, dtype=torch.uint8)  # two repeats
    items = [{"clip": clip, "index": 0, "failures": []}, {"clip": clip, "index": 1, "failures": []}]
    several = collate([{**items[0], "label": [1, 0, 1]}, {**items[1], "label": [0, 0, 0]}]).label
    assert several.tolist() == [[1, 0, 1]] * 2 + [[0, 0, 0]] * 2
    numbers = collate([{**items[0], "label": 1.7e9 + 1}, {**items[1], "label": -2.0}]).label
    assert numbers.dtype == torch.float64 and numbers.tolist() == [1.7e9 + 1] * 2 + [-2.0] * 2


def test_a_choice_on_the_test_list_is_refused(tmp_path):
    val = read(tmp_path, "v/a.mp4 0\nv/b.mp4 1\n", "val.csv")
    for same in ("v/b.mp4 1\nv/a.mp4 0\n", "v/b.mp4 1\n", "v/../v/a.mp4 0\nv/b.mp4 1\nv/c.mp4 0\n"):
        with pytest.raises(AnnotationError, match="hold the same videos"):
            refuse_same_videos(val, read(tmp_path, same, "test.csv"))
    assert refuse_same_videos(val, read(tmp_path, "v/b.mp4 1\nv/c.mp4 0\n", "test.csv")) == 1
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").touch()
        (tmp_path / f"link {name}.mp4").symlink_to(tmp_path / f"{name}.mp4")
    one, other = (read(tmp_path, f"{x}a.mp4 0\n{x}b.mp4 1\n", "v.csv", root=str(tmp_path)) for x in ("", "link "))
    with pytest.raises(AnnotationError, match=r"hold the same videos \(2\)"):
        refuse_same_videos(one, other)
    parts = "path,label,start,end\nv/a.mp4,0,0,1\n"
    assert refuse_same_videos(val, read(tmp_path, parts, "test.csv")) == 0
