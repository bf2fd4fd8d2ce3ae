"""Lists are read as their authors meant them, or refused with the line's number and a remedy."""

import dataclasses
import hashlib
import os
import pickle
import shutil
import signal
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import run_in_processes

from datasets.decoding.shard_writing import write_shard
from datasets.errors import AnnotationError
from datasets.lists import columns as list_columns
from datasets.lists import read as annotations
from datasets.lists.checks import check_files, check_labels, count_classes, count_overlap, read_class_names
from datasets.lists.columns import Column, Columns
from datasets.lists.read import read_list


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


@pytest.mark.parametrize("line", ["b.mp4,1", "b.mp4, 1", '"b c.mp4",1'])
def test_comma_instead_of_blank(line, write_list):
    with pytest.raises(AnnotationError, match=r"train\.csv, line 2: comma.*Put a blank"):
        read_list(write_list(f"a.mp4 0\n{line}\n"))


@pytest.mark.parametrize("label", ["cat", "3.0", "nan", "1_0", "0x3", "label"])
def test_label_that_is_no_integer(label, write_list):
    with pytest.raises(AnnotationError, match=rf"line 3: label '{label}' is not an integer"):
        read_list(write_list(f"a.mp4 0\n\nb.mp4 {label}\n"))


def test_negative_label(write_list):
    with pytest.raises(AnnotationError, match="line 1: label -1 is negative"):
        read_list(write_list("a.mp4 -1\n"))


@pytest.mark.parametrize(("content", "line"), [("a.mp4 0\nb.mp4\n", 2), ("a.mp4\nb.mp4 1\n", 1)])
def test_labels_on_some_lines_only(content, line, write_list):
    with pytest.raises(AnnotationError, match=rf"line {line}: no label \(1 of 2 lines"):
        read_list(write_list(content))


@pytest.mark.parametrize("content", ["", "\n \n\t\n", b"\xef\xbb\xbf"])
def test_empty_list(content, write_list):
    with pytest.raises(AnnotationError, match="lists no videos"):
        read_list(write_list(content))


def test_missing_list(tmp_path):
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


def test_short_list_of_which_all_is_missing(tmp_path, write_list):
    videos = read_list(write_list("a.mp4 0\nb.mp4 0\nc.mp4 0\nd.mp4 0\n"), root=str(tmp_path))
    with pytest.raises(
        AnnotationError, match=rf"4 of 4 videos.*a\.mp4, .*b\.mp4, .*c\.mp4\. .*with {tmp_path}\. Check"
    ):
        check_files(videos)
    (tmp_path / "d.mp4").touch()
    assert len(check_files(videos)) == 3


def test_wrong_root_is_reported(write_list):
    videos = read_list(write_list("".join(f"{index}.mp4 0\n" for index in range(10))), root="/no/such")
    with pytest.raises(AnnotationError, match=r"10 of 10 videos do not exist.*joined with /no/such.*--data_root"):
        check_files(videos)


@pytest.mark.slow
def test_a_large_list_is_quick(write_list):
    file = write_list("".join(f"class {index % 400}/video_{index}.mp4 {index % 400}\n" for index in range(100_000)))
    start = time.process_time()  # whatever else the machine does
    videos = read_list(file, root="/no/such")
    with pytest.raises(AnnotationError, match="100000 of 100000"):
        check_files(videos)
    with pytest.raises(AnnotationError, match=r"50000 of 50000.*class 0/video_0"):
        check_files(videos, at_most=50_000)
    assert time.process_time() - start < 20


