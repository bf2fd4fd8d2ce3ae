"""Lists are read as their authors meant them, or refused with the line's number and a remedy."""

import dataclasses
import hashlib
import time

import pytest

from datasets.annotations import AnnotationError, check_files, check_labels, count_classes, read_list


@pytest.fixture
def write_list(tmp_path):
    def write(content, name="train.csv"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


@pytest.mark.parametrize(
    "content",
    [
        "a.mp4 3\nb.mp4 0\n",
        "a.mp4  3\nb.mp4\t0",  # VideoMAE's own README has two blanks
        "a.mp4 \t 3\r\nb.mp4 0\r\n",
        "\ufeffa.mp4 3\nb.mp4 0\n",
        "\n  a.mp4 3  \n\n\nb.mp4 0\n\n",
    ],
)
def test_path_and_label(content, write_list):
    videos = read_list(write_list(content), root="/data", require_labels=True)
    assert videos.paths == ("/data/a.mp4", "/data/b.mp4")
    assert videos.labels == (3, 0)
    assert (videos.format, len(videos), videos.num_classes, videos.root) == ("path label", 2, 4, "/data")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("skiing (not slalom)/a b.mp4 7", "skiing (not slalom)/a b.mp4"),
        ("#20_Rythm.avi 7", "#20_Rythm.avi"),
        ("x, y/a,b.mp4 7", "x, y/a,b.mp4"),
        ("kIRmvrmc2nM_000020_000030 7", "kIRmvrmc2nM_000020_000030"),
        ("[a]{b}'c'.mp4 7", "[a]{b}'c'.mp4"),
        ("vidéo/日本.mp4 7", "vidéo/日本.mp4"),
    ],
)
def test_paths_may_hold_anything(line, path, write_list):
    videos = read_list(write_list(line), root="/data")
    assert (videos.paths, videos.labels) == ((f"/data/{path}",), (7,))


def test_list_without_labels(write_list):
    file = write_list("a.mp4\nmy holiday.mp4\na,b.mp4\n")
    videos = read_list(file, root="/data")
    assert videos.paths == ("/data/a.mp4", "/data/my holiday.mp4", "/data/a,b.mp4")
    assert (videos.labels, videos.format, videos.num_classes) == ((-1, -1, -1), "path", 0)
    with pytest.raises(AnnotationError, match="line 1: no label"):
        read_list(file, root="/data", require_labels=True)


@pytest.mark.parametrize("line", ["b.mp4,1", "b.mp4, 1", "path,label", '"b c.mp4",1'])
def test_comma_instead_of_blank(line, write_list):
    with pytest.raises(AnnotationError, match=r"train\.csv, line 2: comma.*Put a blank"):
        read_list(write_list(f"a.mp4 0\n{line}\n"))


@pytest.mark.parametrize("label", ["cat", "3.0", "nan", "1_0", "0x3", "label"])
def test_label_that_is_no_integer(label, write_list):
    with pytest.raises(AnnotationError, match=rf"line 3: label '{label}' is not an integer"):
        read_list(write_list(f"a.mp4 0\n\nb.mp4 {label}\n"))


def test_negative_label(write_list):
    with pytest.raises(AnnotationError, match="line 1: label -1 is negative"):
        read_list(write_list("a.mp4 0 -1\n"))


@pytest.mark.parametrize(("content", "line"), [("a.mp4 0\nb.mp4\n", 2), ("a.mp4\nb.mp4 1\n", 1)])
def test_labels_on_some_lines_only(content, line, write_list):
    with pytest.raises(AnnotationError, match=rf"line {line}: no label \(1 of 2 lines"):
        read_list(write_list(content))


@pytest.mark.parametrize("content", ["", "\n \n\t\n", b"\xef\xbb\xbf"])
def test_empty_list(content, write_list):
    with pytest.raises(AnnotationError, match="lists no videos"):
        read_list(write_list(content))


def test_list_that_is_not_there(tmp_path):
    with pytest.raises(AnnotationError, match=r"nowhere\.csv cannot be read: No such file"):
        read_list(tmp_path / "nowhere.csv")


