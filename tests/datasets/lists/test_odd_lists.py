"""Lists that are odd somewhere: one clear error with the true line, and no list that is no file is waited for."""

import gzip
import os
import socket

import pytest

from datasets.errors import AnnotationError
from datasets.lists.checks import check_files, check_labels, read_class_names
from datasets.lists.read import read_list

GOOD = "".join(f"d/v{number}.mp4 {number % 3}\n" for number in range(8))
ODD = {
    "two numbers": "d/v9.mp4 1 2",
    "three numbers": "d/v9.mp4 0 1 2",
    "numbers behind tabs": "d/v9.mp4\t1\t2",
    "two paths": "d/v9.mp4 d/v10.mp4 1",
    "a quote": '"d/v9.mp4 1',
    "no label": "d/v9.mp4",
    "a comma": "d/v9.mp4,1",
    "a semicolon": "d/v9.mp4;1",
    "a name": "d/v9.mp4 run",
    "a fraction": "d/v9.mp4 1.0",
    "below 0": "d/v9.mp4 -1",
    "no path": "3",
    "a null byte": "d/v\0.mp4 1",
    "https": "https://x.org/a.mp4 1",
    "file": "file:///d/v9.mp4 1",
    "s3": "s3://b/a.mp4 1",
    "home": "~/v9.mp4 1",
    "variable": "$HOME/v9.mp4 1",
}


@pytest.mark.parametrize("kind", ODD)
def test_a_line_unlike_the_others_is_an_error(kind, tmp_path):
    file = tmp_path / "x.txt"
    file.write_text(f"{GOOD}{ODD[kind]}\nd/z.mp4 0\n")
    with pytest.raises(AnnotationError, match=r"x\.txt, line 9: "):
        read_list(file, root="/d")


def test_an_odd_first_line(tmp_path):
    (tmp_path / "x.txt").write_text(f"d/v.mp4 1 2\n{GOOD}")
    with pytest.raises(AnnotationError, match=r"line 1: 'd/v\.mp4 1 2' is not like the other lines"):
        read_list(tmp_path / "x.txt")


def test_paths_that_all_end_in_a_number_may_be_meant(tmp_path):
    (tmp_path / "x.txt").write_text("a.mp4 1 2\nb.mp4 1 0\n")
    assert read_list(tmp_path / "x.txt", list_format="videomae", root="/d").paths == ("/d/a.mp4 1", "/d/b.mp4 1")


@pytest.mark.parametrize("count", [3, 60])
@pytest.mark.parametrize("header", ["", "path,label\n"])
def test_a_row_unlike_the_others(header, count, tmp_path):
    rows = "".join(f"{number}.mp4,{number % 2}\n" for number in range(count))
    (tmp_path / "x.csv").write_text(f"{header}{rows}z.mp4,1,2\n")
    with pytest.raises(AnnotationError, match=rf"line {count + 1 + bool(header)}: 3 columns"):
        read_list(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("path", "remedy"),
    [("file:///d/a.mp4", r"Write /d/a\.mp4"), ("HTTPS://x/a.mp4", "Download"), ("gs://b/a.mp4", "Down")],
)
def test_only_shards_may_be_remote(path, remedy, tmp_path):
    (tmp_path / "x.jsonl").write_text(f'{{"path": "a.mp4"}}\n{{"path": "{path}"}}\n')
    with pytest.raises(AnnotationError, match=rf"line 2: .*only shards may be remote.*{remedy}"):
        read_list(tmp_path / "x.jsonl")
    (tmp_path / "x.txt").write_text("s3://b/x.tar#a.mp4 0\n")
    assert read_list(tmp_path / "x.txt").paths == ("s3://b/x.tar#a.mp4",)


@pytest.mark.parametrize("path", ["d\\v9.mp4", "C:\\d\\v9.mp4", "d/a\\b.mp4"])
def test_paths_of_windows(path, tmp_path):
    """One that is there is a name like any other; one that is not is not counted among the few lost videos."""
    (tmp_path / "x.txt").write_text(f"a.mp4 0\nb.mp4 1\n{path} 1\n")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(AnnotationError, match=r"x\.txt, line 3: .*one of Windows"):
        check_files(read_list(tmp_path / "x.txt", root=str(tmp_path)))
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
    assert check_files(read_list(tmp_path / "x.txt", root=str(tmp_path))) == []


@pytest.mark.parametrize(
    "text",
    ["a b.mp4 1\r\né.mp4 0\r\n", "\ufeffa b.mp4 1\né.mp4 0\n", "a b.mp4 1\ré.mp4 0\r", "a b.mp4\t1\né.mp4\t0\n",
     '\ufeffpath,label\r\n"a b.mp4",1\r\né.mp4,0\r\n'],
)  # fmt: skip
def test_line_ends_marks_and_tabs(text, tmp_path):
    (tmp_path / "x.csv").write_bytes(text.encode())
    videos = read_list(tmp_path / "x.csv", root="/d")
    assert videos.paths == ("/d/a b.mp4", "/d/é.mp4") and videos.labels == (1, 0)


