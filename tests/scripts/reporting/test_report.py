"""report.py: the page is whole, needs nothing from outside, says what the files say, and runs nothing of theirs."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from videos import read_number

from scripts import report
from scripts.reporting import results_shown
from scripts.reporting.assets import SCRIPT, STYLE
from scripts.reporting.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    Frame,
    line_chart,
    means,
    thinned,
    ticks,
)
from scripts.reporting.charts import WIDTH as WIDTH_OF_CHART
from scripts.reporting.markup import number
from scripts.reporting.panels import GROUPS, VALIDATION, chart_of, groups_of
from scripts.reporting.pictures import WIDTH, thumbnail
from scripts.reporting.predictions import Predictions, most_confused
from scripts.reporting.results_shown import confusion_section
from scripts.reporting.run_folder import Run, read_run
from sigma_video.terminal import printable

from .conftest import HOSTILE, make_log, make_record, make_test, read_csv

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page taken apart: AssertionError if a tag is not closed where it should be."""

    def __init__(self, file):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def attributes(self, tag, **wanted):
        """Attributes of the elements of a tag that have these ones."""
        found = [attributes for name, attributes in self.elements if name == tag]
        return [one for one in found if all(one.get(key) == value for key, value in wanted.items())]

    def inside(self, tag):
        return [text for name, text in self.texts if name == tag]

    def lines(self, title):
        """Points of the lines of a chart, by their names."""
        start = next(at for at, (tag, a) in enumerate(self.elements) if tag == "svg" and a.get("aria-label") == title)
        found = {}
        for tag, attributes in self.elements[start + 1 :]:
            if tag == "svg":
                break
            if "data-points" in attributes:
                found[attributes["data-name"]] = json.loads(attributes["data-points"])
        return found


def write(tmp_path, *folders):
    report.main([*map(str, folders), "--output", str(tmp_path / "page.html")])
    return Page(tmp_path / "page.html")


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    return write(tmp_path_factory.mktemp("page"), finished)


def check_safe(page):
    """Nothing is fetched, and nothing runs but the page's own script."""
    assert page.inside("script") == [SCRIPT] and page.inside("style") == [STYLE]
    assert "url(" not in STYLE and "@import" not in STYLE
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "link", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    (policy,) = page.attributes("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"] and "script-src 'sha256-" in policy["content"]


def test_the_page_is_whole_and_runs_nothing_of_what_files_say(page, finished):
    check_safe(page)
    assert "alert(1)" not in "".join(page.inside("script"))
    shown = "".join(text for _, text in page.texts)
    for words in (*map(printable, HOSTILE), finished.name, "<u>a", "<script>lists</script>", "<b>test.csv</b>"):
        assert words in shown
    assert "\x1b" not in page.source and "\u202e" not in page.source


def test_the_script_is_the_one_of_its_hash(page):
    digest = base64.b64encode(hashlib.sha256(page.inside("script")[0].encode()).digest()).decode()
    (policy,) = page.attributes("meta", **{"http-equiv": "Content-Security-Policy"})
    assert f"'sha256-{digest}'" in policy["content"]


def test_curves_are_those_of_the_log(page, finished):
    records = [json.loads(line) for line in (finished / "log.txt").read_text().splitlines()]
    for title, name, key in (
        ("Loss", "loss", "train/loss"),
        ("Learning rate", "learning rate", "train/lr"),
        ("Seconds per step", "waiting for data", "train/data_time"),
        ("top-1 (%)", "val", "val/top1"),
        ("<i>x", "val", "val/<i>x"),
    ):
        assert page.lines(title)[name] == [[r["step"], r[key]] for r in records if key in r]


def test_the_overview_says_last_and_best(page, finished):
    records = map(json.loads, (finished / "log.txt").read_text().splitlines())
    values = [record["val/top1"] for record in records if "val/top1" in record]
    texts = [text for _, text in page.texts]
    said = {words: texts[texts.index(words) - 1] for words in ("steps", "last val/top1", "best val/top1")}
    assert list(said.values()) == ["40 of 40", number(values[-1]), number(max(values))]
    assert "finished" in page.inside("span")


def test_results_are_those_of_the_files(page, finished):
    result = json.loads((finished / "test.json").read_text())
    shown = {key: value for key, value in result.items() if key.startswith("test/") and key != "test/top5"}  # 4 classes
    metrics = [number(value) for value in shown.values()]
    bold = page.inside("b")
    assert [text for text in bold if text in metrics][: len(metrics)] == metrics
    header, *rows = read_csv(finished / "test_classes.csv")
    values = [printable(value) for row in rows for value in row]
    cells = page.inside("td")
    start = next(at for at in range(len(cells)) if cells[at : at + 2] == ["0", printable(HOSTILE[0])])
    assert cells[start : start + len(values)] == [value for value in values if value]
    assert set(page.inside("button")) >= {name.replace("_", " ") for name in header}


