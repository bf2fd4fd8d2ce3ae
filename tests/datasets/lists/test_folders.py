"""Folders: what counts as a video, what is left out and said, and that no label shifts."""

import os

import av
import numpy as np
import pytest
from PIL import Image
from videos import _paint, read_number

from datasets.decoding.image_folder import frame_names
from datasets.decoding.media_names import SUFFIXES, is_image, is_left_out, is_video
from datasets.decoding.open import open_video
from datasets.errors import AnnotationError
from datasets.lists.read import read_list
from datasets.lists.splits import PretrainListConfig


@pytest.fixture
def put(tmp_path):
    """Makes files with one byte below tmp_path: nothing here is decoded."""

    def put(*names):
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")

    return put


def read(folder, **settings):
    videos = read_list(folder, **settings)
    return [(os.path.relpath(path, folder), label) for path, label in zip(videos.paths, videos.labels, strict=True)]


SYSTEM = [
    *(
        "__MACOSX",
        ".ipynb_checkpoints",
        "@eaDir",
        "lost+found",
        "FOUND.000",
        "RECYCLER",
        "#recycle",
        "$RECYCLE.BIN",
        "$Recycle.Bin",
        "@Recycle",
        "@__thumb",
        "RECYCLE.BIN",
        "$WinREAgent",
    ),
    *("System Volume Information", ".Trash-1000", ".git", ".snapshot", ".Spotlight-V100", ".fseventsd", ".AppleDouble"),
]


@pytest.mark.parametrize("name", SYSTEM)
def test_system_folders_are_no_classes(name, put, tmp_path):
    """Each sorts before "run" or after: a class that it made would shift the labels or add to the videos."""
    put("run/1.mp4", "walk/2.mp4", f"{name}/3.mp4", f"run/{name}/4.mp4")
    assert read(tmp_path) == [("run/1.mp4", 0), ("walk/2.mp4", 1)]
    notes = "\n".join(read_list(tmp_path).notes)
    assert f"passed over 2 hidden or system names or unfinished downloads: {name}, run/{name}" in notes


@pytest.mark.parametrize(
    "name",
    [*("._1.mp4", ".DS_Store", "Thumbs.db", "desktop.ini", "~$1.mp4", ".nfs01.mp4", "2.mp4.part", "2.mp4.ytdl"),
     *("2.mp4.crdownload", "2.mp4.tmp", ".2.mp4.swp", "2.mp4~")],
)  # fmt: skip
def test_hidden_files_and_unfinished_downloads_are_left_out_and_said(name, put, tmp_path):
    put("run/1.mp4", f"run/{name}")
    assert read(tmp_path) == [("run/1.mp4", 0)]
    assert any(f"1 hidden or system names or unfinished downloads: run/{name}" in n for n in read_list(tmp_path).notes)


@pytest.mark.parametrize(
    "name", ["#20.mp4", "@home.mp4", "~user.mp4", "a..mp4", "lost and found.mp4", "a.part.mp4", "tmp.mp4"]
)
def test_odd_names_of_videos_are_taken(name, put, tmp_path):
    put(f"run/{name}")
    assert read(tmp_path) == [(f"run/{name}", 0)]


def test_classes_of_nearly_one_name_are_told(put, tmp_path):
    put(
        "Run/1.mp4",
        "run /2.mp4",
        "caf\u00e9/3.mp4",
        "cafe\u0301/4.mp4",
        "high_jump/5.mp4",
        "high jump/6.mp4",
        "walk/7.mp4",
    )
    note = next(note for note in read_list(tmp_path).notes if "several names" in note)
    assert note.startswith("3 classes are there under several names: ") and "'Run', 'run '" in note
    assert "walk" not in note


def test_empty_folders_are_no_classes(put, tmp_path):
    put("b/1.mp4", "c/notes.txt", "d/2.mp4")
    (tmp_path / "a").mkdir()
    videos = read_list(tmp_path)
    assert videos.class_names == ("b", "d") and videos.labels == (0, 1)
    assert "2 folders without a video are no classes: a, c" in videos.notes
    assert "passed over, neither video nor picture: 1 .txt (c/notes.txt)" in videos.notes


def test_what_is_passed_over_is_counted_by_suffix(put, tmp_path):
    put("a/1.mp4", "a/1.srt", "a/2.srt", "a/3.srt", "a/4.srt", "a/5.wav", "a/readme", "2.mp4")
    notes = "\n".join(read_list(tmp_path).notes)
    assert "1 without suffix (a/readme), 4 .srt (a/1.srt, a/2.srt, a/3.srt, ...), 1 .wav (a/5.wav)" in notes
    assert "passed over 1 videos and pictures outside of the folders of classes: 2.mp4" in notes