def test_implausibly_large_label_is_refused(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a.mp4 0\n\nb.mp4 99999999999\n")
    with pytest.raises(AnnotationError, match=r"train\.csv, line 3: label 99999999999.*--nb_classes"):
        count_classes(read_list(file))
    file.write_text("a.mp4 0\nb.mp4 6\n")
    assert count_classes(read_list(file)) == 7


def test_comments_and_names_that_look_like_them(write_list):
    videos = read_list(write_list("# path label\n#a.mp4 3\n# b.mp4 1\n"), root="/d")
    assert (videos.paths, videos.labels, videos.line_numbers) == (("/d/#a.mp4",), (3,), (2,))


def test_description_of_first_lines_and_anomalies(write_list):
    lines = read_list(write_list("\na b.mp4 3\na b.mp4 0\nc.mp4 3\nd.mp4 0\n"), root="/d").describe_lines()
    assert lines[:3] == ["line 2: /d/a b.mp4, label 3", "line 3: /d/a b.mp4, label 0", "line 4: /d/c.mp4, label 3"]
    twice = "1 paths are listed more than once, 1 of them"
    assert lines[3:] == [
        f"{twice} with different labels (line 2 and line 3); for several classes a video write `0;3`",
        "2 of 4 classes have no video (1, 2)",
    ]


def test_classes_that_are_named_and_have_no_video_are_told(write_list):
    videos = read_list(write_list("a.mp4 0\nb.mp4 2\n"), root="/d", class_names=["walk", "run", "jump", "sit"])
    assert videos.notes == ("2 of 4 classes have no video (1, 3)",)


def test_class_names_from_outside_number_the_labels(write_list):
    file = write_list("path,label\na.mp4,run\nb.mp4,jump\n")
    assert (read_list(file).labels, read_list(file).class_names) == ((1, 0), ("jump", "run"))
    videos = read_list(file, class_names=["walk", "run", "jump"])
    assert (videos.labels, videos.num_classes, videos.class_names) == ((1, 2), 3, ("walk", "run", "jump"))
    with pytest.raises(AnnotationError, match=r"line 3: label 'jump' is none of the 2 classes of names\.txt"):
        read_list(file, class_names=["walk", "run"], names_from="names.txt")


def test_numbered_class_names(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("0 bend\n1 jumping jack\n")
    assert read_class_names(file) == ["bend", "jumping jack"]
    file.write_text("0 bend\n2 jumping jack\n")
    assert read_class_names(file) == ["0 bend", "2 jumping jack"]


def test_bad_class_names(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text(" bend \njump \r\n\n \n")
    assert read_class_names(file) == ["bend", "jump"]
    for text, message in (
        ("a\n\nb\n", "line 2: no class name"),
        ("a\nb\n a\n", "line 3: 'a' is the class of line 1 as well"),
        ("0 a\n1 a\n", "line 2: 'a' is the class of line 1"),
        ("\n", "line 1: no class name"),
    ):
        file.write_text(text)
        with pytest.raises(AnnotationError, match=rf"labels\.txt, {message}"):
            read_class_names(file)
    with pytest.raises(AnnotationError, match="cannot be read: Is a directory"):
        read_class_names(tmp_path)


def test_overlap_of_lists(write_list):
    train, val = write_list("a.mp4 0\nb.mp4 1\n"), write_list("b.mp4 0\nc.mp4 1\nb.mp4 1\n", "val.csv")
    assert count_overlap(read_list(train, root="/d"), read_list(val, root="/d")) == 1


def test_folders_images_and_members_of_shards_are_there(tmp_path, write_list):
    (tmp_path / "frames").mkdir()
    for name in ("a.mp4", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    write_shard(tmp_path / "s.tar", [("c d.mp4", tmp_path / "a.mp4")])
    present = ["frames", "a.mp4", "b.png", "s.tar#c d.mp4"]
    absent = ["s.tar#e.mp4", "t.tar#c d.mp4", "c.mp4"]
    file = write_list("".join(f"{path} 0\n" for path in present + absent))
    assert check_files(read_list(file)) == [str(tmp_path / path) for path in absent]


def test_videos_without_extension_are_looked_for(tmp_path, write_list):
    (tmp_path / "v" / "x").mkdir(parents=True)
    for name in ("a.webm", "a.mp4", "x/b.AVI", "c"):
        (tmp_path / "v" / name).touch()
    file = write_list("a 0\nx/b 1\nc 2\nx 3\nlost 4\n")
    expected = [str(tmp_path / "v" / name) for name in ("a.mp4", "x/b.AVI", "c", "x", "lost")]
    assert list(read_list(file, root=str(tmp_path / "v")).paths) == expected
    assert read_list(file, root="/one").fingerprint == read_list(file, root=str(tmp_path / "v")).fingerprint


# ------------------------------------------------------------------------------------------------- large lists

KINDS = {
    "path label": "".join(f"ein Ordner/vidéo {i}.mp4 {i * 7 % 400}\n" for i in range(60_000)),
    "path": "".join(f"{i % 13}/{i}.mp4\n" for i in range(30_000)),
    "jsonl": "".join(
        f'{{"path": "a{i}.mp4", "label": "class {i % 5}"'
        + (f', "start": {i}, "end": {i + 2.5}}}\n' if i % 2 else "}\n")
        for i in range(30_000)
    ),
    "sets": "".join(f'{{"path": "{i}.mp4", "label": {list(range(i % 4))}}}\n' for i in range(30_000)),
}
COLUMNS = ("paths", "labels", "line_numbers", "label_sets", "spans")
FACTS = ("format", "root", "fingerprint", "num_classes", "class_names", "notes", "lowest_label")


def indexes(file):
    return sorted(Path(f"{file}.index").glob("*"))


@pytest.mark.parametrize("kind", KINDS)
def test_index_equals_list(kind, write_list, monkeypatch):
    file = write_list(KINDS[kind])
    monkeypatch.setattr(annotations, "INDEX_FROM", 10**9)
    plain = read_list(file, root="/d")
    assert isinstance(plain.paths, tuple) and not indexes(file)
    monkeypatch.setattr(annotations, "INDEX_FROM", 30_000)
    assert isinstance(read_list(file, root="/d").paths, Column)
    videos = read_list(file, root="/d")
    for name in FACTS:
        assert getattr(videos, name) == getattr(plain, name), name
    for name in COLUMNS:
        ours, theirs = getattr(videos, name), getattr(plain, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert tuple(ours) == theirs and ours[:5] == theirs[:5] and ours[7:90:9] == theirs[7:90:9]
            assert [ours[i] for i in (0, 1, -1, len(plain) - 1)] == [theirs[i] for i in (0, 1, -1, -1)]
            assert type(ours[3]) is type(theirs[3]) and len(ours) == len(theirs)
    assert len(indexes(file)) == 1


@pytest.fixture
def large(write_list, monkeypatch):
    monkeypatch.setattr(annotations, "INDEX_FROM", 100)
    return write_list("".join(f"{i}.mp4 {i % 3}\n" for i in range(1000)))


def test_pickled_index_is_small_and_opens_again(large):
    videos = read_list(large, root="/d")
    sent = pickle.dumps(videos)
    assert len(sent) < 2000
    again = pickle.loads(sent)
    assert again.paths[999] == "/d/999.mp4" and tuple(again.labels) == tuple(videos.labels)
    with pytest.raises(IndexError):
        again.paths[1000]
    large.write_text(large.read_text().replace("\n7.mp4", "\nx.mp4"))
    read_list(large, root="/d")
    list_columns._reopen.cache_clear()  # as in another process
    with pytest.raises(AnnotationError, match="was changed while this run was starting"):
        pickle.loads(sent)


def test_index_follows_the_list(large):
    first = read_list(large, root="/d")
    (index,) = indexes(large)
    written = index.stat().st_mtime_ns
    os.utime(large)  # another time, the same content
    assert read_list(large, root="/d").fingerprint == first.fingerprint and index.stat().st_mtime_ns == written
    large.write_text(large.read_text().replace("\n5.mp4 2", "\n5.mp4 9"))  # the same size
    changed = read_list(large, root="/d")
    assert (changed.labels[5], changed.num_classes) == (9, 10) and index.stat().st_mtime_ns != written
    assert (first.labels[5], first.paths[5]) == (2, "/d/5.mp4")  # who has the old one open keeps it
    assert read_list(large, root="/e").paths[5] == "/e/5.mp4" and len(indexes(large)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-100],
        lambda b: b"x" + b[1:],
        lambda b: b"",
        lambda b: b[:16],
        lambda b: b.replace(b'"paths"', b'"pathz"'),
        lambda b: b.replace(b'"facts"', b'"fakts"'),
        lambda b: b[:13] + b"\xff" * 8 + b[21:],
        lambda b: b.replace(b"<i8", b"<i4"),
        lambda b: b.replace(b"500.mp4", b"501.mp4"),  # nothing is out of place, but a path is wrong
        lambda b: b[:-4000] + bytes(4000),  # blocks that were not written before a machine stopped
    ],
)
def test_damaged_index_is_rebuilt(damage, large):
    expected = tuple(read_list(large, root="/d").paths)
    (index,) = indexes(large)
    whole = index.read_bytes()
    index.write_bytes(damage(whole))
    assert tuple(read_list(large, root="/d").paths) == expected and indexes(large) == [index]
    assert index.read_bytes() == whole


def test_of_a_very_large_index_pieces_are_checked(large, monkeypatch):
    for name, value in {"_PIECE": 64, "_ALL_UP_TO": 1000, "_PIECES": 5}.items():
        monkeypatch.setattr(list_columns, name, value)
    read_list(large, root="/d")
    (index,) = indexes(large)
    whole = index.read_bytes()
    end = len(whole) - 1
    start = end - list_columns.ColumnFile(index).array("lines").nbytes  # the last of the arrays
    for place, is_seen in ((start, False), (end, True)):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if is_seen:
            with pytest.raises(ValueError, match="is damaged"):
                list_columns.ColumnFile(index, check=True)
        else:
            list_columns.ColumnFile(index, check=True)


def test_index_of_another_form_is_rebuilt(large):
    read_list(large, root="/d")
    (index,) = indexes(large)
    columns = list_columns.ColumnFile(index)
    del columns.facts["list"]
    list_columns.write_columns(index, Columns(columns._arrays, columns.facts))
    assert read_list(large, root="/d").paths[3] == "/d/3.mp4" and "list" in list_columns.ColumnFile(index).facts


def test_index_follows_a_list_of_the_same_time(large):
    read_list(large, root="/d")
    times = large.stat()
    large.write_text(large.read_text().replace("\n5.mp4 2", "\n5.mp4 9"))
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert read_list(large, root="/d").labels[5] == 9


def test_index_follows_the_files_beside_the_list(write_list, monkeypatch, tmp_path):
    monkeypatch.setattr(annotations, "INDEX_FROM", 1)
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "1.webm").touch()
    file = write_list('[{"id": "1", "template": "x"}]', "train.json")
    for numbers, label in (('{"x": "0", "y": "1"}', 0), ('{"y": "0", "x": "1"}', 1)):
        write_list(numbers, "labels.json")
        assert [read_list(file, root=str(tmp_path / "v")).labels[0] for _ in range(2)] == [label] * 2
    assert indexes(file)


def test_index_follows_videos_that_were_looked_for(write_list, monkeypatch, tmp_path):
    monkeypatch.setattr(annotations, "INDEX_FROM", 1)
    file, video = write_list("v/a 0\n"), tmp_path / "v" / "a.webm"
    video.parent.mkdir()
    video.touch()
    assert read_list(file).paths[0] == str(video) and indexes(file)
    video.rename(video.with_suffix(".mp4"))
    assert read_list(file).paths[0] == str(video.with_suffix(".mp4"))


def test_index_does_not_move_with_its_folder(write_list, monkeypatch, tmp_path):
    monkeypatch.setattr(annotations, "INDEX_FROM", 1)
    (tmp_path / "one").mkdir()
    for name in ("one/a.mp4", "one/b.mp4"):
        (tmp_path / name).touch()
    file = write_list("a 0\nb.mp4 1\n", "one/train.csv")
    assert read_list(file).paths[0] == str(tmp_path / "one/a.mp4") and indexes(file)
    (tmp_path / "one").rename(tmp_path / "two")
    assert read_list(tmp_path / "two/train.csv").paths[0] == str(tmp_path / "two/a.mp4")


def test_index_is_not_read_twice(large, monkeypatch):
    read_list(large, root="/d")
    monkeypatch.setattr(annotations, "_parse", None)
    assert read_list(large, root="/d").labels[4] == 1


def test_memory_of_a_start_does_not_grow_with_the_list(write_list, monkeypatch):
    monkeypatch.setattr(annotations, "INDEX_FROM", 100)
    peaks = []
    for count in (1_000, 100_000):
        file = write_list("".join(f"{i}.mp4 {i % 3}\n" for i in range(count)), f"{count}.csv")
        read_list(file, root="/d")
        tracemalloc.start()
        assert read_list(file, root="/d").paths[count - 1] == f"/d/{count - 1}.mp4"
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 100_000 and peaks[1] < 2 * peaks[0]


def test_several_ranks_at_once(large):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: tuple(read_list(large, root="/d").paths), range(8)))
    assert len(set(found)) == 1 and len(indexes(large)) == 1


