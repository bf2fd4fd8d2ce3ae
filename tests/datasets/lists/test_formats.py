"""Every format of lists is told from the others and read as its authors meant it, traps included."""

import csv
import itertools
import json
import random

import pytest

from datasets.catalogue import get_dataset_spec
from datasets.errors import AnnotationError
from datasets.lists.formats.table import detect
from datasets.lists.read import read_list
from datasets.lists.splits import ListConfig, choose_num_classes, describe_overlap, describe_part, find_list, read_parts


@pytest.fixture
def write(tmp_path):
    """Writes a file below tmp_path, with its folders."""

    def write(name, content=""):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def rows(videos):
    return list(zip((path.removeprefix("/d/") for path in videos.paths), videos.labels, strict=True))


# ------------------------------------------------------------------------------------------------- csv

CSV = {
    "comma": "a b.mp4,3\nc.mp4,0\n",
    "blank after the comma": "a b.mp4, 3\r\nc.mp4, 0\r\n",
    "header": "path,label\na b.mp4,3\nc.mp4,0\n",
    "header of Hugging Face": "\ufefffile_name,label\r\na b.mp4,3\r\n\r\nc.mp4,0\r\n",
    "other columns": "id,label,video_path,fps\n7,3,a b.mp4,25\n8,0,c.mp4,30\n",
    "tab": "path\tlabel\na b.mp4\t3\nc.mp4\t0\n",
    "semicolon": "a b.mp4;3\nc.mp4;0\n",
    "quotes": '"a b.mp4",3\n"c.mp4",0\n',
    "quotes in header": '"path","label"\n"a b.mp4","3"\n"c.mp4","0"\n',
    "blank, header": 'path label\n"a b.mp4" 3\nc.mp4 0\n',
    "blank, quotes": '"a b.mp4" 3\n"c.mp4"  0\n',
}


@pytest.mark.parametrize("kind", CSV)
def test_csv(kind, write):
    videos = read_list(write("x.csv", CSV[kind]), root="/d")
    assert rows(videos) == [("a b.mp4", 3), ("c.mp4", 0)] and videos.format.startswith("csv")
    assert videos.class_names == ()


def test_csv_peculiar_paths(write):
    content = '"a, b.mp4",2\n"say ""hi"".mp4",1\n#20.avi,0\n[x] (y)\'s.mp4,7\n\n# d.mp4,2\n'
    videos = read_list(write("x.csv", content), root="/d")
    paths = ["a, b.mp4", 'say "hi".mp4', "#20.avi", "[x] (y)'s.mp4", "# d.mp4"]
    assert rows(videos) == list(zip(paths, [2, 1, 0, 7, 2], strict=True))
    assert videos.line_numbers == (1, 2, 3, 4, 6)


@pytest.mark.parametrize(
    "content",
    ["a.mp4,walk fast\nb.mp4,10 pins\nc.mp4,walk fast\n", "path,label\na.mp4,walk fast\nb.mp4,10 pins\nc,walk fast\n"],
)
def test_csv_with_names_of_classes(content, write):
    videos = read_list(write("x.csv", content), root="/d")
    assert (videos.labels, videos.class_names) == ((1, 0, 1), ("10 pins", "walk fast"))


