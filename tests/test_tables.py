"""scripts/tables.py: published and measured values of the paper's tables, from files as the evaluations write them."""

import csv
import io
import json
import re

import pytest
from processes import ROOT

from engine.errors import ConfigError
from evaluation.records import Record as WrittenRecord
from scripts.table_cells import PUBLISHED, TABLES, fill, severe_mean
from scripts.table_formats import as_csv, document
from scripts.table_records import read_records
from scripts.tables import with_tables

SHA = "ab" * 32
MINE = {"method": "SIGMA-DINO", "backbone": "ViT-B", "pretrained_on": "K400", "epochs": 800}


def result(folder, data_set="SSV2", row=MINE, *, top1=70.1, videos=24_777, views=(2, 3), train="", **args):
    """A folder with what fine-tuning leaves: `test.json`, `run.json` and `row.json`."""
    folder.mkdir(parents=True)
    given = {"data_set": data_set, "model": "vit_base_patch16_224", "seed": 0, **args}
    (folder / "run.json").write_text(json.dumps([{"args": given, "train": train, "torch": "2.10", "commit": "c0ffee"}]))
    numbers = {"test/top1": top1, "test/mean_per_class": top1 - 5, "test/loss": 1.5, "test_ema/top1": 99.0}
    settings = {"test_num_segment": views[0], "test_num_crop": views[1], "task": "classification"}
    weights = {"": {"file": str(folder / "checkpoint-39.pth"), "key": "model", "sha256": SHA}}
    of = {"weights": weights, "list": {"file": "test.csv", "fingerprint": "0123456789ab"}, "settings": settings}
    (folder / "test.json").write_text(json.dumps({**numbers, "videos": videos, "views": 6, **of}))
    if row is not None:
        (folder / "row.json").write_text(json.dumps(row))
    return folder


def number(folder, metric="miou_hungarian", value=29.6, **more):
    """A folder with the record of video object segmentation."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"task": "segmentation-clustering", "metric": metric, "value": value, "clips": 30, "data_set": "DAVIS"}
    record |= {"model": "pretrain_sigma_base_patch16_224", "checkpoint_sha256": SHA, "list_sha256": "12" * 32, **more}
    (folder / f"{metric}.json").write_text(json.dumps(record))
    (folder / "row.json").write_text(json.dumps({"method": "SIGMA-MLP"}))
    return folder


def cells(*folders):
    """Cells with a measured value, by table, row and column; and the lines on results without a cell."""
    tables, unplaced = fill(read_records(folders))
    found = {
        (table, row.method, row.backbone, name): cell
        for table, rows in tables.items()
        for row in rows
        for name, cell in row.cells.items()
        if cell.measured is not None
    }
    return found, unplaced


# ------------------------------------------------------------------------------------------------ published values


def test_printed_means_of_severe():
    """Every row that some source prints with eight columns and a mean; two of SIGMA's page are rounded otherwise."""
    entries = [e for e in json.loads(PUBLISHED.read_text())["values"] if "mean" in e["values"]]
    by_source = {}
    for entry in entries:
        values = dict(entry["values"])
        printed = values.pop("mean")
        assert len(values) == 8
        assert severe_mean(values) == pytest.approx(printed, abs=0.08)
        by_source.setdefault(entry["source"], []).append(abs(severe_mean(values) - printed))
    assert len(by_source["SMILE"]) == 8 and max(by_source["SMILE"]) < 0.06


def test_mean_by_hand():
    assert severe_mean({"SSv2": 70.0, "UCF-RC": 0.2}) == pytest.approx((70 + 80) / 2)


def test_published_values_have_sources_and_columns():
    content = json.loads(PUBLISHED.read_text())
    columns = {table.name: {column.name for column in table.columns} | {table.mean} for table in TABLES}
    for entry in content["values"]:
        assert entry["source"] in content["sources"] and entry["values"].keys() <= columns[entry["table"]]


def test_pages_with_published_values_are_up_to_date():
    page = (ROOT / "docs" / "results.md").read_text()
    assert page.count("<!-- tables:") == 8
    assert with_tables(page) == page, "run `python scripts/tables.py --write`"


def published(table, method, column, pretrained_on="K400"):
    rows = fill([])[0][table]
    (row,) = (
        r for r in rows if (r.method, r.backbone, r.pretrained_on) == (method, "ViT-B", pretrained_on) and r.of_paper
    )
    return f"{row.cells[column].value:.1f}"


