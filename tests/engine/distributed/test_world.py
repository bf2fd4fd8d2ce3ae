"""Which rank a process has, on which device, and how errors leave it."""

import datetime
import os
import random
import time
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import free_port, gloo_world, run_in_processes

import engine.distributed.world
from engine.distributed.collectives import all_reduce_sum, gather_objects
from engine.distributed.launch import LaunchEnv, read_launch_env
from engine.distributed.world import (
    World,
    _check_same_device,
    barrier,
    choose_device,
    distributed,
    on_every_rank,
    on_main_process,
    seed_everything,
)
from engine.errors import USER_ERRORS, ConfigError, as_config_error, user_errors


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Without any launcher's variables."""
    for name in list(os.environ):
        if name.startswith(("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_a_single_process_has_no_group(environment):
    environment.setenv("SLURM_NTASKS", "4")  # more in test_launch.py
    with distributed("cpu") as world:
        assert world == World(0, 1, 0, torch.device("cpu")) and world.is_main
        assert not dist.is_initialized()
        assert gather_objects("x") == ["x"]
        assert all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
        barrier()


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
    assert on_every_rank(world, lambda: world.rank) == world.rank
    with pytest.raises(ConfigError, match=r"^not on the last rank$"):
        on_every_rank(world, partial(_fail_on_the_last_rank, world))
    return found, calls


def _fail_on_the_last_rank(world):
    if world.rank == world.size - 1:
        raise ConfigError("not on the last rank")


def test_the_main_process_works_and_refuses_for_all():
    assert gloo_world(_asked_of_the_main_process) == [({"found": 3}, [0, 0]), ({"found": 3}, [])]
    alone = World(0, 1, 0, torch.device("cpu"))
    assert _asked_of_the_main_process(alone) == ({"found": 3}, [0, 0])


def test_group_is_left_behind_clean():
    """Twice in one process, and after an error inside."""

    def twice():
        for _ in range(2):
            try:
                with distributed("cpu"):
                    raise KeyError
            except KeyError:
                assert not dist.is_initialized()

    assert [finished.code for finished in run_in_processes(twice, size=1)] == [0]


def in_a_world(function, variables_of, size=2):
    """`function(world)` in processes that have these variables by rank; what they wrote, by rank."""

    def target():
        for name in list(os.environ):
            if name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
                del os.environ[name]
        os.environ.update(variables_of(int(os.environ.pop("RANK"))))
        with user_errors(), distributed("cpu") as world:
            function(world)

    return run_in_processes(target, size=size)


def tasks_of_srun(port):
    """Variables by rank, as slurm 22.05 gives them to two tasks on one node."""
    common = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "127.0.0.[2-3]", "SLURM_NTASKS": "2"}
    common |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "MASTER_PORT": str(port)}
    return lambda rank: {**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}


def test_tasks_of_srun_find_each_other():
    def show(world):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
        assert [os.environ[name] for name in names] == [str(world.rank), "2", str(world.rank), "127.0.0.2"]
        assert gather_objects(world.local_rank) == [0, 1]

    finished = in_a_world(show, tasks_of_srun(free_port()))
    assert [task.code for task in finished] == [0, 0], finished


def test_processes_that_do_not_meet_say_so(environment):
    """Two tasks of three."""
    environment.setattr(engine.distributed.world, "RENDEZVOUS_TIMEOUT", datetime.timedelta(seconds=2))
    port = free_port()
    three = {"SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}
    finished = in_a_world(lambda world: None, lambda rank: {**tasks_of_srun(port)(rank), **three})
    assert [task.code for task in finished] == [2, 2]
    for rank, task in enumerate(finished):
        assert f"rank {rank} of 3, started by srun: not all of them met at MASTER_ADDR 127.0.0.2" in task.errors[0]


class LateStore(dist.PrefixStore):
    """A store that its rank comes to late."""

    def wait(self, *args):
        time.sleep(1)
        super().wait(*args)


@pytest.mark.parametrize("late", [None, 1])
def test_a_rank_that_lost_its_gpu_stops_all(late):
    """Rank 0 holds the store, also for those that come to it when rank 0 is done."""

    def target():
        launch = read_launch_env(os.environ)
        store, *_ = next(dist.rendezvous("env://"))
        store = (LateStore if launch.rank == late else dist.PrefixStore)("x", store)
        with user_errors():
            _check_same_device(store, launch, torch.device("cpu" if launch.rank == 1 else "cuda"))

    for finished in run_in_processes(target, size=2):
        assert finished.code == 2
        assert finished.stderr.startswith("error: ranks [1] of 2 have no GPU and the others have")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_without_a_gpu():
    for launcher in ("python", "torchrun", "srun"):
        launch = LaunchEnv(3, 4, 3, launcher)
        assert choose_device("auto", launch) == choose_device("cpu", launch) == torch.device("cpu")
        with pytest.raises(ConfigError, match=r"--device cuda: local rank 3 .* 0 found"):
            choose_device("cuda", launch)
    with pytest.raises(ConfigError, match="--device tpu"):
        choose_device("tpu", launch)


@pytest.mark.parametrize(
    ("gpus", "launcher", "local_rank", "number"),
    [
        (4, "torchrun", 3, 3),
        (4, "srun", 3, 3),
        (1, "srun", 3, 0),  # slurm shows each task its own GPU
        (1, "torchrun", 0, 0),
        (1, "torchrun", 1, None),
        (2, "srun", 2, None),
    ],
)
def test_gpu_of_a_rank(gpus, launcher, local_rank, number, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("SLURM_PROCID", "0")  # torchrun inside an allocation has it too
    launch = LaunchEnv(local_rank, 4, local_rank, launcher)
    if number is None:
        with pytest.raises(ConfigError, match=rf"local rank {local_rank} needs a GPU of its own, {gpus} found"):
            choose_device("auto", launch)
    else:
        assert choose_device("auto", launch) == torch.device("cuda", number)


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


def test_ctrl_c_says_what_the_same_command_does(capsys):
    for words, said in (({}, "interrupted"), ({"interrupted": "begin again"}, "begin again")):
        with pytest.raises(SystemExit) as stop, user_errors(**words):
            raise KeyboardInterrupt
        assert stop.value.code == 130 and capsys.readouterr().err == f"{said}\n"


def test_errors_of_ours_keep_their_traceback():
    def fail():
        with user_errors():
            raise RuntimeError("a bug")

    (finished,) = run_in_processes(fail)
    assert finished.code == 1 and "Traceback" in finished.stderr and "error: " not in finished.stderr.splitlines()
    with pytest.raises(RuntimeError, match="a bug"), as_config_error("--x"):
        raise RuntimeError("a bug")


def test_bad_options_name_their_flag():
    with pytest.raises(ConfigError, match=r"^--aa: no such$"), as_config_error("--aa"):
        raise ValueError("no such")
    with pytest.raises(ConfigError, match=r"^--decoder x$"), as_config_error():
        raise ImportError("--decoder x")