def test_csv_without_labels_and_with_names_and_times(write):
    assert rows(read_list(write("x.csv", "path\na,b.mp4\n".replace("a,b", "a b")), root="/d")) == [("a b.mp4", -1)]
    content = "path,label,label_name,start,end\na.mp4,2,run,1.5,3\na.mp4,0,jump,,\n"
    videos = read_list(write("y.csv", content), root="/d")
    assert videos.spans == ((1.5, 3.0), None) and videos.class_names == ("jump", "1", "run")
    assert "line 2: /d/a.mp4, label 2 (run), from 1.5 s to 3.0 s" in videos.describe_lines()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.mp4,1\nb.mp4,two\n", r"x\.csv, line 2: label 'two' is not an integer.*jsonl"),
        ("path,label\na.mp4,1\nb.mp4\n", r"line 3: 1 columns where 2 are needed \(path, label\)"),
        ("a.mp4,1\n" * 60 + "b,c.mp4,1\n", r"line 61: 3 columns where the others have 2. Quote"),
        ("path,label\na.mp4,1\nb.mp4,-2\n", r"line 3: label -2 is negative"),
        ("path,label\na.mp4,1\n,2\n", r"line 3: no path"),
        ("path,label\na.mp4,1\nb.mp4,\n", r"line 3: no label \(1 of 2"),
        (
            "path,label,label_name\na.mp4,1,run\nb.mp4,1,jump\n",
            r"line 3: label 1 is called 'jump', before it was 'run'",
        ),
        ("path,label,start,end\na.mp4,1,5,2\n", r"line 2: start 5, end 2: a part of no length"),
        ("path,label,start\na.mp4,1,soon\n", r"line 2: start 'soon'.*not seconds"),
        ("path,label\n", "lists no videos"),
        ('a.mp4,1\n"b.mp4,2\nc.mp4,3\n', r"line 2: a quote is opened that is not closed"),
        ('a.mp4,1\n"b\nc.mp4",3\n', r"line 2: a quote is opened that is not closed"),
        ('path\na.mp4\n"b.mp4', r"line 3: a quote is opened that is not closed"),
        ("path,label\na.mp4,1\nb.mp4,1,5\n", r"line 3: 3 columns where the header has 2. Quote paths that hold a ','"),
        ("path\na.mp4\nb,c.mp4\n", r"line 3: 2 columns where the header has 1"),
        ("path label\na.mp4 1\nb c.mp4 1\n", r"line 3: 3 columns where the header has 2.*hold a 'blank'"),
        ("path label fps\na.mp4 1 25\nb.mp4 1\n", r"line 3: 2 columns where the header has 3"),
        ("path,label\na.mp4,1.0\nb.mp4,2.0\n", r"line 2: label '1\.0': write 1, not 1\.0"),
        ("a.mp4,1\nb.mp4,2.0\n", r"line 2: label '2\.0': write 2, not 2\.0"),
        ("a.mp4,0.5\nb.mp4,2.0\n", r"line 1: label '0\.5': labels are whole numbers"),
        ("path,label\na.mp4,1\n" + "b" * 200_000 + ",2\n", r"line 3: not csv \(field larger"),
        ("path,label,start\na.mp4,1,inf\n", r"line 2: start inf"),
    ],
)
def test_csv_errors(content, message, write):
    with pytest.raises(AnnotationError, match=message):
        read_list(write("x.csv", content))


# ------------------------------------------------------------------------------------------------- jsonl


def test_jsonl(write):
    records = [
        {"path": "a, 'b'.mp4", "label": 3, "label_name": "run", "fps": 25},
        {"path": "c.mp4", "label": 0, "start": 1, "end": 2.5},
        {"file_name": "日本.mp4", "label": 3, "start": 4},
    ]
    file = write("x.jsonl", "\n\n".join(json.dumps(record) for record in records))
    videos = read_list(file, root="/d")
    assert rows(videos) == [("a, 'b'.mp4", 3), ("c.mp4", 0), ("日本.mp4", 3)]
    assert videos.spans == (None, (1.0, 2.5), (4.0, float("inf"))) and videos.line_numbers == (1, 3, 5)
    assert videos.class_names == ("0", "1", "2", "run")


def test_jsonl_of_several_labels(write):
    videos = read_list(
        write("x.jsonl", '{"path": "a.mp4", "label": [5, 2]}\n{"path": "b.mp4", "label": []}\n'), root="/d"
    )
    assert videos.label_sets == ((5, 2), ()) and videos.labels == (-1, -1) and videos.num_classes == 6
    assert videos.describe_lines(1) == ["line 1: /d/a.mp4, label (5, 2)", "4 of 6 classes have no video (0, 1, 3, 4)"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "b.mp4", "label": 1', r"line 2: not JSON"),
        ("[1]", r"line 2: not an object"),
        ('{"label": 1}', r"line 2: no path"),
        ('{"path": "b.mp4", "label": true}', r"line 2: label True is neither"),
        ('{"path": "b.mp4", "label": 1.0}', r"line 2: label 1\.0 is neither"),
        ('{"path": "b.mp4", "label": "x"}', r"line 2: label 'x' is a name, that of line 1 a number"),
        ('{"path": "b.mp4", "label": 99999999999999999999}', r"line 2: label 9+ is negative or too large"),
        ('{"path": "\\ud800.mp4", "label": 1}', r"line 2: the path is not valid Unicode"),
        ('{"path": "b.mp4", "label_name": -3}', r"line 2: label_name -3 is not a string"),
        ('{"path": "b.mp4", "label": 1, "label_name": ["x"]}', r"line 2: label_name \['x'\] is not a string"),
        ('{"path": "b.mp4", "label": 100000000, "label_name": "x"}', r"line 2: label 1000+ of 'x' would make"),
        ('{"path": "b.mp4", "label": ' + "9" * 5000 + "}", r"line 2: not JSON that can be read"),
        ('{"path": "b.mp4", "label": ' + "[" * 200_000 + "}", r"line 2: not JSON that can be read"),
        ('{"path": "b.mp4", "label": 1, "start": ' + "9" * 400 + "}", r"line 2: start 9+, end None: not seconds"),
    ],
)
def test_jsonl_errors(line, message, write):
    with pytest.raises(AnnotationError, match=message):
        read_list(write("x.jsonl", f'{{"path": "a.mp4", "label": 1}}\n{line}\n'))