@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.jsonl"])
def test_bytes_that_are_not_utf8_are_named(name, tmp_path):
    before = {"x.csv": b"path,label\n", "x.jsonl": b'{"path": "a.mp4"}\n'}.get(name, b"a.mp4 0\n") * 1
    line = b'{"path": "\xe9.mp4"}\n' if name == "x.jsonl" else b"\xe9.mp4,1\n"
    (tmp_path / name).write_bytes(before + b"\n" + line)
    with pytest.raises(AnnotationError, match=rf"{name}, line 3: not UTF-8 text \(byte 0xe9 at place"):
        read_list(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (gzip.compress(GOOD.encode()), "packed with gzip"),
        (b"PK\x03\x04\x14\0\x8f", "a zip archive or a spreadsheet"),
        (b"\0\0\0\x20ftypisom\xff\xfe", "a video"),
        (GOOD.encode("utf-16"), "UTF-16 text, not UTF-8"),
    ],
    ids=["gzip", "zip", "video", "UTF-16"],  # of the content they would hold gzip's time, another in each worker
)
def test_files_that_are_no_text(content, match, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"x\.csv is {match}"):
        read_list(tmp_path / "x.csv")


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(tmp_path / "socket"))
    for name in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero", "/dev/urandom"):
        for list_format in ("auto", "jsonl", "kinetics", "ssv2"):
            with pytest.raises(AnnotationError, match="is a pipe, a device or a socket"):
                read_list(name, list_format=list_format)
    bound.close()
    with pytest.raises(AnnotationError, match="is a pipe"):
        read_class_names(tmp_path / "pipe")
    with pytest.raises(AnnotationError, match="is a folder"):
        read_list(tmp_path, list_format="csv")


def test_messages_and_banners_name_what_the_list_counts(tmp_path):
    """Entries of a json array are not on lines of their own; one class is not "1 classes"."""
    (tmp_path / "train.json").write_text('[{"path": "a.mp4", "label": 0},\n\n{"path": "b.mp4", "label": 0}]')
    videos = read_list(tmp_path / "train.json", root="/d")
    assert videos.describe_lines(2) == ["entry 1: /d/a.mp4, label 0", "entry 2: /d/b.mp4, label 0"]
    assert "2 videos, 1 class, " in videos.describe()
    with pytest.raises(AnnotationError, match=r"train\.json, entry 1: label 0 does not fit 0 classes"):
        check_labels(videos, 0)
    (tmp_path / "set" / "run").mkdir(parents=True)
    (tmp_path / "set" / "run" / "a.mp4").touch()
    folder = read_list(tmp_path / "set", list_format="folder")
    assert folder.describe_lines() == [f"video 1: {tmp_path}/set/run/a.mp4, label 0 (run)"]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "N/A", "-"])
@pytest.mark.parametrize("place", [0, 2])
def test_words_for_nothing_among_numbers_are_no_classes(place, word, tmp_path):
    labels = ["1", "0", "1"]
    labels[place] = word
    (tmp_path / "x.csv").write_text("path,label\n" + "".join(f"{n}.mp4,{label}\n" for n, label in enumerate(labels)))
    with pytest.raises(AnnotationError, match=rf"line {place + 2}: label '{word}' "):
        read_list(tmp_path / "x.csv")


def test_such_a_word_among_names_is_a_class(tmp_path):
    (tmp_path / "x.csv").write_text("path,label\na.mp4,None\nb.mp4,wave\n")
    assert read_list(tmp_path / "x.csv").class_names == ("None", "wave")


@pytest.mark.parametrize("other", ["d/a.mp4", "d/./a.mp4", "d//a.mp4", "./d/a.mp4"])
def test_paths_listed_twice(other, tmp_path):
    (tmp_path / "same.txt").write_text(f"d/b.mp4 0\nd/a.mp4 1\n{other} 1\n")
    assert read_list(tmp_path / "same.txt", root="/r").notes == ("1 paths are listed more than once",)
    (tmp_path / "x.txt").write_text(f"d/b.mp4 0\nd/a.mp4 1\n{other} 0\nd/b.mp4 0\n")
    note = "2 paths are listed more than once, 1 of them with different labels (line 2 and line 3); for several classes"
    assert read_list(tmp_path / "x.txt", root="/r").notes == (f"{note} a video write `0;3`",)


def test_two_columns_of_one_name(tmp_path):
    (tmp_path / "x.csv").write_text("path,label,Label\na.mp4,0,1\n")
    with pytest.raises(AnnotationError, match="two columns are called 'label'"):
        read_list(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "start", ["version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "<!DOCTYPE html>\n<html>"]
)
@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.json"])
def test_files_in_place_of_a_list_are_named(start, name, tmp_path):
    (tmp_path / name).write_text(start)
    with pytest.raises(AnnotationError, match="git lfs pull" if "lfs" in start else "a web page"):
        read_list(tmp_path / name)
