"""Which rank a process has, on which device, and how errors leave it."""

import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import gloo_world, run_in_processes

from engine.distributed import (
    World,
    all_reduce_sum,
    barrier,
    choose_device,
    distributed,
    gather_objects,
    on_main_process,
    seed_everything,
)
from engine.errors import USER_ERRORS, ConfigError, bad_options, user_errors

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_ID")


@pytest.fixture
def environment(monkeypatch):
    for name in NAMES + SLURM:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # a shell inside an allocation
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "interactive"},
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "3"},  # srun, one task
    ],
    ids=["plain", "stale slurm variables", "interactive step", "one task"],
)
def test_a_single_process_has_no_group(variables, environment):
    for name, value in variables.items():
        environment.setenv(name, value)
    with distributed("cpu") as world:
        assert world == World(0, 1, 0, torch.device("cpu")) and world.is_main
        assert not dist.is_initialized()
        assert gather_objects("x") == ["x"]
        assert all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
        barrier()


def test_torchrun_comes_before_slurm(environment):
    """torchrun inside one slurm task: slurm sees rank 0 everywhere."""
    variables = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0"}
    for name, value in variables.items():
        environment.setenv(name, value)
    assert gloo_world(lambda world: (world.rank, world.size)) == [(0, 2), (1, 2)]


def test_slurm_alone_needs_an_address(environment):
    variables = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match="MASTER_ADDR"), distributed("cpu"):
        pass


def talk(world):
    tensor = torch.tensor([float(world.rank), 1.0])
    total = all_reduce_sum(tensor)
    return world.rank, total.tolist(), total is tensor, gather_objects({"rank": world.rank}), world.is_main


def test_collectives():
    expected = [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    assert gloo_world(talk, size=3) == [(r, [3.0, 3.0], True, expected, r == 0) for r in range(3)]


def _asked_of_the_main_process(world):
    calls = []

    def work():
        calls.append(world.rank)
        return {"found": 3}

    def refuse():
        calls.append(world.rank)
        raise ConfigError("no such file")

    found = on_main_process(world, work)
    with pytest.raises(ConfigError, match=r"^no such file$"):
        on_main_process(world, refuse)
    return found, calls


def test_the_main_process_works_and_refuses_for_all():
    assert gloo_world(_asked_of_the_main_process) == [({"found": 3}, [0, 0]), ({"found": 3}, [])]
    alone = World(0, 1, 0, torch.device("cpu"))
    assert _asked_of_the_main_process(alone) == ({"found": 3}, [0, 0])


def test_group_is_left_behind_clean(environment):
    """Twice in one process, and after an error inside."""

    def twice():
        for _ in range(2):
            try:
                with distributed("cpu"):
                    raise KeyError
            except KeyError:
                assert not dist.is_initialized()

    assert [finished.code for finished in run_in_processes(twice, size=1)] == [0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_devices():
    assert choose_device("auto", 0) == choose_device("cpu", 3) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"--device cuda.*0 found"):
        choose_device("cuda", 0)
    with pytest.raises(ConfigError, match="--device tpu"):
        choose_device("tpu", 0)


def draws(seed, rank):
    seed_everything(seed, rank)
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_seeds_repeat_and_differ_over_ranks():
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        streams = [draws(0, 0), draws(0, 1), draws(5, 0)]
        assert draws(0, 0) == streams[0]
        assert all(len({stream[i] for stream in streams}) == 3 for i in range(3))
        draws(2**32 - 1, 3)  # numpy takes 32 bits
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])


@pytest.mark.parametrize("kind", [*USER_ERRORS, KeyError], ids=lambda kind: kind.__name__)
def test_user_errors_are_one_line(kind, capsys):
    with pytest.raises(SystemExit) as stop, user_errors(KeyError):
        raise kind("one\n  two\nthree")
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("error: one two three\n" if kind is not KeyError else "error: 'one\\n  two\\nthree'\n")


def test_errors_of_ours_keep_their_traceback():
    def fail():
        with user_errors():
            raise RuntimeError("a bug")

    (finished,) = run_in_processes(fail)
    assert finished.code == 1 and "Traceback" in finished.stderr and "error: " not in finished.stderr.splitlines()
    with pytest.raises(RuntimeError, match="a bug"), bad_options("--x"):
        raise RuntimeError("a bug")


def test_bad_options_name_their_flag():
    with pytest.raises(ConfigError, match=r"^--aa: no such$"), bad_options("--aa"):
        raise ValueError("no such")
    with pytest.raises(ConfigError, match=r"^--decoder x$"), bad_options():
        raise ImportError("--decoder x")