def test_jsonl_labels_that_are_numbers_in_quotes(write):
    """Sorted as texts, 10 would come before 2."""
    labels = ("2", "10", "0")
    text = "".join(f'{{"path": "{place}.mp4", "label": "{label}"}}\n' for place, label in enumerate(labels))
    videos = read_list(write("x.jsonl", text))
    assert (videos.labels, videos.class_names, videos.num_classes) == ((2, 10, 0), (), 11)
    with_name = read_list(write("y.jsonl", text + '{"path": "b.mp4", "label": "ten"}'))
    assert with_name.class_names == ("0", "10", "2", "ten")
    for wrong in ("-1", "9" * 20, "9" * 5000):
        with pytest.raises(AnnotationError, match=r"line 4: label '.*' is negative or too large"):
            read_list(write("z.jsonl", text + f'{{"path": "b.mp4", "label": "{wrong}"}}'))


def test_paths_with_blanks_are_no_header(write):
    """`video` is a column's name, and a word of a path."""
    with pytest.raises(AnnotationError, match="line 1: label 'video' is not an integer"):
        read_list(write("x.txt", "my video\nother clip\n"))
    assert detect(write("x.txt", "video start\na.mp4 1\n")) == "csv"


# ------------------------------------------------------------------------------------------------- three columns


@pytest.mark.parametrize("content", ["frames/a b 163 1\nframes/c 20 0\n", "a.mp4 0 -1\n", "frames/182040 1 58\n"])
def test_three_columns_are_never_guessed(content, write):
    with pytest.raises(
        AnnotationError, match=r"line 1: three columns.*--list_format mmaction.*--list_format videomaev2"
    ):
        read_list(write("x.txt", content))


def test_three_columns_by_name(write):
    file = write("x.txt", "frames/a b 163 1\nframes/c  20\t0\n")
    videos = read_list(file, root="/d", list_format="mmaction")
    assert rows(videos) == [("frames/a b", 1), ("frames/c", 0)]
    assert rows(read_list(file, root="/d", list_format="videomae"))[0] == ("frames/a b 163", 1)
    with pytest.raises(AnnotationError, match=r"line 1: start 163.*--list_format mmaction"):
        read_list(file, list_format="videomaev2")
    file = write("y.txt", "a b.mp4 0 -1\nframes/182040 1 58\n")
    assert rows(read_list(file, root="/d", list_format="videomaev2")) == [("a b.mp4", -1), ("frames/182040", -1)]
    with pytest.raises(AnnotationError, match=r"line 1: 0 frames.*--list_format videomaev2"):
        read_list(file, list_format="mmaction")
    with pytest.raises(AnnotationError, match=r"line 1: 'a 1' is not `folder frames label`"):
        read_list(write("z.txt", "a 1\n"), list_format="mmaction")


def test_unknown_format(write):
    with pytest.raises(AnnotationError, match="--list_format parquet: choose from auto, videomae"):
        read_list(write("x.csv", "a.mp4 0"), list_format="parquet")


# ------------------------------------------------------------------------------------------------- published lists


def test_kinetics(write, tmp_path):
    """Labels in the order of the original names: a folder with underscores would swap the two skiing classes."""
    content = (
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        '"skiing crosscountry",-_aaaaaaaaa,10,20,train,0\n'
        "skiing (not slalom or crosscountry),bbbbbbbbbbb,3,13,train,0\n"
        '"massaging person\'s head",ccccccccccc,0,10,train,0\n'
        "skiing crosscountry,ddddddddddd,1234567,1234577,train,1\n"
    )
    for name in (
        "skiing_crosscountry/-_aaaaaaaaa_000010_000020.avi",
        "skiing (not slalom or crosscountry)/bbbbbbbbbbb_000003_000013.mkv",
        "train/ccccccccccc.mp4",
    ):
        write(f"v/{name}")
    videos = read_list(write("k/train.csv", content), root=str(tmp_path / "v"))
    assert videos.format.startswith("Kinetics")
    assert videos.class_names == (
        "massaging person's head",
        "skiing (not slalom or crosscountry)",
        "skiing crosscountry",
    )
    assert videos.labels == (2, 1, 0, 2)
    assert [path.removeprefix(f"{tmp_path}/v/") for path in videos.paths] == [
        "skiing_crosscountry/-_aaaaaaaaa_000010_000020.avi",
        "skiing (not slalom or crosscountry)/bbbbbbbbbbb_000003_000013.mkv",
        "train/ccccccccccc.mp4",
        "ddddddddddd_1234567_1234577.mp4",
    ]
    unlabelled = write("k/test.csv", "youtube_id,time_start,time_end,split\n-_aaaaaaaaa,10,20,test\n")
    assert read_list(unlabelled).labels == (-1,)
    with pytest.raises(AnnotationError, match=r"line 2: time_start 'x', time_end '20': not seconds"):
        read_list(write("k/x.csv", "youtube_id,time_start,time_end\na,x,20\n"))
    with pytest.raises(AnnotationError, match=r"line 3: no youtube_id or time_start or time_end"):
        read_list(write("k/x.csv", "youtube_id,time_start,time_end\na,1,20\nb,1\n"))