def test_confusion_matrix_counts_the_predictions(page, finished):
    arrays = np.load(finished / "test_predictions.npz")
    counts = dict.fromkeys(((row, column) for row in range(4) for column in range(4)), 0)
    for label, scores in zip(arrays["labels"].tolist(), arrays["probabilities"].tolist(), strict=True):
        counts[label, scores.index(max(scores))] += 1
    shown = [a for a in page.attributes("g") if "data-count" in a]
    assert {(int(a["data-row"]), int(a["data-column"])): int(a["data-count"]) for a in shown} == counts


def test_worst_videos_are_shown_or_said_to_be_gone(page, finished):
    arrays = np.load(finished / "test_predictions.npz")
    own = arrays["probabilities"][np.arange(24), arrays["labels"]]
    wrong = arrays["probabilities"].argmax(1) != arrays["labels"]
    worst = arrays["paths"][np.argsort(np.where(wrong, own, 2), kind="stable")][: min(12, wrong.sum())]
    titles = [a["title"] for a in page.attributes("small", **{"class": "path"})]
    assert titles == worst.tolist()
    pictures = [a for a in page.attributes("img") if "video" in a["alt"]]
    gone = page.inside("div").count("no video at this path any more")
    assert len(pictures) + gone == len(worst)
    assert gone == sum(path.startswith("/gone") for path in worst) > 0
    assert any(f"{gone} of these {len(worst)} videos cannot be shown" in text for text in page.inside("p"))


def test_pictures_are_frames_of_the_video(finished):
    with urlopen(thumbnail(str(finished / "one.mp4"), None, [finished])) as content:
        picture = Image.open(BytesIO(content.read()))
    assert picture.width == 3 * WIDTH
    assert np.asarray(picture).std() > 5
    assert thumbnail("one.mp4", None, [finished / "elsewhere", finished]).startswith("data:image/jpeg;base64,")


def test_pictures_of_a_part_are_frames_of_the_part(finished):
    """Of 8 frames at 30 a second, the last three: 5, 6 and 7."""
    with urlopen(thumbnail(str(finished / "one.mp4"), (5 / 30, 8 / 30), [finished])) as content:
        picture = torch.from_numpy(np.array(Image.open(BytesIO(content.read())))).permute(2, 0, 1)
    assert [read_number(frame) for frame in picture.split(WIDTH, dim=2)] == [5, 6, 7]


def test_several_runs_are_compared(tmp_path, finished):
    for name, options in (("a", {"lr": 2e-3, "drop": 0.1}), ("b", {"lr": 3e-3})):
        make_log(tmp_path / "runs" / name, shift=1.0)
        make_record(tmp_path / "runs" / name, **options)
    page = write(tmp_path, tmp_path / "runs", tmp_path / "runs" / "a", finished)
    check_safe(page)
    assert "3 runs" in page.inside("h1")
    assert set(page.lines("Loss")) == {"a", "b", finished.name}
    rows = page.inside("th")
    assert "lr" in rows and "drop" in rows
    assert "epochs" not in rows[: rows.index("drop") + 2] and "output_dir" not in rows[: rows.index("drop") + 2]
    cells = page.inside("td")
    assert ["0.002", "0.003", "0.001"] in [cells[at : at + 3] for at in range(len(cells))]
    assert "not there" in cells


def test_real_runs(tmp_path, pretrained, finetuned):
    page = write(tmp_path, pretrained, finetuned)
    check_safe(page)
    log = [json.loads(line) for line in (pretrained / "log.txt").read_text().splitlines()]
    name = next(name for name in page.lines("Prototypes used") if name.endswith("video"))
    assert [y for _, y in page.lines("Prototypes used")[name]] == [r["train/prototypes_used_video"] for r in log]
    assert page.inside("span").count("finished") == 2
    matrix = np.load(finetuned / "test_predictions.npz")["confusion"]
    shown = [int(a["data-count"]) for a in page.attributes("g") if "data-count" in a]
    assert shown == matrix.flatten().tolist()
    assert len([a for a in page.attributes("img") if "video" in a["alt"]]) == min(12, matrix.sum() - matrix.trace())


# ------------------------------------------------------------------------------------------------ input of all kinds


def broken_npz(folder):
    make_test(folder, ["a", "b"])
    (folder / "test_predictions.npz").write_bytes(b"PK\x03\x04 cut off")


