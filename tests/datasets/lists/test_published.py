"""Lists as data sets publish them, with their true headers, and lists that are refused with what was found."""

import json
import os

import pytest

from datasets.errors import AnnotationError
from datasets.lists.checks import check_files
from datasets.lists.read import read_list


@pytest.fixture
def data(tmp_path):
    """Writes a list and files beside it, and empty videos below tmp_path/v; gives the list."""

    def data(name, text, videos=(), **beside):
        for file, content in {name: text, **{key.replace("__", "."): value for key, value in beside.items()}}.items():
            (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
        for video in videos:
            file = tmp_path / "v" / video
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path / name

    return data


def read(file, **settings):
    """Path, class and span of every video."""
    root = str(file.parent / "v")
    videos = read_list(file, root=root, **settings)
    names = videos.class_names or range(videos.num_classes)
    rows = zip(videos.samples(), videos.labels, strict=True)
    return [(os.path.relpath(path, root), None if label < 0 else names[label], span) for (path, span), label in rows]


DIVES = [
    {"vid_name": "_8Vy3dlHg2w_00000", "label": 1, "start_frame": 0, "end_frame": 130},
    {"vid_name": "_8Vy3dlHg2w_00001", "label": 0, "start_frame": 0, "end_frame": 99},
]


def test_diving48(data):
    file = data("Diving48_V2_train.json", DIVES, ["_8Vy3dlHg2w_00000.mp4", "_8Vy3dlHg2w_00001.webm"])
    assert read(file) == [("_8Vy3dlHg2w_00000.mp4", 1, None), ("_8Vy3dlHg2w_00001.webm", 0, None)]
    words = [["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]
    data("Diving48_vocab.json", words)
    assert [label for _, label, _ in read(file)] == ["Back 15som 15Twis FREE", "Back 15som 05Twis FREE"]
    file.write_text(json.dumps([*DIVES, {"vid_name": "x", "label": "y"}]))
    with pytest.raises(AnnotationError, match=r"train\.json, entry 3: label 'y' is not a number"):
        read(file)


def test_array_of_objects(data):
    file = data(
        "val.json", [{"path": "a.mp4", "label": "run", "start": 1, "end": 2.5}, {"path": "b.mp4", "label": "go"}]
    )
    assert read(file) == [("a.mp4", "run", (1.0, 2.5)), ("b.mp4", "go", None)]
    for bad, match in (
        ({"paths": "c"}, "entry 2: no path.* the fields are: paths"),
        (["c", 1], "entry 2: not an object"),
    ):
        file.write_text(json.dumps([{"path": "a.mp4", "label": 1}, bad]))
        with pytest.raises(AnnotationError, match=match):
            read(file)


KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\nrun,abc,1,11,train,0\njump,abc,20,30,train,0\n"


def test_segments_of_one_uncut_video_are_spans(data):
    file = data("train.csv", KINETICS, ["abc.mp4"])
    assert read(file) == [("abc.mp4", "run", (1.0, 11.0)), ("abc.mp4", "jump", (20.0, 30.0))]


def test_segments_in_files_of_their_own_are_whole(data):
    file = data("train.csv", KINETICS, ["abc_000001_000011.mp4", "abc_000020_000030.mp4"])
    assert read(file) == [("abc_000001_000011.mp4", "run", None), ("abc_000020_000030.mp4", "jump", None)]


@pytest.mark.parametrize("cut", ["abc_000001_000011.mp4", "abc_000020_000030.mp4"])
def test_segments_partly_cut_are_refused_with_both_lines(cut, data):
    whole, own = (3, 2) if "11" in cut else (2, 3)
    with pytest.raises(
        AnnotationError, match=rf"line 3: .*line {whole} is found in a file of the whole.* line {own} in"
    ):
        read(data("train.csv", KINETICS, [cut, "abc.mp4"]))


def test_one_segment_in_a_file_of_the_id_is_the_whole_file(data):
    file = data("train.csv", KINETICS.rsplit("jump", 1)[0], ["abc.mp4"])
    assert read(file) == [("abc.mp4", "run", None)]


EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,3,['door'],[3]\n"
    'P02_03_10,P02,P02_03,01:00:01.089,01:00:00.50,01:00:03.37,8,202,"turn-on, light",turn-on,0,light,2,'
    "\"['light', 'x']\",\"[2, 1]\"\n"
)


def test_epic_kitchens_asks_which_label(data):
    with pytest.raises(AnnotationError, match=r"epic-verb.*epic-noun.*epic-action"):
        read(data("EPIC_100_train.csv", EPIC))


@pytest.mark.parametrize(("kind", "labels"), [("verb", [3, 0]), ("noun", [3, 2]), ("action", ["3 3", "0 2"])])
def test_epic_kitchens(kind, labels, data):
    file = data("EPIC_100_train.csv", EPIC, ["P01/videos/P01_01.MP4", "P02_03.mp4"])
    spans = [("P01/videos/P01_01.MP4", labels[0], (0.14, 3.37)), ("P02_03.mp4", labels[1], (3600.5, 3603.37))]
    assert read(file, list_format=f"epic-{kind}") == spans


def test_epic_kitchens_cut_to_narrations_has_names(data):
    names = "id,key,instances,category\n0,turn-on,[],x\n1,b,[],x\n2,c,[],x\n3,open,[],x\n"
    file = data("EPIC_100_train.csv", EPIC, ["P01_01_0.mp4"], EPIC_100_verb_classes__csv=names)
    clips = [("P01_01_0.mp4", "open", None), ("P02/P02_03.MP4", "turn-on", (3600.5, 3603.37))]
    assert read(file, list_format="epic-verb") == clips  # the second is missing, and still means its span


def test_epic_actions_are_numbered_over_both_lists(data):
    other = EPIC.replace("open,3,door,3", "open,1,door,1")
    file = data("EPIC_100_validation.csv", other, EPIC_100_train__csv=EPIC)
    assert [label for _, label, _ in read(file, list_format="epic-action")] == ["1 1", "0 2"]
    assert read_list(file, list_format="epic-action").class_names == ("0 2", "1 1", "3 3")


HACS = (
    "classname,youtube_id,subset,start,end,label\nPing-pong,a2X2hz1G6i8,training,15.5,17.5,1\n"
    "Archery,NUdji_CqvcY,training,77.5,79.5,-1\nArchery,0O_qMHxBfXg,validation,24.5,26.5,1\n"
)


def test_hacs_clips(data):
    file = data("HACS_clips_v1.1.1.csv", HACS, ["Ping-pong/v_a2X2hz1G6i8.mp4", "0O_qMHxBfXg.mp4"])
    train = read_list(file, part="train", root=str(file.parent / "v"))
    assert read(file, part="train") == [("Ping-pong/v_a2X2hz1G6i8.mp4", "Ping-pong", (15.5, 17.5))]
    assert read(file, part="val") == [("0O_qMHxBfXg.mp4", "Archery", (24.5, 26.5))]
    assert "1 clips in which the class is not seen are left out" in train.notes


def test_activitynet_and_hacs_segments(data):
    goal = [{"label": "Dodgeball", "segment": [5.4, 11.6]}, {"label": "Archery", "segment": [12.6, 88.16]}]
    videos = {
        "--0edUL8zmA": {"annotations": goal, "duration": 92.1, "subset": "training", "url": "https://x"},
        "zz": {"annotations": goal[:1], "subset": "validation"},
        "tt": {"annotations": [], "subset": "testing"},
    }
    for indent in (None, 1):  # on one line, or on many
        content = json.dumps({"taxonomy": [], "database": videos, "version": "VERSION 1.3"}, indent=indent)
        file = data("activity_net.v1-3.min.json", content, ["v_--0edUL8zmA.mp4", "zz.mkv"])
        spans = [("v_--0edUL8zmA.mp4", "Dodgeball", (5.4, 11.6)), ("v_--0edUL8zmA.mp4", "Archery", (12.6, 88.16))]
        assert read(file, part="train") == spans
        assert read(file, part="val") == [("zz.mkv", "Dodgeball", (5.4, 11.6))]
        assert read(file, part="test") == [("v_tt.mp4", None, None)]


def test_moments_in_time(data):
    text = "running/a.mp4,running,3,1\nadult+male+singing/b.mp4,adult+male+singing,4,0\n"
    file = data("trainingSet.csv", text, ["training/running/a.mp4"])
    rows = [("training/running/a.mp4", "running", None), ("adult+male+singing/b.mp4", "adult+male+singing", None)]
    assert read(file) == rows
    assert read_list(file).labels == (1, 0)
    data("moments_categories.txt", "running,0\nadult+male+singing,1\n")
    assert read(file) == rows and read_list(file).labels == (0, 1)


@pytest.mark.parametrize(
    "header",
    ["video_name,tag", "video_id,label", "clip,category", "video_path,target_id", "vid,class_index", "Video,Class"],
)
def test_columns_by_other_names(header, data):
    assert read(data("x.csv", f"{header}\na.mp4,1\nb.mp4,0\n")) == [("a.mp4", 1, None), ("b.mp4", 0, None)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "foo,bar,label\na.mp4,x,1\nb.mp4,y,0\n",
            r"line 1: columns foo, bar, label; .* known are path: path, .*label: label",
        ),
        ("url,name\nq,x\nr,y\n", r"line 1: columns url, name; none is known to be the path"),
        ("-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1\n" * 2, "boxes of people, as AVA has them"),
        ("a,b\n1,2\n", "columns a, b"),
    ],
)
def test_unknown_columns_are_named(text, match, data):
    with pytest.raises(AnnotationError, match=match):
        read(data("x.csv", text))