def test_something_something(write, tmp_path):
    records = [
        {"id": "7", "label": "x", "template": "Moving [something] up", "placeholders": ["a cup"]},
        {"id": "12", "label": "y", "template": "Holding [something]", "placeholders": ["b"]},
    ]
    file = write("s/something-something-v2-train.json", json.dumps(records, indent=1))
    with pytest.raises(AnnotationError, match=r"no labels\.json beside it"):
        read_list(file)
    write("s/labels.json", json.dumps({"Moving something up": "1", "Holding something": "0"}))
    write("v/7.webm"), write("v/12.mp4")
    videos = read_list(file, root=str(tmp_path / "v"))
    assert videos.paths == (str(tmp_path / "v/7.webm"), str(tmp_path / "v/12.mp4")) and videos.labels == (1, 0)
    assert videos.class_names == ("Holding something", "Moving something up")
    test = read_list(write("s/test.json", '[{"id": "9"}]'), root="/d")
    assert (test.paths, test.labels) == (("/d/9.webm",), (-1,))
    records[1]["template"] = "Eating [something]"
    with pytest.raises(AnnotationError, match=r"entry 2: template 'Eating something' is not in labels\.json"):
        read_list(write("s/x.json", json.dumps(records)))


def test_ucf101(write, tmp_path):
    """Numbers from 1, test lists without; a folder and its files are spelt differently."""
    write("u/classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    train = write("u/trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
                  "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n")  # fmt: skip
    test = write("u/testlist01.txt", "HandstandPushups/v_HandStandPushups_g01_c01.avi\n")
    write("v/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.mp4")
    write("v/HandStandPushups/v_HandStandPushups_g08_c01.avi")
    videos = read_list(train, root=str(tmp_path / "v"))
    assert videos.labels == (0, 1) and videos.class_names == ("ApplyEyeMakeup", "HandstandPushups")
    assert videos.paths == (
        str(tmp_path / "v/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.mp4"),
        str(tmp_path / "v/HandStandPushups/v_HandStandPushups_g08_c01.avi"),
    )
    assert read_list(test, require_labels=True).labels == (1,)
    with pytest.raises(AnnotationError, match=r"line 1: label 0, but ApplyEyeMakeup is number 1 in classInd\.txt"):
        read_list(write("u/trainlist02.txt", "ApplyEyeMakeup/v.avi 0\n"))
    with pytest.raises(AnnotationError, match=r"line 1: the folder of 'Dance/v\.avi' is no class"):
        read_list(write("u/trainlist03.txt", "Dance/v.avi 1\n"))
    with pytest.raises(AnnotationError, match=r"classInd\.txt does not exist"):
        read_list(write("other/trainlist01.txt", "Dance/v.avi 1\n"))


def test_hmdb51(write, tmp_path):
    write("h/wave_test_split1.txt", "#20_wave [x]_wave_f_nm_np1.avi 1 \na(b).avi 2\n c.avi 0\n")
    write("h/brush_hair_test_split1.txt", "z.avi 2 \r\ny.avi 1 \r\n")
    write("h/brush_hair_test_split2.txt", "z.avi 1\n")
    write("v/wave/#20_wave [x]_wave_f_nm_np1.mp4"), write("v/y.avi")
    videos = read_list(tmp_path / "h", root=str(tmp_path / "v"), part="train")
    assert [path.removeprefix(f"{tmp_path}/v/") for path in videos.paths] == [
        "y.avi", "wave/#20_wave [x]_wave_f_nm_np1.mp4"
    ]  # fmt: skip
    assert videos.labels == (0, 1) and videos.class_names == ("brush_hair", "wave")
    assert rows(read_list(tmp_path / "h", root="/d", part="test")) == [("brush_hair/z.avi", 0), ("wave/a(b).avi", 1)]
    assert len(read_list(tmp_path / "h", root="/d", part="train", split=2)) == 1
    with pytest.raises(AnnotationError, match="Say which one"):
        read_list(tmp_path / "h")
    with pytest.raises(AnnotationError, match="give the folder"):
        read_list(tmp_path / "h" / "wave_test_split1.txt")
    with pytest.raises(AnnotationError, match=r"wave_test_split3\.txt, line 1: 'x\.avi 3' is not"):
        write("h/wave_test_split3.txt", "x.avi 3\n")
        read_list(tmp_path / "h", part="train", split=3)


