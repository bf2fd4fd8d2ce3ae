"""The installed commands: each runs one script, exactly as `python SCRIPT` does in a checkout."""

import sys
from pathlib import Path
from types import ModuleType

from . import __path__ as _places
from .command_line import did_you_mean

FOLDER = Path(_places[-1])  # holds models, datasets, engine, inference, evaluation and the scripts


def pretrain() -> None:
    """`sigma-pretrain`: pre-training."""
    _run("run_sigma_pretraining.py")


def finetune() -> None:
    """`sigma-finetune`: fine-tuning, linear probing, testing."""
    _run("run_class_finetuning.py")


def segment() -> None:
    """`sigma-segment`: video object segmentation with frozen weights."""
    _run("run_segmentation.py")


def probe() -> None:
    """`sigma-probe`: linear, attentive and nearest-neighbour probes of frozen weights."""
    _run("run_probing.py")


def count() -> None:
    """`sigma-count`: repetition counting."""
    _run("run_repetition_counting.py")


def convert() -> None:
    """`sigma-convert`: weights from any format into another."""
    _run("scripts/convert_checkpoint.py")


ANSWERS = {
    "predict": "predict.py",
    "features": "extract_features.py",
    "mveb": "mveb.py",
    "visualize": "visualize.py",
    "app": "app.py",
    "report": "report.py",
    "runs": "runs.py",
    "zoo": "zoo.py",
    "publish": "publish.py",
}


def sigma() -> None:
    """`sigma`: what a checkpoint or a run says, and released weights: `sigma predict CHECKPOINT VIDEO`, and so on."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = "\n".join(f"  sigma {known} --help" for known in ANSWERS)
        sys.stdout.write(f"usage: sigma {{{','.join(ANSWERS)}}} ...\n\nOptions of each:\n{lines}\n")
        sys.exit(0)
    if name not in ANSWERS:
        sys.stderr.write(f"error: sigma {name}: no such command.{did_you_mean(name, ANSWERS)} --help lists them.\n")
        sys.exit(2)
    sys.argv[:2] = [f"sigma {name}"]
    _run(f"scripts/{ANSWERS[name]}")


def data_prepare() -> None:
    """`sigma-data-prepare`: lists from what a data set comes with."""
    _run("scripts/data/prepare.py")


def data_check() -> None:
    """`sigma-data-check`: decode every video of a list."""
    _run("scripts/data/check.py")


def data_reencode() -> None:
    """`sigma-data-reencode`: videos that decode fast."""
    _run("scripts/data/reencode.py")


def data_shard() -> None:
    """`sigma-data-shard`: videos into tar files."""
    _run("scripts/data/shard.py")


def data_browse() -> None:
    """`sigma-data-browse`: draw clips and masks."""
    _run("scripts/data/browse.py")


def _run(script: str) -> None:
    """Run a script as the main program.

    `runpy.run_path` would do the same but for `sys.argv[0]`: usage and the record of a run name the command here, and
    not a file in site-packages. The main module gets the script's file, by which processes that are spawned (workers
    of a loader) find its classes again.
    """
    path = FOLDER / script
    sys.path.insert(0, str(FOLDER))
    main = ModuleType("__main__")
    main.__file__ = str(path)
    sys.modules["__main__"] = main
    exec(compile(path.read_bytes(), str(path), "exec"), main.__dict__)
