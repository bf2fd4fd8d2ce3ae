"""The recipes of scripts/pretrain, finetune and eval: headers, commands, and the configurations that these build."""

import functools
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import ROOT

from datasets.catalogue import CATALOGUE
from engine.errors import ConfigError
from engine.flags import parse
from scripts.recipes import read_recipes, split_command
from scripts.table_cells import PUBLISHED, TABLES
from sigma_video.options import recorded

RECIPES = read_recipes()
ENTRIES = [entry for entry in json.loads(PUBLISHED.read_text())["values"] if entry["source"] == "SIGMA"]
FIELDS = {"8 GPUs", "1 GPU", "Batch", "Hours", "Status"}
SIZES = {"ViT-S": "small", "ViT-B": "base"}
PATHS = {"DATA_PATH": "LIST", "CHECKPOINT": "WEIGHTS"}
# Of one H200 (bench/GPU.md): pre-training by method, and fine-tuning
RATES = {"SIGMA-DINO": 683, "SIGMA-MLP": 1041, "VideoMAE": 1226, "": 364}

every_recipe = pytest.mark.parametrize("name", RECIPES)


@functools.cache
def command(name, gpus=8):
    """The words that a recipe runs."""
    return tuple(RECIPES[name].command(GPUS=gpus, **PATHS))


def config_of(words):
    cls, flags = split_command(words)
    return recorded(parse(cls, flags))


@pytest.fixture(scope="module")
def configs():
    """What each recipe's command builds, by name."""
    with ThreadPoolExecutor(4) as pool:
        return {name: config_of(words) for name, words in zip(RECIPES, pool.map(command, RECIPES), strict=True)}


@every_recipe
def test_header(name):
    """All have one form, and name themselves in commands that differ in the number of GPUs alone."""
    recipe = RECIPES[name]
    assert recipe.fields.keys() >= FIELDS | {"Row" if recipe.kind == "pretrain" else "Cells"}
    assert recipe.fields.keys() <= FIELDS | {"Row", "Cells", "Numbers", "After", "Released", "Note"}
    assert recipe.fields["8 GPUs"].endswith(f" bash scripts/{name}.sh") and recipe.data
    assert recipe.fields["1 GPU"].replace("GPUS=1 ", "") == recipe.fields["8 GPUs"]
    assert recipe.fields["Status"].startswith(("verified", "not verified"))
    assert recipe.fields.get("After", name) in RECIPES


@every_recipe
def test_command_builds_a_configuration_that_the_header_describes(name, configs):
    recipe, config = RECIPES[name], configs[name]
    assert f"_{SIZES[re.search(r'ViT-.', recipe.summary)[0]]}_" in config["model"]
    assert config["output_dir"] == str(ROOT / "output" / name.replace("/", "_"))
    if "update_freq" in config and not config.get("eval"):
        total = 8 * config["batch_size"] * config["update_freq"]
        batch, rate = re.match(r"(\d+) = .*learning rate (\S+)", recipe.fields["Batch"]).groups()
        assert (total, config["lr"] * total / 256) == (int(batch), pytest.approx(float(rate)))


@pytest.mark.parametrize(
    "name", ["pretrain/k400_sigma_dino_vit_b", "finetune/ssv2_vit_b", "eval/segmentation_davis_vit_b"]
)
def test_the_total_batch_is_the_same_on_one_gpu(name, configs):
    one, eight = config_of(command(name, 1)), configs[name]
    assert {key for key in one if one[key] != eight[key]} == ({"update_freq"} if "batch_size" in one else set())
    assert one.get("update_freq") == (8 * eight["update_freq"] if "batch_size" in one else None)
    assert command(name, 1)[command(name, 1).index("--nproc_per_node") + 1] == "1"


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("pretrain/")])
def test_row_of_pretraining_and_its_numbers(name, configs):
    """The row is one of the paper's; its number of epochs includes repeated samples, and not the last epoch."""
    row, config = RECIPES[name].row, configs[name]
    entries = [e for e in ENTRIES if e["table"] == "finetuning" and all(e[key] == row[key] for key in row)]
    printed = {column.partition(" ")[0]: value for e in entries for column, value in e["values"].items()}
    said = re.findall(r"(\d+\.\d) after fine-tuning on (\w+)", RECIPES[name].fields["Numbers"])
    assert {data: float(value) for value, data in said} == printed and printed
    assert (config["epochs"] - 1) * config["num_sample"] == row["epochs"]
    target = {"SIGMA-DINO": "dino_v1", "SIGMA-MLP": "mlp", "VideoMAE": "pixel"}[row["method"].split()[0]]
    assert config["target_type"] == target and (config["mask_type"] == "motion") == ("motion" in row["method"])
    assert RECIPES[name].data == {"K400": "k400", "SSv2": "ssv2"}[row["pretrained_on"]]


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("pretrain/")])
def test_cells_have_the_numbers_that_the_paper_prints(name, configs):
    """Of all methods with a recipe of pre-training; the command has the data set and the views of the column."""
    config = configs[name]
    columns = {(table.name, column.name): column for table in TABLES for column in table.columns}
    methods = {recipe.row["method"] for recipe in RECIPES.values() if recipe.kind == "pretrain"}
    assert RECIPES[name].cells
    for cell in RECIPES[name].cells:
        column, printed = columns[cell.table, cell.column], set()
        for entry in ENTRIES:
            of_cell = entry["table"] == cell.table and entry["backbone"] == cell.backbone
            if of_cell and entry["method"] in methods and cell.column in entry["values"]:
                source = entry["pretrained_on"] if cell.table == "finetuning" else ""
                printed.add((entry["method"], source, entry["values"][cell.column]))
        assert set(cell.published) == printed
        if "data_set" in config:
            spec = CATALOGUE[column.data_set]
            assert (config["data_set"], config["nb_classes"]) == (spec.name, spec.num_classes)
            own = (spec.test_num_segment, spec.test_num_crop)  # of run_probing.py, by default
            views = [config[f"test_num_{part}"] or own[i] for i, part in enumerate(("segment", "crop"))]
            assert "{}x{}".format(*views) == (column.views or "{}x{}".format(*own))
            assert config.get("linear_probing", config.get("probe") == "linear") is (column.probe == "linear")
        else:
            assert RECIPES[name].data.lower() == column.data_set.lower()