@pytest.mark.parametrize("extension", ["", ".avi"])
def test_finegym(extension, write, tmp_path):
    ids = ["l-ctNiOuCBc_E_002823_002830_A_0000_0007", "A0xAXXysHUo_E_002184_002237_A_0035_0036"]
    write(f"v/{ids[0]}.mp4")
    file = write(
        "gym99_train.txt", "".join(f"{video}{extension} {label}\n" for video, label in zip(ids, (98, 0), strict=True))
    )
    videos = read_list(file, root=str(tmp_path / "v"))
    assert videos.format.startswith("FineGym") and videos.labels == (98, 0)
    assert videos.paths[0].endswith(f"{ids[0]}.mp4") and videos.num_classes == 99
    assert videos.paths[1].endswith(ids[1] + (extension or ".mp4"))
    assert (
        videos.fingerprint == read_list(write("other.txt", file.read_text().replace(".avi", "")), root="/d").fingerprint
    )


def test_charades(write):
    lines = ["original_vido_id video_id frame_id path labels"]
    lines += [f'YSKX3 0 {i} YSKX3/YSKX3-{i + 1:06d}.jpg "{labels}"' for i, labels in enumerate(["", "9,2", "2,156"])]
    lines += ['0BNML 1 0 0BNML/0BNML-000001.jpg ""']
    videos = read_list(write("train.csv", "\n".join(lines) + "\n"), root="/d", require_labels=True)
    assert videos.paths == ("/d/YSKX3", "/d/0BNML") and videos.label_sets == ((2, 9, 156), ())
    assert videos.num_classes == 157 and videos.line_numbers == (2, 5)
    assert videos.moments.unit == "frames"
    assert [list(map(tuple, of)) for of in videos.moments.by_video] == [[(1, 1, 9), (1, 2, 2), (2, 2, 156)], []]
    with pytest.raises(AnnotationError, match=r"line 3: labels 'x' are not numbers"):
        read_list(write("x.csv", "\n".join([*lines[:2], 'a 0 0 a/b.jpg "x"'])))


ACTIONS = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def test_charades_actions(write):
    rows = 'A1,S,Kitchen,6,7,Yes,"He, too",a;b,"One; two.",c092 11.90 21.20;c001 0.00 12.60,33.67\n'
    rows += "B2,S,x,6,7,No,s,o,d,,8\n"
    names = "c000 Holding some clothes\nc001 Putting clothes somewhere\n"
    names += "".join(f"c{k:03d} Class {k}\n" for k in range(2, 157))
    write("Charades_v1_classes.txt", names)
    videos = read_list(write("Charades_v1_train.csv", ACTIONS + rows), root="/d", require_labels=True, labels="classes")
    assert videos.format == "Charades csv: id actions" and videos.label_sets == ((1, 92), ())
    assert videos.paths == ("/d/A1.mp4", "/d/B2.mp4") and videos.class_names[1] == "Putting clothes somewhere"
    assert videos.moments.unit == "seconds" and videos.moments.picture_rate == 24
    assert list(videos.moments.by_video) == [((11.9, 21.2, 92), (0.0, 12.6, 1)), ()]
    later = ACTIONS + rows.replace("21.20", "21.30")
    assert read_list(write("later.csv", later), root="/d").fingerprint != videos.fingerprint  # another training


def test_folder_of_classes(write, tmp_path):
    for name in ("walk/b.mp4", "walk/a.webm", "Run/x/c.avi", "Run/clip 1/0001.jpg", "Run/clip 1/0002.jpg", "Run/i.png"):
        write(f"train/{name}")
    write("train/walk/notes.txt"), write("train/.cache/z.mp4")
    videos = read_list(tmp_path / "train")
    assert [path.removeprefix(f"{tmp_path}/train/") for path in videos.paths] == [
        "Run/clip 1", "Run/x/c.avi", "walk/a.webm", "walk/b.mp4"
    ]  # fmt: skip
    assert videos.labels == (0, 0, 1, 1) and videos.class_names == ("Run", "walk")
    assert any("1 pictures beside videos: Run/i.png" in note for note in videos.notes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match=r"empty: neither folders of classes nor a metadata\.csv"):
        read_list(tmp_path / "empty")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_folder_with_metadata(name, write, tmp_path):
    csv_text, jsonl_text = "file_name,label\na.mp4,walk\nx/b.mp4,run\n", ""
    for path, label in (("a.mp4", "walk"), ("x/b.mp4", "run")):
        jsonl_text += json.dumps({"file_name": path, "label": label}) + "\n"
    write(f"train/{name}", csv_text if name.endswith("csv") else jsonl_text)
    videos = read_list(tmp_path / "train")
    assert videos.paths == (str(tmp_path / "train/a.mp4"), str(tmp_path / "train/x/b.mp4"))
    assert videos.labels == (1, 0)