def test_another_process_writes_the_index_meanwhile(large, monkeypatch):
    """Each writes a file of its own, and whoever comes last puts a whole one in the place of a whole one."""
    expected = tuple(read_list(large, root="/d").paths)
    shutil.rmtree(f"{large}.index")
    write, others = os.fsync, []

    def let_another_process_go_first(handle):
        monkeypatch.setattr(list_columns.os, "fsync", write)
        others.extend(run_in_processes(lambda: read_list(large, root="/d").paths[0]))
        others.append(indexes(large))
        write(handle)

    monkeypatch.setattr(list_columns.os, "fsync", let_another_process_go_first)
    assert tuple(read_list(large, root="/d").paths) == expected
    finished, (theirs, ours) = others
    assert finished.code == 0, finished.stderr
    assert (theirs.suffix, ours.suffix) == (".columns", ".part") and indexes(large) == [theirs]
    list_columns.ColumnFile(theirs, check=True)
    assert tuple(read_list(large, root="/d").paths) == expected


def test_process_that_is_killed_while_it_writes_the_index(large, monkeypatch):
    def killed():
        monkeypatch.setattr(list_columns.os, "fsync", lambda handle: os.kill(os.getpid(), signal.SIGKILL))
        read_list(large, root="/d")

    (finished,) = run_in_processes(killed)
    assert finished.code == -signal.SIGKILL
    assert [path.suffix for path in indexes(large)] == [".part"]  # is never taken for an index
    videos = read_list(large, root="/d")
    assert isinstance(videos.paths, Column) and videos.paths[999] == "/d/999.mp4" and len(indexes(large)) == 2
    monkeypatch.setattr(annotations, "_parse", None)
    assert tuple(read_list(large, root="/d").labels) == tuple(i % 3 for i in range(1000))


def test_folder_that_cannot_hold_an_index(large, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path(f"{large}.index").touch()  # no folder can be made here; root may write everywhere else
    assert isinstance(read_list(large, root="/d").paths, Column)
    assert len(list((tmp_path / "cache").rglob("*.columns"))) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(large))
    assert read_list(large, root="/e").paths[3] == "/e/3.mp4"


def test_errors_of_a_large_list_come_before_its_index(large):
    large.write_text(large.read_text() + "b.mp4\n")
    with pytest.raises(AnnotationError, match=r"line 1001: no label \(1 of 1001 lines"):
        read_list(large)
    assert not indexes(large)