CONTAINERS = {  # usual suffixes: container that is written, codec
    ".gif": ("gif", "gif"),
    ".vob": ("vob", "mpeg2video"),
    ".MTS": ("mpegts", "libx264"),
    ".ogv": ("ogg", "libvpx"),
    ".m2ts": ("mpegts", "libx264"),
    ".asf": ("asf", "msmpeg4v3"),
    ".divx": ("avi", "mpeg4"),
    ".nut": ("nut", "mpeg4"),
    ".mxf": ("mxf", "mpeg2video"),
    ".y4m": ("yuv4mpegpipe", "wrapped_avframe"),
    ".3g2": ("3g2", "mpeg4"),
    ".f4v": ("f4v", "libx264"),
    ".m2v": ("mpeg2video", "mpeg2video"),
    ".ivf": ("ivf", "libvpx"),
    ".mk3d": ("matroska", "mpeg4"),
    ".h264": ("h264", "libx264"),
    ".264": ("h264", "libx264"),
    ".mjpeg": ("mjpeg", "mjpeg"),
    ".hevc": ("hevc", "libx265"),
}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_what_the_decoder_opens_is_a_video(suffix, tmp_path):
    """It is found in a folder, by its name without suffix, and can be decoded."""
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / f"v{suffix}"
    write_as(file, *CONTAINERS[suffix])
    assert read(tmp_path) == [(f"run/v{suffix}", 0)]
    (tmp_path / "list.txt").write_text("run/v 3\n")
    assert read_list(tmp_path / "list.txt", root=str(tmp_path)).paths == (str(file),)
    with open_video(file) as video:
        assert read_number(video.get_frames([0])[0]) == 5


def write_as(file, container, codec):
    """Some frames, of which the first has the number 5, in a container that the suffix may not tell PyAV."""
    formats = {"gif": "rgb8", "mjpeg": "yuvj420p"}
    with av.open(str(file), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, formats.get(codec, "yuv420p")
        for number in range(5, 20):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(_paint(number, 64, 48)), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".bmp", ".webp", ".ppm", ".pgm", ".jfif", ".jp2"])
def test_folders_of_any_pictures_are_videos(suffix, put, tmp_path):
    (tmp_path / "run/v").mkdir(parents=True)
    for number in (2, 10, 1):
        Image.new("L" if suffix == ".pgm" else "RGB", (8, 8)).save(tmp_path / f"run/v/{number}{suffix}")
    put("run/v/Thumbs.db", f"run/v/._1{suffix}")
    assert read(tmp_path) == [("run/v", 0)]
    assert frame_names(tmp_path / "run/v") == [f"{number}{suffix}" for number in (1, 2, 10)]
    with open_video(tmp_path / "run/v") as video:
        assert video.num_frames == 3


def test_one_list_of_suffixes():
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(is_video(f"x{s}") != is_image(f"x{s}") and not is_left_out(f"x{s}") for s in SUFFIXES)
    assert is_video("X.MP4") and not is_video("mp4") and not is_video("x.mp4/y")


def test_pictures_beside_videos_are_thumbnails(put, tmp_path):
    put("run/a.mp4", "run/a.jpg", "run/b.webp", "walk/c.mkv", "walk/c.mp4")
    assert read(tmp_path) == [("run/a.mp4", 0), ("walk/c.mkv", 1), ("walk/c.mp4", 1)]
    notes = "\n".join(read_list(tmp_path).notes)
    assert "passed over 2 pictures beside videos: run/a.jpg, run/b.webp" in notes
    assert "2 videos have the name of another but for the suffix: walk/c.mkv, walk/c.mp4" in notes


def test_pictures_beside_folders_of_frames_are_no_videos(put, tmp_path):
    put("run/v/1.jpg", "run/v/2.jpg", "run/cover.jpg", "walk/w/1.png", "walk/w/x/2.png", "walk/y/1.png", "walk/y/b.mp4")
    assert read(tmp_path) == [("run/v", 0), ("walk/w/x", 1), ("walk/y/b.mp4", 1)]
    notes = "\n".join(read_list(tmp_path).notes)
    assert "passed over 3 pictures beside videos: run/cover.jpg, walk/w/1.png, walk/y/1.png" in notes
    assert "2 folders of frames beside 1 video files" in notes


