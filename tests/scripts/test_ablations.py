"""The recipes of scripts/ablations: each changes one thing of one configuration, and names the printed numbers."""

import json
import os
import re
import subprocess
import sys

import pytest
import replicas_severe
from processes import ROOT

from engine.errors import ConfigError
from engine.flags import parse
from scripts.data import prepare
from scripts.recipes import read_recipe, split_command
from scripts.table_cells import PUBLISHED, fill
from scripts.table_records import read_records
from sigma_video.options import recorded

FOLDER = ROOT / "scripts" / "ablations"
CHANGES = {
    "prototypes": "num_prototypes",
    "epsilon": "sinkhorn_eps",
    "mask_ratio": "mask_ratio",
    "target": "target_type",
    "loss": "loss_func",
}
PRINTED = {entry["method"]: entry["values"]["mini-SSv2"] for entry in json.loads(PUBLISHED.read_text())["values"]
           if entry["table"] == "ablation"}  # fmt: skip
METHODS = {
    ("prototypes", "1000"): "SIGMA-MLP, K = 1000",
    ("prototypes", "4000"): "SIGMA-MLP, K = 4000",
    ("prototypes", "6000"): "SIGMA-MLP, K = 6000",
    ("target", "pixel"): "VideoMAE (pixels, L2)",
    ("target", "mlp"): "SIGMA-MLP, K = 4000",
    ("loss", "SWAV"): "SIGMA-MLP, K = 4000",
    ("loss", "L2"): "SIGMA-MLP, L2",
}


def config_of(name, value, **variables):
    words = read_recipe(FOLDER / f"{name}.sh").command(DATA_PATH="x", CHECKPOINT="y", VALUE=value, **variables)
    cls, flags = split_command(words)
    return recorded(parse(cls, flags))


def test_each_value_changes_one_thing():
    base = config_of("loss", "SWAV")
    for name, flag in CHANGES.items():
        recipe = read_recipe(FOLDER / f"{name}.sh")
        for value in recipe.fields["Values"].split():
            config = config_of(name, value)
            folder = str(ROOT / "output" / f"ablations_{name}_{value}")
            assert config["output_dir"] == config["log_dir"] == folder
            different = {key for key in base if config[key] != base[key]} - {"output_dir", "log_dir", "loss_func"}
            assert different <= {flag} and str(config[flag]) == value, (name, value)
            assert config["loss_func"] in ({"L2"} if value == "L2" else {"SWAV", None})
        found = {v: float(n) for n, v in re.findall(r"(\d+\.\d) \((\w+)\)", recipe.fields["Numbers"])}
        assert found == {value: PRINTED[METHODS[key]] for key in METHODS for value in key[1:] if key[0] == name}


def test_batches_are_those_of_the_header():
    for name, rate in (("loss", "5.625e-5"), ("finetune", "3.75e-4")):
        for gpus in (1, 8):
            config = config_of(name, "L2", GPUS=gpus)
            total = config["batch_size"] * config["update_freq"] * gpus
            assert total == 96 and config["lr"] * total / 256 == pytest.approx(float(rate))
        assert rate in read_recipe(FOLDER / f"{name}.sh").fields["Batch"]


def test_a_value_is_asked_for():
    with pytest.raises(ConfigError, match="VALUE is not set: the loss, for example VALUE=L2"):
        config_of("loss", "")


def test_the_page_has_the_same_numbers():
    page = (ROOT / "docs" / "ablations.md").read_text()
    for name in CHANGES:
        recipe = read_recipe(FOLDER / f"{name}.sh")
        row = next(line for line in page.splitlines() if line.startswith(f"| `scripts/ablations/{name}.sh`"))
        assert re.findall(r"\d\d\.\d", row) == re.findall(r"\d\d\.\d", recipe.fields["Numbers"])
        assert [cell for cell in re.findall(r"[\w.]+", row.split("|")[3])] == recipe.fields["Values"].split()