def test_list_that_is_not_text(write_list):
    with pytest.raises(AnnotationError, match="not UTF-8"):
        read_list(write_list("a.mp4 0".encode("utf-16")))


def test_relative_paths(tmp_path, write_list, monkeypatch):
    """Current directory if they are there, else beside the list."""
    here = tmp_path / "here"
    (here / "videos").mkdir(parents=True)
    monkeypatch.chdir(here)
    file = write_list("videos/a.mp4 0\n/abs/b.mp4 1\n")
    assert read_list(file).paths == (str(here / "videos/a.mp4"), "/abs/b.mp4")  # found nowhere
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").touch()
    assert read_list(file).paths == (str(tmp_path / "videos/a.mp4"), "/abs/b.mp4")
    (here / "videos/a.mp4").touch()
    assert read_list(file).paths == (str(here / "videos/a.mp4"), "/abs/b.mp4")
    assert read_list(file, root="/r").paths == ("/r/videos/a.mp4", "/abs/b.mp4")


def test_fingerprint_is_of_the_list_as_written(write_list):
    file = write_list("a b.mp4  3\r\nc.mp4 0\n")
    expected = hashlib.sha256(b"a b.mp4\t3\nc.mp4\t0\n").hexdigest()
    fingerprint = read_list(file, root="/one").fingerprint
    assert expected.startswith(fingerprint) and len(fingerprint) == 12
    assert read_list(file, root="/two").fingerprint == fingerprint
    assert read_list(write_list("a b.mp4 3\nc.mp4 1\n"), root="/one").fingerprint != fingerprint


def test_describe(write_list):
    videos = read_list(write_list("a.mp4 3\nb.mp4 0\n"))
    text = videos.describe()
    for part in ("train.csv", "'path label'", "2 videos", "4 classes", videos.fingerprint):
        assert part in text


def test_videos_cannot_be_changed(write_list):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_list(write_list("a.mp4 3\n")).root = "/"


def test_labels_must_fit_the_classes(write_list):
    videos = read_list(write_list("\na.mp4 3\nb.mp4 10\n"))
    check_labels(videos, 11)
    with pytest.raises(AnnotationError, match=r"train\.csv, line 3: label 10 does not fit 10 classes"):
        check_labels(videos, 10)
    with pytest.raises(AnnotationError, match="has no labels"):
        check_labels(read_list(write_list("a.mp4\n")), 10)


def test_a_handful_of_missing_files_is_returned(tmp_path, write_list):
    for index in range(5, 3000):
        (tmp_path / f"{index}.mp4").touch()
    videos = read_list(write_list("".join(f"{index}.mp4 0\n" for index in range(3000))), root=str(tmp_path))
    assert check_files(videos) == [str(tmp_path / f"{index}.mp4") for index in range(5)]
    with pytest.raises(AnnotationError, match=r"5 of 3000 videos do not exist.*0\.mp4, .*1\.mp4, .*2\.mp4\. .*joined"):
        check_files(videos, handful=4)


def test_wrong_root_is_told(write_list):
    videos = read_list(write_list("".join(f"{index}.mp4 0\n" for index in range(10))), root="/no/such")
    with pytest.raises(AnnotationError, match=r"10 of 10 videos do not exist.*joined with /no/such.*--data_root"):
        check_files(videos)


def test_a_large_list_is_quick(write_list):
    file = write_list("".join(f"class {index % 400}/video_{index}.mp4 {index % 400}\n" for index in range(240_000)))
    start = time.perf_counter()
    videos = read_list(file, root="/no/such")
    with pytest.raises(AnnotationError, match="240000 of 240000"):
        check_files(videos)
    assert time.perf_counter() - start < 20


def test_a_label_too_large_to_be_meant_is_refused(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a.mp4 0\n\nb.mp4 99999999999\n")
    with pytest.raises(AnnotationError, match=r"train\.csv, line 3: label 99999999999.*--nb_classes"):
        count_classes(read_list(file))
    file.write_text("a.mp4 0\nb.mp4 6\n")
    assert count_classes(read_list(file)) == 7