GYM_ID = "A0xAXXysHUo_E_002184_002237_A_0035_0036"
CHARADES = "original_vido_id video_id frame_id path labels\n"
SEEN_IN = '{"path": "a", "label": [3], "moments_in": "%s", "moments": %s}\n'
KINETICS = "label,youtube_id,time_start,time_end\n"


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("gym", f"{GYM_ID} {'9' * 20}\n", "line 1: .* is not 'ID label' of FineGym"),
        ("charades", CHARADES + f'a 0 0 a/b.jpg "{"9" * 20}"\n', "line 2: labels '9+': one is negative or too large"),
        ("charades-actions", ACTIONS + "a,,,,,,,,,c001 1,9\n", "line 2: action 'c001 1' is not 'cCLASS START END'"),
        ("charades-actions", ACTIONS + "a,,,,,,,,,c001 2 1.5,9\n", "line 2: action 'c001 2 1.5' ends before it starts"),
        ("charades-actions", ACTIONS + "a\n", "line 2: no id or no actions"),
        ("charades", CHARADES + 'a 0 0 a/b.jpg "-1"\n', "line 2: labels '-1': one is negative or too large"),
        ("charades", CHARADES + f'a 0 0 a/b.jpg "{"9" * 5000}"\n', "line 2: labels '9+' are not numbers"),
        ("charades", CHARADES + f'a 0 0 a/b.jpg "{"9," * 100_000}"\n', "line 2: not csv"),
        ("charades", CHARADES + 'a 0 0 a/b.jpg "1\na 0 0 a/b.jpg "2"\n', "line 2: a quote is opened"),
        ("kinetics", KINETICS + "x,a,inf,20\n", "line 2: time_start 'inf'.*not seconds"),
        ("kinetics", KINETICS + f"{'x' * 200_000},a,1,20\n", "line 2: not csv"),
        ("kinetics", KINETICS + 'x,a,1,20\n"y,a,1,20\nz,a,1,20\n', "line 3: a quote is opened"),
        ("ssv2", '[{"id": "1", "template": 3}]', "entry 1: its id or its template is not a string"),
        ("ssv2", '[{"id": ["1"]}]', "entry 1: its id or its template is not a string"),
        ("ssv2", "[" * 200_000, "not JSON that can be read"),
        ("jsonl", SEEN_IN % ("seconds", "[[2, 1, 3]]"), r"line 1: moments \[2, 1, 3\]: not \[first, last, class\]"),
        ("jsonl", SEEN_IN % ("seconds", "[[1, 2, 4]]"), r"\[1, 2, 4\]: .* with a number of \[3\]"),
        ("jsonl", SEEN_IN % ("seconds", "[1, 2, 3]"), "line 1: moments 1: not"),
        (
            "jsonl",
            SEEN_IN % ("seconds", "[]") + SEEN_IN % ("frames", "[]"),
            "line 2: moments_in 'frames', 'seconds' be",
        ),
        ("jsonl", SEEN_IN % ("seconds", "[]") + '{"path": "b"}\n', "line 2: moments_in None, 'seconds' before"),
        ("jsonl", SEEN_IN % ("hours", "[]"), "line 1: moments_in 'hours', 'none' before: write frames or seconds"),
        ("videomae", "a.mp4 1.0\n", r"line 1: label '1\.0' is not an integer\. Write 1, not 1\.0"),
    ],
)
def test_errors_of_published_lists(form, content, message, write):
    write("labels.json", '{"x": "0"}')
    with pytest.raises(AnnotationError, match=message):
        read_list(write("x.txt", content), list_format=form)


@pytest.mark.parametrize("labels", ['["x"]', '{"x": "one"}', '{"x": null}', '{"x": [1]}', "3"])
def test_labels_of_something_something_of_wrong_types(labels, write):
    write("labels.json", labels)
    with pytest.raises(AnnotationError, match=r"labels\.json: not an object"):
        read_list(write("x.json", '[{"id": "1", "template": "x"}]'))


def test_class_that_is_twice_in_ucf101(write):
    write("classInd.txt", "1 A\n2 A\n")
    with pytest.raises(AnnotationError, match=r"classInd\.txt, line 2: 'A' is there twice"):
        read_list(write("trainlist01.txt", "A/v.avi 1\n"))


