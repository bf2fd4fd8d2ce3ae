"""How the collectives of a run grow with its ranks: bench/scale.py, on a tiny model."""

import json

import pytest
from processes import run_in_processes

from bench import scale

pytestmark = pytest.mark.slow

RANKS = (8, 256)
NUM_PROTOTYPES, ITERATIONS = 40, 3
PHASES = ("start", "update", "log step", "save", "end of epoch", "resume")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Rows by (ranks, phase), and all calls of an update by ranks."""
    folder = tmp_path_factory.mktemp("scale")

    def target():
        flags = f"--num_prototypes {NUM_PROTOTYPES} --sinkhorn_iterations {ITERATIONS}"
        scale.main(["--quick", "--ranks", *map(str, RANKS), "--flags", flags, "--json", str(folder / "rows.json")])

    (ended,) = run_in_processes(target)  # of its own: the fake group is the process's
    assert ended.code == 0, ended.stderr[-3000:]
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert len([line for line in ended.stdout.splitlines() if line.startswith("| 8 |")]) == len(PHASES)
    return {(row["ranks"], row["phase"]): row for row in rows}


@pytest.mark.parametrize("phase", PHASES)
def test_no_number_of_collectives_grows_with_the_ranks(phase, found):
    few, many = (found[ranks, phase] for ranks in RANKS)
    for name in ("collectives", "of objects", "over gloo", "gradients, MB"):
        assert few[name] == many[name], name


def test_an_update_talks_once_beside_gradients_and_sinkhorn(found):
    """One all-reduce for each iteration and branch of Sinkhorn, and one of five numbers, on any number of ranks."""
    for ranks in RANKS:
        update = found[ranks, "update"]
        assert update["collectives"] == 2 * ITERATIONS + 1
        assert update["KB"] == pytest.approx((ITERATIONS * 2 * NUM_PROTOTYPES + 6) * 4 / 1e3)
        assert update["of objects"] == update["over gloo"] == update["host waits"] == 0
        log_step = found[ranks, "log step"]
        assert log_step["collectives"] == 2 * ITERATIONS + 2 and log_step["host waits"] == log_step["of objects"] == 0
        assert log_step["KB"] == found[RANKS[0], "log step"]["KB"]


def test_what_grows_is_what_a_checkpoint_holds_of_every_rank(found):
    """Its random state, and at a save inside an epoch its running means: KB of bytes that each rank more adds."""
    limits = {"start": (0, 0.1), "update": (0, 0), "log step": (0, 0)}  # DDP compares the shapes of the parameters
    for phase in PHASES:
        few, many = (found[ranks, phase]["KB"] for ranks in RANKS)
        low, high = limits.get(phase, (1, 20))
        assert low <= (many - few) / (RANKS[1] - RANKS[0]) <= high, phase


def test_a_resumed_run_gets_the_file_once(found):
    """Weights and two moments, from the main process, however many ranks."""
    start, resume = found[8, "start"], found[8, "resume"]
    gradients = found[8, "update"]["gradients, MB"]
    assert 3 * gradients < (resume["KB"] - start["KB"]) / 1e3 < 3 * gradients + 1