def wrong_labels(folder):
    make_test(folder, ["a", "b"])
    arrays = dict(np.load(folder / "test_predictions.npz"))
    np.savez(folder / "test_predictions.npz", **{**arrays, "labels": arrays["labels"] + 9})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "log.txt").unlink(), "no run in it"),
        (lambda folder: (folder / "log.txt").write_text(""), "is empty"),
        (lambda folder: (folder / "log.txt").write_text('{"epoch": 0, "train_loss": 1.0}\n'), "line 1 has no `step`"),
        (lambda folder: (folder / "log.txt").write_text("epoch 0 loss 1.0\n"), "line 1 is not JSON"),
        (lambda folder: (folder / "log.txt").write_text('{"step": 1}\nx\n{"step": 2}\n'), "line 2 is not JSON"),
        (lambda folder: (folder / "log.txt").write_bytes(b"\xff\xfe\x00"), "not a text file"),
        (lambda folder: (folder / "run.json").write_text("{}"), "not the record of a run"),
        (lambda folder: (folder / "test.json").write_text("[1"), "not readable as JSON"),
        (broken_npz, "not the predictions of a test"),
        (wrong_labels, "labels beyond the classes"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, capsys, spoil, words):
    make_log(tmp_path / "run", steps=2)
    spoil(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        write(tmp_path, tmp_path / "run")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and words in error and error.count("\n") == 1 and str(tmp_path / "run") in error
    assert not (tmp_path / "page.html").exists()


def test_a_page_replaces_pages_alone(tmp_path, capsys):
    make_log(tmp_path / "run", steps=2)
    write(tmp_path, tmp_path / "run")
    write(tmp_path, tmp_path / "run")  # another page takes its place
    (tmp_path / "page.html").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        write(tmp_path, tmp_path / "run")
    assert ended.value.code == 2 and "what is there is no page" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text() == "{}"


def test_a_folder_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        write(tmp_path, tmp_path / "none")
    assert ended.value.code == 2 and "no such folder" in capsys.readouterr().err


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    records = make_log(tmp_path / "run", steps=3)
    with (tmp_path / "run" / "log.txt").open("a") as file:
        file.write('{"step": 4, "train/lo')
    assert read_run(tmp_path / "run").records == records


def test_gaps_where_a_value_was_not_finite(tmp_path):
    make_log(tmp_path / "run", steps=2)
    with (tmp_path / "run" / "log.txt").open("a") as file:
        file.write('{"step": 3, "train/loss": null}\n{"step": 4, "train/loss": 1.5}\n')
    page = write(tmp_path, tmp_path / "run")
    assert page.lines("Loss")["loss"][2:] == [[3, None], [4, 1.5]]
    (path,) = [a["d"] for a in page.attributes("path") if a.get("data-name") == "loss"]
    assert path.count("M") == 2 and path.count("L") == 1


def test_a_matrix_of_many_classes_is_a_picture(tmp_path):
    (tmp_path / "run").mkdir()
    make_test(tmp_path / "run", [f"/gone/{k}" for k in range(90)], [f"class {k}" for k in range(45)])
    page = write(tmp_path, tmp_path / "run")
    assert len(page.attributes("img", **{"class": "matrix"})) == 1
    assert not [a for a in page.attributes("g") if "data-count" in a]


# ------------------------------------------------------------------------------------------------ parts


def test_a_curve_rises_where_its_values_rise(tmp_path):
    """Pixels count from the top left corner of the drawing."""
    frame = Frame(left=2.0, right=6.0, bottom=-1.0, top=1.0)
    box = (LEFT, WIDTH_OF_CHART - RIGHT, HEIGHT - BOTTOM, TOP)
    assert (frame.x(2), frame.x(6), frame.y(-1), frame.y(1)) == pytest.approx(box)
    assert frame.y(0) == pytest.approx((HEIGHT - BOTTOM + TOP) / 2)
    make_log(tmp_path / "run", steps=5)
    page = write(tmp_path, tmp_path / "run")
    (shape,) = [a["d"] for a in page.attributes("path") if a.get("data-name") == "loss"]
    places = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+)[ ,]([\d.]+)", shape)]
    assert [x for x, _ in places] == sorted(x for x, _ in places) and len(places) == 5
    assert [y for _, y in places] == sorted(y for _, y in places)  # the loss falls


