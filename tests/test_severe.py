"""Every cell of Benchmark III has a command in the docs that runs on a replica, and fills its cell of the table."""

import json

import pytest
import torch
from processes import FINETUNE, ROOT, run_script
from replicas_severe import charades, gym, something_something, ucf101
from runs import records

from models.registry import create_model
from scripts.recipes import read_recipes, split_command
from scripts.table_cells import TABLES, fill
from scripts.table_records import read_records

SEVERE = next(table for table in TABLES if table.name == "severe")
ROW = {"method": "SIGMA-DINO", "backbone": "ViT-B", "pretrained_on": "K400", "epochs": 800}
SMALL = {"model": "vit_mini_patch8_32", "batch_size": "2", "epochs": "1", "warmup_epochs": "0", "num_frames": "4"}
SMALL |= {"short_side_size": "32", "device": "cpu", "num_workers": "0", "num_sample": "1", "init_scale": "1"}
CELLS = {  # column -> what makes the replica that stands for the folder of lists in its command
    "SSv2": something_something,
    "Gym99": lambda root: gym(root, (0, 98)),
    "UCF 10^3": ucf101,
    "Gym 10^3": lambda root: gym(root, (0, 98)),
    "FX-S1": lambda root: gym(root, (0, 10)),
    "UB-S1": lambda root: gym(root, (0, 14)),
    "Charades": charades,
}


def commands():
    """Column -> the flags of its recipe, by name."""
    found = {"SSv2": {"data_set": "SSV2"}}  # a recipe of Benchmark I
    for recipe in read_recipes().values():
        for cell in (cell for cell in recipe.cells if cell.table == "severe" and cell.column in CELLS):
            if cell.column not in found:
                _, words = split_command(recipe.command(DATA_PATH="lists", CHECKPOINT="pretrained.pth"))
                found[cell.column] = flags_of(words)
    return found


def flags_of(words):
    """`--name value ...` -> by name; a switch has no value."""
    flags = {}
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--")
            flags[name] = ""
        else:
            flags[name] = f"{flags[name]} {word}".strip()
    return flags


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(3)
    model = create_model("pretrain_videomae_mini_patch8_32", target_type="pixel", img_size=32, num_frames=4)
    file = tmp_path_factory.mktemp("weights") / "checkpoint-799.pth"
    torch.save({"model": model.state_dict(), "epoch": 799, "args": {"num_frames": 4, "input_size": 32}}, file)
    return file


def test_every_cell_has_a_command():
    page = (ROOT / "docs" / "benchmarks.md").read_text().partition("## Benchmark III")[2]
    names = {r.name for r in read_recipes().values() if any(c.table == "severe" for c in r.cells)}
    assert {*commands(), "UCF-RC"} == {column.name for column in SEVERE.columns} == {*CELLS, "UCF-RC"}
    assert "run_repetition_counting.py --data_root UCFRep" in page and "scripts/finetune/ssv2_vit_b.sh" in page
    assert all(f"scripts/{name}.sh" in page for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["SSv2", "UCF 10^3", "Gym 10^3", "FX-S1", "Charades"])  # Gym99, UB-S1: as the others
def test_commands_run_on_replicas(column, pretrained, tmp_path):
    """As they stand there, but for the sizes of the replica and of its model."""
    lists, videos = CELLS[column](tmp_path / "data")
    flags = {**commands()[column], **SMALL, "data_path": lists, "data_root": videos, "finetune": pretrained}
    flags["output_dir"] = tmp_path / "output"
    argv = [word for name, value in flags.items() for word in (f"--{name}", *str(value).split()) if word]
    finished = run_script(FINETUNE, *argv)
    assert finished.code == 0, finished.stderr
    result = json.loads((tmp_path / "output" / "test.json").read_text())
    assert ("test/legacy_cumulative" in result) is (column in ("FX-S1", "UB-S1"))
    if column == "Charades":
        assert result["settings"]["view_pooling"] == "max" and result["views"] == 30 and result["test/classes"] == 2
        assert any("val/mAP" in row for row in records(tmp_path / "output"))
    (tmp_path / "output" / "row.json").write_text(json.dumps({**ROW, "column": column}))
    tables, _ = fill(read_records([tmp_path / "output"]))
    (row,) = (row for row in tables["severe"] if (row.method, row.backbone) == ("SIGMA-DINO", "ViT-B"))
    metric = next(named.metric for named in SEVERE.columns if named.name == column)
    assert {name: cell.measured for name, cell in row.cells.items() if cell.measured is not None} == {
        column: result[f"test/{metric}"]
    }
    assert all("official list" in mark for mark in row.cells[column].marks)
