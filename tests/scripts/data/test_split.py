"""`prepare.py --split`: shares in every class, groups in one part, the same for everyone."""

import collections
import itertools

import pytest

from scripts.data import prepare
from scripts.data.split import shares_of


@pytest.fixture
def run(tmp_path, capsys):
    """Makes classes of so many empty videos, and divides them; gives the parts as [(class, number)] and the output."""

    def run(split, groups="", seed=0, **classes):
        source, out = tmp_path / "set", tmp_path / "out"
        for name, count in classes.items():
            (source / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (source / name / f"{number:03}.mp4").touch()
        if groups:
            (source / "groups.csv").write_text(groups)
        prepare.main(["--from", "folder", str(source), "--out", str(out), "--split", split, "--seed", str(seed)])
        parts = {}
        for part in ("train", "val", "test"):
            paths = [line.split(" ")[0].split("/") for line in (out / f"{part}.csv").read_text().splitlines()]
            parts[part] = [(path[-2], int(path[-1][:3])) for path in paths]
        return parts, capsys.readouterr().out

    return run


def test_shares_hold_in_every_class(run):
    parts, text = run("80/10/10", a=20, b=10, c=1, d=2)
    counts = {part: collections.Counter(name for name, _ in videos) for part, videos in parts.items()}
    assert counts == {"train": {"a": 16, "b": 8, "c": 1, "d": 2}, "val": {"a": 2, "b": 1}, "test": {"a": 2, "b": 1}}
    assert len(set(itertools.chain(*parts.values()))) == 33
    assert "2 classes are too small for a video in val: c, d" in text


def test_the_seed_decides(run):
    first, _ = run("50/25/25", a=20)
    assert run("50/25/25", a=20)[0] == first
    assert run("50/25/25", seed=1, a=20)[0] != first
    order = sorted(itertools.chain(*first.values()))
    assert order == [("a", number) for number in range(20)] and first["train"] != order[:10]


def test_groups_are_in_one_part(run):
    groups = "path,group\n" + "".join(f"{c}/{n:03}.mp4,g{n // 5}\n" for c in "ab" for n in range(30))
    parts, text = run("60/20/20", groups, a=30, b=30, c=1)
    of_part = {part: {number // 5 for name, number in videos if name != "c"} for part, videos in parts.items()}
    assert sorted(itertools.chain(*of_part.values())) == list(range(6))  # each group in exactly one
    assert [len(of_part[part]) for part in ("train", "val", "test")] in ([4, 1, 1], [3, 2, 1], [3, 1, 2])
    assert ("c", 0) in parts["train"] and "6 groups of groups.csv; 1 videos are in none" in text


def test_two_parts(run):
    parts, _ = run("90/10", a=10)
    assert len(parts["train"]) == 9 and len(parts["val"]) == 1 and parts["test"] == parts["val"]


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ("path,group\na/000.mp4,x\na/999.mp4,y\n", "groups.csv, line 3: 'a/999.mp4' is no video"),
        ("path,group\na/000.mp4,x\na/000.mp4,y\n", "groups.csv, line 3: 'a/000.mp4' is in group x as well"),
        ("file,subject\na/000.mp4,x\n", "groups.csv, line 1: the columns are file, subject"),
    ],
)
def test_groups_that_cannot_be_meant(groups, match, run, capsys):
    with pytest.raises(SystemExit):
        run("50/50", groups, a=4)
    assert match in capsys.readouterr().err


@pytest.mark.parametrize("text", ["80/20/10", "a/b", "-1/101", "100/0/0", "0/50/50", "50/25/15/10", "80/"])
def test_shares_that_cannot_be_meant(text):
    with pytest.raises(ValueError, match="add up to 100"):
        shares_of(text)


def test_parts_that_are_there_are_not_divided(tmp_path, capsys):
    for name in ("train/a/1.mp4", "val/a/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for form, match in (("folder", "are folders already"), ("ucf101", "--split 80/10/10 is for --from folder")):
        (tmp_path / "trainlist01.txt").touch()
        with pytest.raises(SystemExit):
            prepare.main(["--from", form, str(tmp_path), "--out", str(tmp_path / "o"), "--split", "80/10/10"])
        assert match in capsys.readouterr().err


def test_every_class_is_in_train(run):
    """Also where its share is less than a video, and where its only group would go elsewhere."""
    parts, _ = run("10/90", a=3, b=1)
    assert {name for name, _ in parts["train"]} == {"a", "b"} and len(parts["val"]) == 2


def test_every_class_is_in_train_with_its_group(run):
    rows = [f"y/{number:03}.mp4,{1 if number < 10 else 2 if number < 14 else 3}\n" for number in range(17)]
    parts, _ = run("50/50", "".join(["path,group\n", *rows, "x/000.mp4,2\n"]), x=1, y=17)
    assert ("x", 0) in parts["train"] and {("y", number) for number in range(10, 14)} <= set(parts["train"])
    assert parts["val"] == [("y", number) for number in range(14, 17)]