def test_a_result_is_placed_by_its_name_alone(tmp_path):
    """A full SSv2 result does not land among the ablations, a named one does, whatever its backbone."""
    for name, row in (
        ("full", {"method": "SIGMA-MLP, L2", "pretrained_on": "mini-SSv2"}),
        ("mini", {"method": "SIGMA-MLP, L2", "pretrained_on": "mini-SSv2", "column": "mini-SSv2"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        args = {"data_set": "SSV2", "model": "vit_small_patch16_224", "seed": 0}
        (folder / "run.json").write_text(json.dumps([{"args": args}]))
        settings = {"test_num_segment": 2, "test_num_crop": 3, "task": "classification"}
        (folder / "test.json").write_text(json.dumps({"test/top1": 35.0, "videos": 99, "settings": settings}))
        (folder / "row.json").write_text(json.dumps(row))
    rows = {row.method: row.cells["mini-SSv2"] for row in fill(read_records([tmp_path / "mini"]))[0]["ablation"]}
    assert rows["SIGMA-MLP, L2"].measured == 35.0
    assert rows["SIGMA-MLP, L2"].difference == pytest.approx(35.0 - 36.4)
    assert sum(cell.measured is not None for cell in rows.values()) == 1
    tables, unplaced = fill(read_records([tmp_path / "full"]))
    assert all(cell.measured is None for row in tables["ablation"] for cell in row.cells.values()) and unplaced


SMALL = ["--input_size", "32", "--num_frames", "4", "--epochs", "1", "--warmup_epochs", "0", "--update_freq", "1"]
SMALL += ["--batch_size", "2", "--num_workers", "0", "--num_sample", "1", "--device", "cpu"]
PRETRAINED = ["--model", "pretrain_videomae_mini_patch8_32", "--decoder_depth", "1"]
FINETUNED = ["--model", "vit_mini_patch8_32", "--short_side_size", "32", "--init_scale", "1"]


def run_recipe(name, words, **variables):
    own = {"VENV": sys.prefix, "ONE_OF_SEVERAL": "1", "GPUS": "1", "BATCH_SIZE": "1", "OMP_NUM_THREADS": "1"}
    own |= {name: str(value) for name, value in variables.items()}
    command = ["bash", str(FOLDER / f"{name}.sh"), *words, *SMALL]
    done = subprocess.run(command, env={**os.environ, **own}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_every_row_is_made_of_a_replica(tmp_path):
    """By the commands of the page, from the lists to the table."""
    lists, videos = replicas_severe.something_something(tmp_path / "ssv2")
    prepare.main(["--from", "ssv2", str(lists), "--videos", str(videos), "--out", str(tmp_path / "lists")])
    rows = {method: key for key, method in METHODS.items()}
    assert rows.keys() == PRINTED.keys()
    for method, (name, value) in rows.items():
        trained, tuned = tmp_path / f"{name}_{value}", tmp_path / "results" / f"{name}_{value}"
        small = [] if value == "pixel" else ["--projection_dims", "32"]
        few = [] if name == "prototypes" or value == "pixel" else ["--num_prototypes", "12"]
        data = {"VALUE": value, "DATA_PATH": tmp_path / "lists" / "train.csv", "OUTPUT_DIR": trained}
        run_recipe(name, [*PRETRAINED, *small, *few], **data)
        data = {"VALUE": trained.name, "DATA_PATH": tmp_path / "lists", "CHECKPOINT": trained, "OUTPUT_DIR": tuned}
        run_recipe("finetune", FINETUNED, **data)
        row = {"method": method, "pretrained_on": "mini-SSv2", "column": "mini-SSv2"}
        (tuned / "row.json").write_text(json.dumps(row))
    tables, unplaced = fill(read_records([tmp_path / "results"]))
    assert not unplaced and all(row.cells["mini-SSv2"].measured is not None for row in tables["ablation"])
