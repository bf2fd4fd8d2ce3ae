"""What a change of a command line does to the result of a run: runs the entry scripts in one process and compares.

A row of a table of effects is `words`, or `(words that the command without the change has too, words)`. Its key is the
flag, or `flag: in words` for a second row of a flag.
"""

import json
import tempfile
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from conftest import write_list
from processes import ROOT
from runs import load

import run_class_finetuning
import run_sigma_pretraining
from datasets.errors import DATA_ERRORS
from engine.errors import USER_ERRORS
from engine.flags import parse
from models import ModelError
from models.vit import VARIANTS, Variant
from run_class_finetuning import FinetuningConfig
from run_sigma_pretraining import PretrainingConfig

SCRIPTS = {
    "run_sigma_pretraining.py": (PretrainingConfig, run_sigma_pretraining.main),
    "run_class_finetuning.py": (FinetuningConfig, run_class_finetuning.main),
}
NANO = Variant(embed_dim=32, depth=2, num_heads=2, decoder_embed_dim=16, decoder_num_heads=1)  # a quarter of "mini"
LISTED = json.loads((ROOT / "tests" / "golden" / "flags.json").read_text())


def scratch():
    """A folder in memory where there is one: a run waits for the disk to have its checkpoint."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)


@dataclass(frozen=True)
class Outcome:
    """The result of a run: the weights and the predictions that it saved, by their names, or why it was refused."""

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    refused: str = ""


def outcome_in(folder):
    """What a run has left: the weights of its last epoch, and all predictions."""
    epochs = {path.stem.removeprefix("checkpoint-"): path for path in Path(folder).glob("checkpoint-*.pth")}
    newest = max((int(name) for name in epochs if name.isdigit()), default=None)
    content = {} if newest is None else load(epochs[str(newest)])
    weights = {
        f"{key}.{name}": tensor.numpy()
        for key in ("model", "model_ema")
        for name, tensor in content.get(key, {}).items()
    }
    predictions = {
        f"{path.name}.{name}": array
        for path in Path(folder).glob("*.npz")
        for name, array in np.load(path).items()
        if array.dtype.kind == "f"
    }
    return Outcome(weights, predictions)


def outcome_of(world, script, argv):
    """Run a script's `main`; what it left in its output folder."""
    cls, main = SCRIPTS[script]
    VARIANTS["nano"] = NANO  # in a process of its own
    try:
        config = parse(cls, argv)
        main(config, world)
    except (*USER_ERRORS, *DATA_ERRORS, ModelError) as error:
        return Outcome(refused=str(error) or type(error).__name__)
    return outcome_in(config.run.output_dir)


def differs(before, after, tolerance):
    """Whether some arrays have other names, other shapes, or values that differ by more than `tolerance`."""
    if before.keys() != after.keys() or any(before[name].shape != after[name].shape for name in before):
        return True
    return any(not np.allclose(before[name], after[name], rtol=0, atol=tolerance) for name in before)


def verdict(before, after, *, tolerance):
    """What is another in the second outcome: "weights" (and so predictions), "predictions" alone, "nothing"."""
    if after.refused:
        return f"refused: {after.refused}"
    if differs(before.weights, after.weights, tolerance):
        return "weights"
    return "predictions" if differs(before.predictions, after.predictions, tolerance) else "nothing"


def split(row):
    """(words of the command that a row changes, words of the change)."""
    return ("", row) if isinstance(row, str) else row


def flag_in(key):
    """The flag that a row is about."""
    return key.partition(":")[0]


def verdicts(world, script, common, folder, rows, tolerance=0.0):
    """What each row changes, by the rows' keys; see `verdict`.

    Args:
        common: command line of all runs.
        folder: takes the place of `{folder}` in the rows.
        tolerance: largest difference that is none.
    """

    def run(words):
        with scratch() as output:
            return outcome_of(world, script, [*common, "--output_dir", output, *words.format(folder=folder).split()])

    known, found = {}, {}
    for key, row in rows.items():
        without, change = split(row)
        if without not in known:
            known[without] = run(without)
        found[key] = verdict(known[without], run(f"{without} {change}"), tolerance=tolerance)
    return found


def run_in(world, script, common, runs):
    """Run a script for each (output folder, words)."""
    for folder, words in runs:
        outcome = outcome_of(world, script, [*common, "--output_dir", str(folder), *words.split()])
        assert not outcome.refused, outcome.refused


# ------------------------------------------------------------------------------------------------ what the rows name


def write_lists(place, script, names):
    """A list for pre-training; a folder with the three lists of a classifier."""
    if script == "run_sigma_pretraining.py":
        write_list(place, names)
        return
    place.mkdir(exist_ok=True)
    for part, share in {"train": names, "val": names[:1], "test": names[2:4]}.items():
        write_list(place / f"{part}.csv", share)


def link(folder, videos, name="v{}.mp4"):
    """Links to videos, in a folder of their own; their paths."""
    folder.mkdir(exist_ok=True)
    links = [folder / name.format(number) for number in range(len(videos))]
    for place, video in zip(links, videos, strict=True):
        place.symlink_to(video)
    return links


def make_inputs(place, script, data):
    """Lists and files for a script; returns their folder.

    Four videos are in `lists`, four others in `more`; `named` has the first by their names alone, which the others have
    too in the folder `others`; `takes` names files without an extension, with a blank; in `broken` five of nine are.
    """
    place.mkdir()
    videos, others = data.videos[4:8], data.videos[8:12]
    write_lists(place / "lists", script, videos)
    write_lists(place / "more", script, others)
    beside = place if script == "run_sigma_pretraining.py" else place / "named"
    write_lists(place / "named", script, [video.name for video in reversed(link(beside, videos))])
    link(place / "others", others)
    write_lists(place / "takes", script, link(place / "films", others, "take {}"))
    torn = [place / f"torn{number}.mp4" for number in range(5)]
    for file in torn:
        file.write_bytes(b"no video")
    write_lists(place / "broken", script, [*videos, *torn])
    (place / "probe").mkdir()
    for part, labelled in (("train", videos), ("val", others)):
        write_list(place / "probe" / f"{part}.csv", labelled)
    return place


def make_networks(place, frozen_weights):
    """Weights of the frozen networks, and other ones of the same layouts."""
    for name in ("dino_v1", "raft"):
        weights = torch.load(frozen_weights / f"{name}.pth")
        torch.save(weights, place / f"{name}.pth")
        torch.save({key: tensor * 1.1 for key, tensor in weights.items()}, place / f"{name}_other.pth")


def make_weight_files(place):
    """Of `begun/checkpoint-1.pth`: a file with other weights under another key, and one that holds an object."""
    content = load(place / "begun" / "checkpoint-1.pth")
    kept = {name: content[name] for name in ("model", "args")}
    torch.save({**kept, "other": {name: tensor * 1.1 for name, tensor in kept["model"].items()}}, place / "two.pth")
    torch.save({**kept, "object": Fraction(1, 2)}, place / "pickled.pth")
    others = {name: tensor * 1.5 if "fc1" in name else tensor for name, tensor in kept["model"].items()}
    torch.save({**kept, "model": others}, place / "other.pth")
