"""Twenty updates of each script that trains: losses and gradient norms are those of golden/traces.json.

The arithmetic of the models has references of its own. This holds the whole way: lists, sampling, augmentation, masks,
random numbers, schedule, optimizer and log. A change that is meant to change it writes the file anew:
`UPDATE_TRACES=1 pytest -m slow tests/test_traces.py`.
"""

import json
import os
from pathlib import Path

import pytest
from processes import FINETUNE, PRETRAIN, run_script
from runs import records

TRACES = Path(__file__).parent / "golden" / "traces.json"
NAMES = ("train/loss", "train/grad_norm", "train/lr")
STEPS = 20
RUNS = {
    "pretrain": (PRETRAIN, {"epochs": 4, "batch_size": 2, "lr": 0.01, "drop_path": 0.1}),
    "finetune": (FINETUNE, {"epochs": 5, "batch_size": 2, "lr": 0.05, "drop_path": 0.1, "num_sample": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_twenty_updates_of_a_script_are_those_that_are_kept(name, data, tmp_path):
    script, changes = RUNS[name]
    changes |= {"disable_eval_during_finetuning": True, "test_num_crop": 1} if script == FINETUNE else {}
    finished = run_script(script, *data.flags(script, tmp_path, **changes))
    assert finished.code == 0, finished.stderr
    rows = [row for row in records(tmp_path) if NAMES[0] in row][:STEPS]
    found = {key: [row[key] for row in rows] for key in NAMES}
    traces = json.loads(TRACES.read_text()) if TRACES.exists() else {}
    if os.environ.get("UPDATE_TRACES"):
        TRACES.write_text(json.dumps(traces | {name: found}, indent=1) + "\n")
        return
    assert [len(values) for values in found.values()] == [STEPS] * len(NAMES)
    for key, values in found.items():  # another processor rounds otherwise, and SIGMA's codes are an argmax
        assert values == pytest.approx(traces[name][key], rel=2e-3), key
