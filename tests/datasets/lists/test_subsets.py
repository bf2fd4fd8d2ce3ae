"""The paper's subsets are drawn as they were, and refused where the list cannot give them."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import AnnotationError
from datasets.lists.read import read_list
from datasets.lists.subsets import (
    GYM_LABELS,
    KNOWN_SUBSETS,
    KnownSubset,
    check_known_subset,
    draw_subset,
    fingerprint_of,
    select,
    select_labels,
)
from scripts.data import prepare

GOLDEN = Path(__file__).parents[2] / "golden" / "ucf101_trainlist01_counts.txt"


def test_size_is_rounded_up_per_class():
    labels = [i % 101 for i in range(9_537)]
    assert len(draw_subset(labels)) == KNOWN_SUBSETS["UCF101"].size == 1_010
    assert len(draw_subset([i % 99 for i in range(20_484)])) == KNOWN_SUBSETS["GYM99"].size == 1_089
    small = [0] * 3 + [1] * 500 + [2] * 600  # a class that has fewer gives all
    assert np.bincount(np.array(small)[draw_subset(small)]).tolist() == [3, 334, 334]


def test_first_names_of_the_published_subset():
    """ApplyEyeMakeup has 101 training videos; the third of its group g08 is the first of the published subset."""
    labels = [1] * 200 + [0] * 101 + [2] * 90  # classes go by label, wherever they stand in the list
    assert draw_subset(labels, size=30)[0] == 200 + 2


def test_drawn_subset_by_hand():
    """One generator for all classes, in ascending order, places in list order."""
    labels = np.random.default_rng(5).integers(0, 4, 200)
    rng = np.random.RandomState(99999)
    expected = []
    for label in range(4):
        own = [place for place in range(200) if labels[place] == label]
        expected += [own[i] for i in rng.choice(len(own), 10, replace=False)]
    assert draw_subset(labels.tolist(), size=40) == expected
    assert draw_subset(labels.tolist(), size=40, seed=1) != expected


def test_unlabelled_videos_make_no_subset():
    with pytest.raises(AnnotationError, match="every video has a label"):
        draw_subset([-1, -1])


def test_fingerprint():
    assert fingerprint_of(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()[:16]


@pytest.fixture
def gym(tmp_path):
    file = tmp_path / "gym99_train.txt"
    lines = [f"{'x' * 11}_E_{i:06d}_000001_A_0000_0001 {i * 7 % 99}\n" for i in range(990)]
    file.write_text("".join(lines))
    return read_list(file, root="/d")


def test_parts_of_gym(gym):
    assert (len(GYM_LABELS["FXS1"]), len(GYM_LABELS["UBS1"])) == (11, 15)
    part = select_labels(gym, GYM_LABELS["UBS1"])
    assert len(part) == 150 and part.num_classes == 15
    for path, label, line in zip(part.paths, part.labels, part.line_numbers, strict=True):
        assert gym.paths[line - 1] == path and gym.labels[line - 1] == label + 74
    with pytest.raises(AnnotationError, match="no video with label 6"):
        select_labels(part.__class__(**{**vars(part), "labels": (0,) * 150}), GYM_LABELS["FXS1"])


def test_parts_of_gym_are_written(gym, tmp_path, capsys):
    for path in gym.paths:
        (tmp_path / "videos" / Path(path).name).parent.mkdir(exist_ok=True)
        (tmp_path / "videos" / Path(path).name).touch()
    words = [str(gym.file), "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "lists"), "--subset"]
    prepare.main(["--from", "gym", *words, "UBS1"])
    written, part = read_list(tmp_path / "lists" / "train.csv"), select_labels(gym, GYM_LABELS["UBS1"])
    assert written.labels == part.labels and written.num_classes == 15
    assert [Path(path).name for path in written.paths] == [Path(path).name for path in part.paths]
    assert "(published lists: 3,511), 15 classes" in capsys.readouterr().out
    for form, subset, told in (("gym", "1000", "990 videos, the training"), ("videomae", "UBS1", "others are of gym")):
        with pytest.raises(SystemExit):
            prepare.main(["--from", form, *words, subset])
        assert told in capsys.readouterr().err


def test_selection_keeps_order_and_columns(gym):
    chosen = select(gym, [5, 0])
    assert chosen.paths == (gym.paths[5], gym.paths[0]) and chosen.line_numbers == (6, 1)
    assert chosen.fingerprint != gym.fingerprint and chosen.num_classes == 99


def test_a_published_subset_is_checked(gym, monkeypatch):
    places = draw_subset(gym.labels)
    with pytest.raises(AnnotationError, match=r"990 videos, the training list of GYM99 has 20484"):
        check_known_subset("GYM99", gym, places)
    names = [Path(gym.paths[place]).stem + ".avi" for place in places]
    known = {"GYM99": KnownSubset(990, 990, fingerprint_of(names))}
    monkeypatch.setattr("datasets.lists.subsets.KNOWN_SUBSETS", known)
    check_known_subset("GYM99", gym, places)  # whatever the extension of the files
    check_known_subset("SSV2", gym, places)  # nothing is known of it
    with pytest.raises(AnnotationError, match=r"is not the published one"):
        check_known_subset("GYM99", gym, places[::-1])


@pytest.fixture
def ucf101(tmp_path):
    """The training list of UCF101's first split as it is published, its classes, and files of these names."""
    lines, classes = [], [line.split() for line in GOLDEN.read_text().splitlines()]
    for number, (name, counts) in enumerate(classes, start=1):
        stem = {"HandstandPushups": "HandStandPushups"}.get(name, name)  # the files are spelled so, the folder is not
        (tmp_path / "videos" / name).mkdir(parents=True)
        for group, clips in enumerate(map(int, counts), start=8):
            lines += [f"{name}/v_{stem}_g{group:02}_c{clip:02}.avi {number}" for clip in range(1, clips + 1)]
    for line in lines:
        (tmp_path / "videos" / line.split()[0]).touch()
    (tmp_path / "trainlist01.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    (tmp_path / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, (name, _) in enumerate(classes, start=1)))
    return tmp_path


@pytest.mark.slow
def test_the_published_subset_of_ucf101(ucf101, capsys):
    """The golden hashes of the paper's list, from the published list to the drawn names, by way of prepare.py."""
    assert (ucf101 / "trainlist01.txt").stat().st_size == 395_164  # as the copy that the counts were read from
    words = ["--from", "ucf101", str(ucf101), "--videos", str(ucf101 / "videos"), "--out", str(ucf101 / "lists")]
    prepare.main(words)
    videos = read_list(ucf101 / "lists" / "train.csv")
    assert (len(videos), videos.num_classes) == (9_537, 101)
    places = draw_subset(videos.labels)
    names = ["/".join(Path(videos.paths[place]).parts[-2:]) for place in places]
    assert len(names) == KNOWN_SUBSETS["UCF101"].size == 1_010
    assert names[0] == "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c03.avi"
    assert (fingerprint_of(names), fingerprint_of(sorted(names))) == ("9c0db60953908a9f", "82cfc7ab399e0552")
    check_known_subset("UCF101", videos, places)
    official = read_list(ucf101 / "trainlist01.txt", root=str(ucf101 / "videos"))
    assert draw_subset(official.labels) == places
    elsewhere = [f"/x/s.tar#{Path(path).with_suffix('.mp4').name}" for path in videos.paths]  # another folder and form
    check_known_subset("UCF101", dataclasses.replace(videos, paths=elsewhere), places)
    swapped = [places[1], places[0], *places[2:]]
    with pytest.raises(AnnotationError, match=r"1010 videos is not the published one"):
        check_known_subset("UCF101", videos, swapped)
    Path(videos.paths[5_000]).unlink()  # a file is lost, and the list that is written has one video fewer
    assert 5_000 not in places
    prepare.main(words)
    fewer = read_list(ucf101 / "lists" / "train.csv")
    with pytest.raises(AnnotationError, match=r"9536 videos, the training list of UCF101 has 9537"):
        check_known_subset("UCF101", fewer, draw_subset(fewer.labels))
    prepare.main([*words, "--subset", "1000"])  # which is drawn before files are looked for
    assert read_list(ucf101 / "lists" / "train.csv").paths == tuple(videos.paths[place] for place in places)
    Path(videos.paths[places[3]]).unlink()
    with pytest.raises(SystemExit):
        prepare.main([*words, "--subset", "1000"])
    assert f"1 of the 1,010 videos that --subset 1000 draws are not there, for example {videos.paths[places[3]]}" in (
        capsys.readouterr().err
    )
