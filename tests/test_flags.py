"""The command lines of the entry scripts: every flag with its spellings, default, choices and number of values."""

import json

import pytest
from processes import COUNT, FINETUNE, PRETRAIN, PROBE, ROOT, SEGMENT

from engine.flags import build_parser
from run_class_finetuning import FinetuningConfig
from run_probing import ProbingConfig
from run_repetition_counting import RepetitionConfig
from run_segmentation import SegmentationConfig
from run_sigma_pretraining import PretrainingConfig

LISTED = json.loads((ROOT / "tests" / "golden" / "flags.json").read_text())  # of the released flags and our own


def described(parser):
    """What a user can rely on of each option."""
    rows = {}
    for action in parser._actions:
        if action.dest == "help":
            continue
        row = rows.setdefault(action.dest, {"flags": [], "default": parser.get_default(action.dest), "choices": None})
        row["flags"] += action.option_strings
        row["choices"] = row["choices"] or (list(action.choices) if action.choices else None)
        if action.required:
            row["required"] = True
        if action.nargs not in (None, 0):
            row["nargs"] = action.nargs
        if action.type not in (None, str):
            row["type"] = action.type.__name__
    return rows


@pytest.mark.parametrize(
    ("script", "cls"),
    [
        (PRETRAIN, PretrainingConfig),
        (FINETUNE, FinetuningConfig),
        (SEGMENT, SegmentationConfig),
        (PROBE, ProbingConfig),
        (COUNT, RepetitionConfig),
    ],
)
def test_flags_are_those_of_the_list(script, cls):
    found, listed = described(build_parser(cls)), LISTED[script]
    assert found.keys() == listed.keys()
    for dest, row in listed.items():
        both = {**found[dest], "flags": sorted(found[dest]["flags"])}, {**row, "flags": sorted(row["flags"])}
        choices, promised = (part.pop("choices") for part in both)
        assert both[0] == both[1], dest
        # a new row of a table is a choice more: what is there stays, and more may come
        assert bool(choices) == bool(promised) and set(promised or ()) <= set(choices or ()), dest