def test_videos_and_folders_of_frames_of_one_name(put, tmp_path):
    put("run/a.mp4", "run/a/1.jpg", "run/b.mp4")
    assert not any("have the name of another" in note for note in read_list(tmp_path).notes)
    put("run/a.jpg")
    assert not any("have the name of another" in note for note in read_list(tmp_path).notes)
    put("run/a.avi")
    assert any(note.startswith("2 videos have the name of another") for note in read_list(tmp_path).notes)


def test_pictures_beside_folders_of_frames_alone_are_no_videos(put, tmp_path):
    put("run/v/1.jpg", "run/cover.jpg", "walk/w/1.jpg")
    assert read(tmp_path) == [("run/v", 0), ("walk/w", 1)]


def test_a_data_set_of_pictures_is_one(put, tmp_path):
    put("cat/1.JPEG", "dog/2.png")
    assert read(tmp_path) == [("cat/1.JPEG", 0), ("dog/2.png", 1)]


def test_links_that_go_in_circles_or_nowhere(put, tmp_path):
    put("run/a.mp4", "walk/b.mp4")
    for target, link in (("..", "run/up"), (".", "run/self"), ("gone", "run/dead.mp4"), ("x", "run/x"), ("l", "l")):
        os.symlink(target, tmp_path / link)
    os.mkfifo(tmp_path / "run/pipe.mp4")
    assert read(tmp_path) == [("run/a.mp4", 0), ("walk/b.mp4", 1)]
    assert any("passed over 6 links that lead nowhere or back" in note for note in read_list(tmp_path).notes)


def test_links_to_classes_are_followed(put, tmp_path):
    put("store/x/a.mp4")
    (tmp_path / "set").mkdir()
    os.symlink("../store/x", tmp_path / "set/run")
    assert read(tmp_path / "set") == [("run/a.mp4", 0)]


@pytest.mark.parametrize("name", ["a\nb.mp4", "a\r.mp4"])
def test_names_that_no_list_holds_are_passed_over(name, put, tmp_path):
    put("run/1.mp4", f"run/{name}", "wa\nlk/2.mp4")
    (tmp_path / os.fsdecode(b"run/\xe9.mp4")).write_bytes(b"x")
    assert read(tmp_path) == [("run/1.mp4", 0)]
    note = next(note for note in read_list(tmp_path).notes if "names with line ends" in note)
    assert note.startswith("passed over 3 ") and "wa\\nlk" in note and "\\udce9" in note and "\n" not in note


# ------------------------------------------------------------------------------------------------- pre-training


def pretrain(folder, **settings):
    return PretrainListConfig(data_path=str(folder), **settings).read()


def test_pretraining_takes_a_folder(put, tmp_path):
    put("v/b.mp4", "v/x/y/a.mkv", "v/x/._c.mp4", "v/@eaDir/d.mp4", "v/notes.txt", "v/b.jpg")
    videos = pretrain(tmp_path / "v")
    assert [os.path.relpath(path, tmp_path / "v") for path in videos.paths] == ["b.mp4", "x/y/a.mkv"]
    assert videos.labels == (-1, -1) and videos.num_classes == 0
    assert any("1 .txt (notes.txt)" in note for note in videos.notes)
    put("w/x/y/a.mkv", "w/b.mp4")  # made in another order, elsewhere
    assert pretrain(tmp_path / "w").fingerprint == videos.fingerprint
    put("w/c.mp4")
    assert pretrain(tmp_path / "w").fingerprint != videos.fingerprint


def test_pretraining_reads_class_folders_as_before(put, tmp_path):
    put("run/a.mp4", "walk/b.mp4")
    assert pretrain(tmp_path).fingerprint == read_list(tmp_path, list_format="folder").fingerprint


def test_folders_of_pictures_are_not_guessed(put, tmp_path):
    put("v1/1.jpg", "v1/2.jpg", "v2/1.jpg")
    with pytest.raises(AnnotationError, match=r"--list_format videos; .* --list_format folder"):
        pretrain(tmp_path)
    assert len(pretrain(tmp_path, list_format="videos")) == 2 and len(pretrain(tmp_path, list_format="folder")) == 3


def test_a_folder_without_videos_says_what_it_has(put, tmp_path):
    put("train.csv", "x.tar")
    with pytest.raises(AnnotationError, match=r"no videos in it; .* 1 \.csv \(train\.csv\), 1 \.tar \(x\.tar\)"):
        pretrain(tmp_path)