def test_every_cell_of_a_row_that_can_be_pretrained_has_one_recipe():
    rows = {(r.row["method"], r.row["backbone"]) for r in RECIPES.values() if r.kind == "pretrain"}
    wanted = {
        (entry["table"], column, entry["backbone"])
        for entry in ENTRIES
        if (entry["method"], entry["backbone"]) in rows
        for column in entry["values"]
        if column != "mean"
    }
    cells = [(cell.table, cell.column, cell.backbone) for r in RECIPES.values() for cell in r.cells]
    assert len(cells) == len(set(cells))
    assert wanted <= set(cells)


def test_gpu_hours_follow_from_the_measured_rates(configs):
    estimated = {name: recipe.gpu_hours for name, recipe in RECIPES.items() if recipe.gpu_hours is not None}
    assert len(estimated) == 8
    for name, hours in estimated.items():
        recipe, config = RECIPES[name], configs[name]
        rate = RATES[recipe.row["method"] if recipe.kind == "pretrain" else ""]
        videos = CATALOGUE[{"k400": "Kinetics-400", "ssv2": "SSV2"}[recipe.data]].num_train
        assert hours == round(config["epochs"] * config["num_sample"] * videos / rate / 3600), name
        assert f"{rate:,} clips/s" in recipe.fields["Hours"]


def test_flags_of_the_user_come_last_and_variables_are_checked(tmp_path):
    recipe = RECIPES["pretrain/ssv2_videomae_vit_b"]
    words = recipe.command(DATA_PATH="a b.csv", GPUS=4, BATCH_SIZE=16, OUTPUT_DIR=tmp_path, DEVICE="cpu", NUM_WORKERS=3)
    config = config_of([*words, "--epochs", "70"])
    expected = {"data_path": "a b.csv", "batch_size": 16, "update_freq": 32, "output_dir": str(tmp_path)}
    expected |= {"device": "cpu", "num_workers": 3, "epochs": 70}
    assert {key: config[key] for key in expected} == expected
    with pytest.raises(ConfigError, match="BATCH_SIZE 32 x GPUS 7 x NNODES 1 does not divide the total batch of 2048"):
        recipe.command(DATA_PATH="x", GPUS=7)
    with pytest.raises(ConfigError, match="CHECKPOINT is not set: the fine-tuned weights"):
        RECIPES["eval/k400_7x3_vit_b"].command(DATA_PATH="x", CHECKPOINT="")
    assert recipe.command(DATA_PATH="x", ONE_OF_SEVERAL=1)[0] == "python"


def test_recipes_share_the_frame():
    """What is the same in all of them stands in launch.sh: no recipe is longer than what it says of itself."""
    for recipe in RECIPES.values():
        lines = [line for line in recipe.file.read_text().splitlines() if line and not line.startswith("#")]
        assert lines[0] == 'source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"' and lines[-1] == '    "$@"'
        assert len(lines) <= 8, recipe.name


def test_the_released_recipes_run_what_was_released(configs):
    """QUVA-Lab/SIGMA 9876f09: the flags of its scripts in which recipes differ, and the common ones."""
    expected = {"sinkhorn_eps": 0.03, "num_prototypes": 3000, "sampling_rate": 2, "loss_func": "SWAV", "lr": 1.5e-4}
    expected |= {"opt_betas": [0.9, 0.95], "min_lr": 1e-5, "mask_ratio": 0.9, "decoder_depth": 4, "weight_decay": 0.05}
    assert {key: configs["pretrain/ssv2_sigma_mlp_vit_b"][key] for key in expected} == expected
    expected = {"lr": 1e-3, "layer_decay": 0.75, "drop_path": 0.1, "num_sample": 1, "epochs": 40, "warmup_epochs": 5}
    assert {key: configs["finetune/ssv2_vit_b"][key] for key in expected} == expected
