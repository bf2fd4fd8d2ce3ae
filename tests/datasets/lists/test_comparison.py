"""What checkpoints keep of lists: against counts by hand, and lists whose overlap is known."""

import pytest

from datasets.lists import comparison
from datasets.lists.comparison import compare_with_training, summarise
from datasets.lists.read import read_list

TRAIN = [("a", 0), ("b", 0), ("c", 1), ("d", 2), ("e", 2), ("f", 2)]
TEST = [("u", 0), ("v", 1), ("w", 1), ("x", 2)]


def listed(file, rows, **options):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{name}.mp4 {label}\n" for name, label in rows))
    return read_list(file, root=options.pop("root", "/videos"), **options)


@pytest.fixture
def recorded(tmp_path):
    parts = {"train": TRAIN, "test": TEST}
    return {part: summarise(listed(tmp_path / f"{part}.csv", rows)) for part, rows in parts.items()}


def test_the_summary_counts_videos_of_every_class(recorded, tmp_path):
    assert recorded["train"]["videos"] == 6 and recorded["train"]["histogram"] == [2, 1, 3]
    assert recorded["test"]["fingerprint"] == listed(tmp_path / "copy.csv", TEST).fingerprint
    assert sorted(recorded["train"]["sample"].values()) == [0, 0, 1, 2, 2, 2]
    gap = summarise(listed(tmp_path / "gap.csv", [("a", 0), ("b", 3)]))
    assert gap["histogram"] == [1, 0, 0, 1]


def test_several_labels_and_numbers(tmp_path):
    (tmp_path / "sets.csv").write_text("path,label\na.mp4,0 2\nb.mp4,2\n")
    sets = summarise(read_list(tmp_path / "sets.csv", root="/videos", labels="classes"))
    assert sets["histogram"] == [1, 0, 2] and sorted(sets["sample"].values()) == [(0, 2), (2,)]
    numbers = summarise(listed(tmp_path / "numbers.csv", [("a", 0.5), ("b", -2)], labels="value"))
    assert numbers["histogram"] == [] and sorted(numbers["sample"].values()) == [-2.0, 0.5]
    assert compare_with_training({"train": numbers}, listed(tmp_path / "x.csv", [("c", 7.5)], labels="value")) == []


@pytest.mark.parametrize(
    ("rows", "doubts"),
    [
        (TEST, []),
        ([("p", 2), ("q", 0)], []),  # other videos of the same classes
        (TRAIN, ["it is the list that the weights were trained on"]),
        ([*TEST, ("b", 0), ("d", 2)], ["2 of its 6 videos are in the list that the weights were trained on"]),
        ([("u", 0), ("v", 1), ("w", 2), ("y", 2)], ["1 of 3 videos that the run's lists have too have another label"]),
        ([("p", 1), ("q", 3), ("r", 3)], ["no video was trained on of 1 class in it (label 3)"]),
        (
            [("p", 0), ("q", 0), ("r", 1), ("s", 2)],
            ["as many videos of each class as a list of the run, but in another"],
        ),
    ],
)
def test_what_is_said_of_another_list(rows, doubts, recorded, tmp_path):
    found = compare_with_training(recorded, listed(tmp_path / "other" / "test.csv", rows, root="/elsewhere"))
    assert len(found) == len(doubts) and all(map(str.__contains__, found, doubts)), found


def test_other_parts_of_the_same_videos_were_not_trained_on(tmp_path):
    def parts(name, *spans):
        lines = [f'{{"path": "a.mp4", "label": 0, "start": {start}, "end": {start + 1}}}' for start in spans]
        (tmp_path / name).write_text("\n".join(lines))
        return read_list(tmp_path / name, root="/videos")

    train = {"train": summarise(parts("train.jsonl", 0, 2, 4))}
    assert len(train["train"]["sample"]) == 3 and compare_with_training(train, parts("test.jsonl", 1, 3)) == []
    (doubt,) = compare_with_training(train, parts("both.jsonl", 1, 3, 4))
    assert doubt.startswith("1 of its 3 videos are in the list")


@pytest.mark.parametrize("recorded", [{}, {"train": None}, {"train": {}}, {"train": {"fingerprint": "x", "videos": 3}}])
def test_files_that_do_not_know_their_lists_say_nothing(recorded, tmp_path):
    assert compare_with_training(recorded, listed(tmp_path / "test.csv", TEST)) == []


def test_samples_of_long_lists_tell_how_far_they_overlap(tmp_path, monkeypatch):
    """A fifth of the test list was trained on; one in twenty of the videos is in the samples."""
    monkeypatch.setattr(comparison, "SAMPLE", 300)
    train = {"train": summarise(listed(tmp_path / "train.csv", [(f"t{i}", i % 7) for i in range(6000)]))}
    assert len(train["train"]["sample"]) == 300
    rows = [(f"t{i}", i % 7) for i in range(400)] + [(f"u{i}", i % 7) for i in range(1600)]
    (doubt,) = compare_with_training(train, listed(tmp_path / "test.csv", rows))
    assert doubt.startswith("about ") and 200 < int(doubt.split()[1]) < 700
    assert compare_with_training(train, listed(tmp_path / "new.csv", rows[400:])) == []
    monkeypatch.setattr(comparison, "MAX_SUMMARISED", 10)
    brief = summarise(listed(tmp_path / "train.csv", TRAIN * 2))
    assert (brief["videos"], brief["histogram"], brief["sample"]) == (12, [], {})