# ------------------------------------------------------------------------------------------------- any names


def random_names(rng, count):
    """Names with what has broken readers: blanks, quotes, commas, brackets, `#`, other scripts, no extension."""
    words = ["a", "skiing (not slalom)", "x, y", "[b]{c}", "it's", 'say "hi"', "#20", "日本", "é\u0301", "a;b", "1",
             "0 -1", "tab", "%20", "\u2028", "=1+1", ".hidden", "c:\\d", "&amp;", "//"]  # fmt: skip
    for _ in range(count):
        name = rng.choice(["/", "-", "", " "]).join(rng.choices(words, k=rng.randint(1, 4)))
        yield (name + rng.choice([".mp4", ".webm", ".MKV", " .avi"])).strip()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("form", ["videomae", "csv", "csv header", "tab", "semicolon", "jsonl"])
def test_random_names_come_back(form, seed, write):
    rng = random.Random(seed)
    names = list(random_names(rng, 60))
    labels = [rng.randint(0, 400) for _ in names]
    if form == "videomae":
        names = [name.lstrip('" ') for name in names if not name.startswith("# ")]
        blanks = [rng.choice([" ", "  ", "\t", " \t "]) for _ in names]
        lines = [f"{n}{b}{i}\n" for n, b, i in zip(names, blanks, labels, strict=False)]
        file = write("x.csv", "".join(lines))
    elif form == "jsonl":
        ascii_only = rng.random() < 0.5
        records = [{"path": n, "label": i} for n, i in zip(names, labels, strict=True)]
        file = write("x.jsonl", "".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in records))
    else:
        file = write("x.csv")
        end = rng.choice(["\n", "\r\n"])
        with file.open("w", encoding=rng.choice(["utf-8", "utf-8-sig"]), newline="") as out:
            writer = csv.writer(out, delimiter={"tab": "\t", "semicolon": ";"}.get(form, ","), lineterminator=end)
            writer.writerows([["path", "label"]] if form == "csv header" else [])
            writer.writerows(zip(names, labels, strict=True))
    explicit = form.split()[0] if form != "tab" and form != "semicolon" else "csv"
    for list_format in ("auto", explicit):
        videos = read_list(file, list_format=list_format, root="/")
        assert list(videos.paths) == [f"/{name}" if not name.startswith("/") else name for name in names]
        assert list(videos.labels) == labels[: len(names)]


def test_detection_of_every_form(write, tmp_path):
    write("classInd.txt", "1 A\n")
    forms = {
        "videomae": ["a.mp4 0\nb c.mp4 1\n", "a.mp4\n", "x, y/a,b.mp4 7\n", "a,b.mp4\n", "a.mp4\t3\n", ""],
        "csv": ["a.mp4,0\n", "a.mp4;walk\n", "path label\na.mp4 0\n", "a.mp4,dance 7\nb.mp4,run\n"],
        "jsonl": ['{"path": "a"}\n'],
        "ssv2": ['[{"id": "1"}]', '[\n  {\n   "id": "1"}]'],
    }
    for (form, contents), number in zip(forms.items(), itertools.count(), strict=False):
        for place, content in enumerate(contents):
            assert detect(write(f"{number}-{place}", content)) == form, content
    assert detect(write("z", "[a].mp4 0\n")) == "videomae"
    assert detect(write("trainlist01.txt", "A/b.avi 1\n")) == "ucf101"


# ------------------------------------------------------------------------------------------------- parts


def test_lists_of_a_folder(write, tmp_path):
    write("a/train.jsonl"), write("a/val.csv"), write("a/val.txt")
    assert find_list(tmp_path / "a", "train").name == "train.jsonl"
    assert find_list(tmp_path / "a", "val").name == "val.csv"
    assert find_list(tmp_path / "a", "test").name == "test.csv"  # is not there: no other list stands for it
    write("u/testlist01.txt"), write("f/validation/x/a.mp4"), write("h/x_test_split1.txt")
    assert find_list(tmp_path / "u", "val").name == find_list(tmp_path / "u", "test").name == "testlist01.txt"
    assert find_list(tmp_path / "f", "val").name == find_list(tmp_path / "f", "test").name == "validation"
    assert find_list(tmp_path / "h", "train") == tmp_path / "h"