@pytest.mark.parametrize("method", ["SIGMA-DINO", "SIGMA-MLP", "VideoMAE"])
def test_values_that_other_pages_quote(method):
    tuned = [published("finetuning", method, column) for column in ("K400 5x3", "SSv2 2x3")]
    probed = [published("linear", method, column) for column in ("K400", "SSv2")]
    line = f"| {method} | ViT-B, K400, 800 epochs | {' / '.join(tuned)} | {' / '.join(probed)} |"
    assert line in (ROOT / "README.md").read_text()
    quoted = re.findall(
        rf"^\| {method}, (\w+), (tested|linear probe) on (\w+) \| ([\d.]+)", (ROOT / "FINETUNE.md").read_text(), re.M
    )
    names = {"K400": "K400 5x3", "SSv2": "SSv2 2x3"}
    for pretrained_on, how, on, value in quoted:
        table, column = ("finetuning", names[on]) if how == "tested" else ("linear", on)
        assert published(table, method, column, pretrained_on) == value


# ------------------------------------------------------------------------------------------------ measured values


def test_a_cell_by_hand(tmp_path):
    """71.1 is published, 70.1 measured; SEVERE has the same run, with 70.9."""
    found, unplaced = cells(result(tmp_path / "a"))
    assert not unplaced and found.keys() == {
        ("finetuning", "SIGMA-DINO", "ViT-B", "SSv2 2x3"),
        ("severe", "SIGMA-DINO", "ViT-B", "SSv2"),
    }
    cell = found["finetuning", "SIGMA-DINO", "ViT-B", "SSv2 2x3"]
    assert (cell.value, cell.measured, cell.marks) == (71.1, 70.1, [])
    assert cell.difference == pytest.approx(-1.0)
    record = cell.record
    assert (record.checkpoint, record.list_hash, record.videos, record.views) == (SHA, "0123456789ab", 24_777, "2x3")
    assert (record.probe, record.seeds, record.commit) == ("finetune", (0,), "c0ffee")


@pytest.mark.parametrize(
    ("videos", "method", "said"),
    [
        ("240,436", "SIGMA-MLP", {"epochs": 800}),
        ("240,436", "SIGMA-MLP", {"epochs": 801, "num_sample": 1}),  # as the recipes have it
        ("168,913", "SIGMA-MLP (motion-guided masking)", {"epochs": 201, "num_sample": 4, "mask_type": "motion"}),
    ],
)
def test_row_is_read_from_the_pretraining(videos, method, said, tmp_path):
    before = tmp_path / "pretraining"
    before.mkdir()
    args = {"target_type": "mlp", "mask_type": "tube", **said}
    data = f"train.csv: format 'path label', {videos} videos, 400 classes, fingerprint 0123456789ab"
    (before / "run.json").write_text(json.dumps([{"args": args, "data": data}]))
    folder = result(tmp_path / "a", row=None, finetune=str(before / "checkpoint-799.pth"))
    assert ("finetuning", method, "ViT-B", "SSv2 2x3") in cells(folder)[0]


def test_note_of_a_row_marks_its_cells(tmp_path):
    found, _ = cells(result(tmp_path / "a", row={**MINE, "note": "with --epochs 1"}))
    assert found["finetuning", "SIGMA-DINO", "ViT-B", "SSv2 2x3"].marks == ["with --epochs 1"]