def test_columns_that_are_not_read_are_said(data):
    file = data("x.csv", "path,score\na.mp4,0.5\n")
    assert "(not read: score)" in read_list(file).format
    with pytest.raises(AnnotationError, match=r"no label .*not read: score"):
        read_list(file, require_labels=True)


# ------------------------------------------------------------------------------------------------- files by their stem

THUMBNAILS = ["abc_000001_000011.jpg", "abc.jpg", "abc.webp", "run/abc_000001_000011.png", "abc_000001_000011.mp4.part"]


@pytest.mark.parametrize("name", [*THUMBNAILS, "._abc_000001_000011.mp4", "abc_000001_000011.info.json"])
def test_a_thumbnail_is_not_the_video(name, data):
    other = "walk,zzz,0,10,train,0\n"
    file = data("train.csv", KINETICS.rsplit("jump", 1)[0] + other, [name, "zzz_000000_000010.mp4"])
    videos = read_list(file, root=str(file.parent / "v"))
    assert [os.path.basename(path) for path in check_files(videos, handful=2)] == ["abc_000001_000011.mp4"]


def test_names_without_suffix_are_videos_where_there_are_videos(data):
    file = data("x.txt", "a 0\nb 1\n", ["a.mp4", "a.jpg", "b.jpg"])
    assert [path for path, _, _ in read(file)] == ["a.mp4", "b"]  # b is missing
    (file.parent / "v/a.mp4").unlink()
    assert [path for path, _, _ in read(file)] == ["a.jpg", "b.jpg"]  # a data set of pictures


def test_of_several_suffixes_the_first_is_taken_and_said(data):
    file = data("x.txt", "a 0\nb 1\n", ["a.webm", "a.mp4", "a.gif", "b.mkv"])
    assert [path for path, _, _ in read(file)] == ["a.mp4", "b.mkv"]
    notes = "\n".join(read_list(file, root=str(file.parent / "v")).notes)
    assert "1 videos are there with several suffixes" in notes and "a.mp4 of a.gif, a.webm, a.mp4" in notes