def test_one_numbering_for_all_parts(write, tmp_path):
    """A test list that lacks a class must not number the others by itself."""
    for name, labels in (("train", "abc"), ("test", "cb")):
        for label in labels:
            write(f"{name} {label}.mp4")
        write(f"{name}.csv", "path,label\n" + "".join(f"{name} {label}.mp4,{label}\n" for label in labels))
    both = {"train": tmp_path, "test": tmp_path}
    for folders in (both, {"test": tmp_path}):
        lists, missing = read_parts(folders, ListConfig(), class_folder=tmp_path)
        assert lists["test"].labels == (2, 1) and set(missing.values()) == {0}
        assert set(
            read_parts(folders, ListConfig(), class_folder=tmp_path, once=lambda work: work() + 7)[1].values()
        ) == {7}
        assert choose_num_classes(get_dataset_spec("custom"), None, lists) == 3
    with pytest.raises(AnnotationError, match=r"train\.csv: 3 names for 4 classes"):
        choose_num_classes(get_dataset_spec("custom"), 4, lists)
    write("labels.txt", "c\nx\nb\na\n")
    lists, _ = read_parts(both, ListConfig(), class_folder=tmp_path)
    assert (lists["train"].labels, lists["test"].labels) == ((3, 2, 0), (0, 2)) and lists["test"].num_classes == 4
    write("labels.txt", "c\nb\n")
    with pytest.raises(AnnotationError, match=r"line 2: label 'a' is none of the 2 classes of .*labels\.txt"):
        read_parts(both, ListConfig(), class_folder=tmp_path)
    (tmp_path / "labels.txt").unlink()
    write("test.csv", "path,label\ntest c.mp4,d\n")
    with pytest.raises(AnnotationError, match=r"test\.csv, line 2: label 'd' is none of the 3 classes of .*train\.csv"):
        read_parts(both, ListConfig(), class_folder=tmp_path)


def test_number_of_classes_is_checked_against_the_data_set(write, tmp_path):
    lists = {"train": read_list(write("train.csv", "a.mp4 0\nb.mp4 9\n"))}
    with pytest.raises(AnnotationError, match=r"have 10 classes, UCF101 has 101.*--nb_classes 10.*--data_set custom"):
        choose_num_classes(get_dataset_spec("UCF101"), None, lists)
    assert choose_num_classes(get_dataset_spec("UCF101"), 10, lists) == 10
    assert choose_num_classes(get_dataset_spec("UCF101"), None, {"test": lists["train"]}) == 101  # may lack some
    for label, part, refused in ((99, "train", True), (100, "train", False), (101, "train", True), (101, "test", True)):
        videos = read_list(write("other.csv", f"a.mp4 0\nb.mp4 {label}\n"))
        if refused:
            with pytest.raises(AnnotationError, match=f"the lists have {label + 1} classes, UCF101 has 101"):
                choose_num_classes(get_dataset_spec("UCF101"), None, {part: videos})
        else:
            assert choose_num_classes(get_dataset_spec("UCF101"), None, {part: videos}) == 101
    assert choose_num_classes(get_dataset_spec("custom"), None, lists) == 10
    text = describe_part(lists["train"], get_dataset_spec("UCF101"), part="train", num_missing=2)
    assert "2 files missing; published lists have 9537" in text and "line 1: " in text and "8 of 10 classes" in text


def test_overlap_is_reported(write):
    train = read_list(write("train.csv", "a.mp4 0\nb.mp4 1\n"), root="/d")
    test = read_list(write("test.csv", "b.mp4 1\nc.mp4 1\n"), root="/d")
    assert describe_overlap({"train": train, "test": test}) == "1 videos of test are in train as well"
    assert describe_overlap({"test": test}) == ""


def test_number_of_classes_that_is_given_goes_first(write):
    lists = {"train": read_list(write("train.csv", "a.mp4 0\nb.mp4 999999\n"))}
    with pytest.raises(AnnotationError, match=r"line 2: label 999999.*--nb_classes"):
        choose_num_classes(get_dataset_spec("custom"), None, lists)
    assert choose_num_classes(get_dataset_spec("custom"), 1_000_000, lists) == 1_000_000


def test_test_list_alone_asks_for_the_names_of_the_training(write, tmp_path):
    write("c.mp4"), write("test.csv", "path,label\nc.mp4,c\n")
    lists, _ = read_parts({"test": tmp_path}, ListConfig(), class_folder=tmp_path)
    remedy = "give labels.txt of the training in --data_path"
    assert remedy in lists["test"].describe_lines()[-1]
    with pytest.raises(AnnotationError, match=f"1 names for 3 classes.*{remedy}"):
        choose_num_classes(get_dataset_spec("custom"), 3, lists)
    write("labels.txt", "a\nb\nc\n")
    lists, _ = read_parts({"test": tmp_path}, ListConfig(), class_folder=tmp_path)
    assert lists["test"].labels == (2,) and remedy not in "".join(lists["test"].describe_lines())