def test_result_without_a_row_is_told(tmp_path):
    found, (line,) = cells(result(tmp_path / "a", row=None))
    assert not found and str(tmp_path / "a" / "test.json") in line and "row.json" in line


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the run's folder", "in another"])
def test_a_test_is_of_the_run_that_trained_its_weights(tmp_path, elsewhere):
    """Not of the command that tested them: beside the results, or beside the weights where these lie elsewhere."""
    few = "train.csv: format 'path label', 1,010 videos, 101 classes, fingerprint 0123456789ab"
    trained = result(tmp_path / "trained", "UCF101", row=None, videos=3_783, views=(5, 3), train=few)
    tested = {"args": {"data_set": "UCF101", "model": "vit_base_patch16_224", "eval": True, "finetune": "x.pth"}}
    if elsewhere:
        content = json.loads((trained / "test.json").read_text())
        (trained / "test.json").unlink()
        folder = tmp_path / "tested"
        folder.mkdir()
        (folder / "test.json").write_text(json.dumps(content))
        (folder / "run.json").write_text(json.dumps([tested]))
    else:
        folder, runs = trained, json.loads((trained / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps([*runs, tested]))
    (folder / "row.json").write_text(json.dumps(MINE))
    found, _ = cells(folder)
    assert [key[3] for key in found] == ["UCF 10^3"]


def test_other_epochs_of_pretraining_are_marked_where_they_are_no_row_of_their_own(tmp_path):
    found, _ = cells(result(tmp_path / "a", "GYM99", row={**MINE, "epochs": 400}, videos=8_521, views=(5, 3)))
    assert found["severe", "SIGMA-DINO", "ViT-B", "Gym99"].marks == ["pre-trained for 400 epochs, the paper for 800"]


@pytest.mark.parametrize(("views", "column"), [((5, 3), "K400 5x3"), ((7, 3), "K400 7x3")])
def test_views_are_columns_of_k400(tmp_path, views, column):
    found, _ = cells(result(tmp_path / "a", "Kinetics-400", videos=19_796, views=views))
    assert [key[3] for key in found] == [column]


def test_linear_probe_and_pretraining_data(tmp_path):
    found, _ = cells(
        result(tmp_path / "a", linear_probing=True), result(tmp_path / "b", row={**MINE, "pretrained_on": "SSv2"})
    )
    assert {key[0] for key in found} == {"linear", "finetuning"}  # a model of SSv2 is not in SEVERE


def test_samples_of_severe_are_known_by_their_number(tmp_path):
    few = "train.csv: format 'path label', 1,010 videos, 101 classes, fingerprint 0123456789ab"
    found, _ = cells(result(tmp_path / "a", "UCF101", videos=3_783, views=(5, 3), train=few))
    assert [key[3] for key in found] == ["UCF 10^3"]
    assert not cells(result(tmp_path / "b", "UCF101", videos=3_783, train=few.replace("1,010", "9,537")))[0]


def test_other_lists_and_views_are_marked(tmp_path):
    found, _ = cells(
        result(tmp_path / "a", "GYM99", videos=8_000, views=(2, 3)),
        number(tmp_path / "b", data_set="YTVOS", clips=695),
    )
    assert found["severe", "SIGMA-DINO", "ViT-B", "Gym99"].marks == [
        "8,000 videos, the official list has 8,521",
        "2x3 views, usual are 5x3",
    ]
    (mark,) = found["segmentation", "SIGMA-MLP", "ViT-B", "clustering YTVOS"].marks
    assert mark == "list 121212121212, the official one is 5b1ebb10e2a5"


def test_means_over_views_of_charades_are_marked(tmp_path):
    folder = number(tmp_path / "a", "mAP", 23.0, data_set="Charades", probe="finetune", task="multilabel", clips=1_863)
    (folder / "row.json").write_text(json.dumps(MINE))
    ((_, cell),) = cells(folder)[0].items()
    assert cell.marks == ["views are averaged, SEVERE takes their maximum"]
    options = {"view_pooling": "max"}
    number(folder, "mAP", 23.0, data_set="Charades", probe="finetune", task="multilabel", clips=1_863, options=options)
    (folder / "row.json").write_text(json.dumps(MINE))
    assert next(iter(cells(folder)[0].values())).marks == []


def test_a_record_as_evaluations_write_it_fills_its_cell(tmp_path):
    """Nothing is trained unless it says so; what was tested are clips where it names no videos."""
    facts = {"checkpoint": "x.pth", "checkpoint_sha256": SHA, "list_file": "val.txt", "list_sha256": "12" * 32}
    facts |= {"options": {}, "seeds": [0, 1], "per_seed": [29.0, 30.2], "versions": {}, "commit": "c0ffee"}
    of = {"task": "segmentation-clustering", "metric": "miou_hungarian", "value": 29.6, "clips": 30, "per_clip": {}}
    written = WrittenRecord(**of, **facts, data_set="DAVIS", model="pretrain_sigma_base_patch16_224").write(tmp_path)
    (tmp_path / "row.json").write_text(json.dumps({"method": "SIGMA-MLP"}))
    ((key, cell),) = cells(tmp_path)[0].items()
    assert key == ("segmentation", "SIGMA-MLP", "ViT-B", "clustering DAVIS") and cell.record.file == written
    assert (cell.measured, cell.record.probe, cell.record.videos, cell.record.seeds) == (29.6, "frozen", 30, (0, 1))


def test_segmentation_and_its_metrics(tmp_path):
    number(tmp_path / "a", "miou_overclustering_precision", 50.0)
    found, _ = cells(number(tmp_path / "a"))
    assert {key[3]: cell.measured for key, cell in found.items()} == {
        "clustering DAVIS": 29.6,
        "overclustering DAVIS": 50.0,
    }


def test_mean_is_measured_when_all_columns_are(tmp_path):
    """Eight values of 50 and an error of 0.3: (7 x 50 + 70) / 8 = 52.5."""
    few = "l: format 'path label', {} videos, 9 classes"
    of = {"GYM99": ("", few.format("1,089")), "UCF101": (few.format("1,010"),), "SSV2": ("",)}
    folders = [
        result(tmp_path / f"{name}{place}", name, top1=50.0, train=train)
        for name, trains in of.items()
        for place, train in enumerate(trains)
    ]
    folders += [result(tmp_path / name, name, top1=55.0) for name in ("FXS1", "UBS1")]
    assert not [key for key in cells(*folders)[0] if key[3] == "mean"]
    for name, metric, value in (("UCFRep", "MAE", 0.3), ("Charades", "mAP", 50.0)):
        folders.append(number(tmp_path / name, metric, value, data_set=name, probe="finetune"))
        (folders[-1] / "row.json").write_text(json.dumps(MINE))
    assert cells(*folders)[0]["severe", "SIGMA-DINO", "ViT-B", "mean"].measured == pytest.approx(52.5)


# ------------------------------------------------------------------------------------------------ bad input


def test_two_results_of_one_cell(tmp_path):
    folders = [result(tmp_path / name) for name in "ab"]
    with pytest.raises(ConfigError) as error:
        cells(*folders)
    assert all(str(folder / "test.json") in str(error.value) for folder in folders)
    assert "\n" not in str(error.value)
    assert cells(folders[0], folders[0])[0], "a folder that is given twice has one result"


@pytest.mark.parametrize("content", ["{", "[]", '{"task": "t", "metric": "m", "value": "high"}'])
def test_unreadable_results(tmp_path, content):
    (tmp_path / ("test.json" if len(content) < 3 else "m.json")).write_text(content)
    with pytest.raises(ConfigError, match=r"\.json: .*evaluate again, or delete it"):
        read_records([tmp_path])


def test_folders_without_results(tmp_path):
    with pytest.raises(ConfigError, match="no result in it"):
        read_records([tmp_path])
    with pytest.raises(ConfigError, match="no such folder"):
        read_records([tmp_path / "none"])
    result(tmp_path / "a", row={"methode": "x"})
    with pytest.raises(ConfigError, match=r"row\.json: must be one JSON object with some of method"):
        read_records([tmp_path])


# ------------------------------------------------------------------------------------------------ formats


def test_formats(tmp_path):
    tables, _ = fill(read_records([result(tmp_path / "a", videos=24_000)]))
    texts = {form: document(tables, form, with_measured=True) for form in ("markdown", "html", "latex")}
    for text in texts.values():
        assert "71.1; 70.1 [1] (-1.0)" in text and "24,000 videos, the official list has 24,777" in text
    assert r"| 40.6\*; — |" in texts["markdown"] and "<td>40.6*; —</td>" in texts["html"]
    assert r"10\textasciicircum{}3" in texts["latex"]
    with_value = sum(bool(cell.published) for row in tables["severe"] if row.of_paper for cell in row.cells.values())
    assert f"Measured: 1 of {with_value} cells, {with_value - 1} are missing." in texts["markdown"]
    lines = list(csv.DictReader(io.StringIO(as_csv(tables))))
    numbers = [line[name] for line in lines for name in ("published", "lowest", "highest", "measured", "difference")]
    assert all(re.fullmatch(r"-?\d+\.\d{1,3}", number) for number in numbers if number)
    assert {line["published"] for line in lines} >= {"53.9", "0.169", "65.0"}  # digits as in the other forms
    (line,) = (line for line in lines if line["table"] == "finetuning" and line["measured"])
    assert (line["published"], line["measured"], line["difference"]) == ("71.1", "70.1", "-1.0")
    assert all(float(line["lowest"]) <= float(line["highest"]) for line in lines if line["published"])
    assert any(float(line["lowest"]) < float(line["highest"]) for line in lines if line["published"])
    assert line["checkpoint"] == SHA and line["file"].endswith("test.json")
    assert {line["group"] for line in lines if line["method"].startswith(("SMILE", "TrackMAE", "DINOv3"))} == {
        "context"
    }


def test_a_metric_that_no_table_has_is_said_so(tmp_path):
    _, unplaced = cells(number(tmp_path / "a", "miou_overclustering_greedy", data_set="DAVIS"))
    assert unplaced == [
        f"{tmp_path}/a/miou_overclustering_greedy.json: no table has miou_overclustering_greedy of DAVIS"
    ]