def test_levels_say_how_many_prototypes_there_are():
    panels = {panel.title: panel for panel in (*GROUPS["Training"], *GROUPS["Collapse watch"])}
    records = [{"step": 1, "train/ln_k": math.log(k), "train/video_loss": 8.0} for k in (12, 3000)]
    keys = ("prototypes_used_video", "perplexity_video")
    run = Run(Path("run"), [record | dict.fromkeys((f"train/{key}" for key in keys), 5.0) for record in records])
    levels = {title: chart_of(panel, {"run": run}).levels for title, panel in panels.items() if panel.levels}
    assert levels == {
        "Loss of each branch": {"chance, ln K = 8.006": pytest.approx(math.log(3000))},
        "Prototypes used": {"K = 3000": pytest.approx(3000)},
        "Perplexity of the assignment": {"K = 3000": pytest.approx(3000)},
    }


def test_confused_classes_by_hand():
    """Of four videos of class a one is taken for b; of the two of b, one for a and one for c."""
    labels, found = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 0, 2, 2]
    arrays = {"labels": np.array(labels), "probabilities": np.eye(3)[found], "class_names": np.array(list("abc"))}
    predictions = Predictions("classification", {**arrays, "paths": np.array(labels).astype(str)})
    assert most_confused(predictions.confusion(), 5) == [(0, 1, 1), (1, 0, 1), (1, 2, 1)]
    assert most_confused(np.array([[0, 2, 0], [3, 0, 0], [0, 9, 1]]), 2) == [(2, 1, 9), (1, 0, 3)]
    said = confusion_section(predictions)
    shares = re.findall(r"(\w) taken for (\w): (\d) \(([\d.]+) %\)", said)
    assert [share for share in shares if share[2] != "0"] == [
        *(("a", "a", "3", "75.0"), ("a", "b", "1", "25.0"), ("b", "a", "1", "50.0"), ("b", "c", "1", "50.0")),
        ("c", "c", "1", "100.0"),
    ]


def test_thinned_lines_keep_their_extremes():
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in enumerate(rng.normal(size=20_000))]
    points[7_777], points[9_999] = (7_777.0, 99.0), (9_999.0, None)
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS and kept == sorted(kept, key=lambda point: point[0])
    assert {point for point in kept} <= set(points)
    assert points[7_777] in kept and min(points, key=lambda p: p[1] or 0) in kept
    assert kept[0] == points[0] and kept[-1] == points[-1]


def test_means_of_a_noisy_line():
    points = [(float(x), float(x % 2) if x < 900 else None) for x in range(1000)]
    found = means(points)
    assert found[0] == (4.5, 0.5) and found[-1] == (994.5, None) and len(found) == 100


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 5e4), (1e-7, 4e-7), (99.1, 99.4), (-2e9, -1e9)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 * abs(low) <= at <= high + 1e-9 * abs(high) for at in found)
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_mistakes_of_other_tasks():
    paths = np.array(["a", "b", "c"])
    numbers = {"targets": np.array([1.0, 2.0, 3.0]), "predictions": np.array([1.5, 2.0, 0.0]), "paths": paths}
    found = Predictions("regression", numbers).mistakes(5)
    assert [(one.path, one.truth, one.predicted) for one in found] == [("c", "3", "0"), ("a", "1", "1.5")]
    sets = {
        "labels": np.array([[1, 0], [0, 1], [1, 1]]),
        "probabilities": np.array([[0.9, 0.8], [0.1, 0.9], [0.2, 0.9]]),
    }
    found = Predictions("multilabel", {**sets, "paths": paths, "class_names": np.array(["x", "y"])}).mistakes(5)
    assert [(one.path, one.truth, one.predicted) for one in found] == [("a", "x", "x, y"), ("c", "x, y", "y")]


def test_percentages_end_at_100_and_a_top_5_of_five_classes_is_not_shown(tmp_path):
    """Neither the axis of a perfect validation, nor what no model can miss."""
    records = make_log(tmp_path)
    for record in records:
        if "val/top1" in record:
            record |= {"val/top1": 100.0, "val/top5": 100.0}
    found = {chart.title: chart for chart in groups_of({"run": Run(tmp_path, records)})[VALIDATION]}
    assert "top-1 (%)" in found and "top-5 (%)" not in found
    limits = json.loads(re.search(r'data-limits="([^"]+)"', line_chart(found["top-1 (%)"]))[1])
    assert limits[2:] == [50, 100]
    records[-1]["val/top5"] = 99.0
    assert "top-5 (%)" in {chart.title for chart in groups_of({"run": Run(tmp_path, records)})[VALIDATION]}
    for classes in (4, 6):
        folder = tmp_path / str(classes)
        folder.mkdir()
        make_log(folder)
        make_test(folder, [f"{number}.mp4" for number in range(classes)], [f"class {k}" for k in range(classes)])
        assert ("top-5 (%)" in results_shown.test_section(read_run(folder))) == (classes > 5)
