"""Every way to start a process, as the variables it leaves: those of slurm are what slurm 22.05 was seen to set."""

import pytest

from engine.distributed.launch import LaunchEnv, first_host, read_launch_env
from engine.errors import ConfigError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
TORCHRUN |= {"MASTER_ADDR": "node7", "MASTER_PORT": "29400"}
BATCH = {"SLURM_JOB_ID": "40", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_NTASKS": "4"}
BATCH |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SALLOC = {"SLURM_JOB_ID": "40", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NODELIST": "n[1-2]"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_SRUN_COMM_HOST": "n1"}
STEP |= {"SLURM_STEP_NODELIST": "n[1-2]"}
TASK = {**BATCH, **STEP, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
ONE_TASK = {**BATCH, **STEP, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}
INTERACTIVE = {**BATCH, **STEP, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "3"}
ALONE = LaunchEnv(0, 1, 0, "python")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"LOCAL_RANK": "0"}, ALONE),
        (TORCHRUN, LaunchEnv(5, 8, 1, "torchrun", "node7", 29400)),
        ({**TASK, **TORCHRUN}, LaunchEnv(5, 8, 1, "torchrun", "node7", 29400)),
        ({**BATCH, **TORCHRUN}, LaunchEnv(5, 8, 1, "torchrun", "node7", 29400)),
        (
            {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
            LaunchEnv(0, 1, 0, "torchrun", "node7", 29400),
        ),
        ({"RANK": "0", "WORLD_SIZE": "1"}, LaunchEnv(0, 1, 0, "torchrun")),
        (TASK, LaunchEnv(3, 4, 1, "srun", "n1", 12040)),
        ({**TASK, "SLURM_STEP_ID": "2"}, LaunchEnv(3, 4, 1, "srun", "n1", 12040 + 2 * 997)),
        ({**TASK, "MASTER_ADDR": "ib0", "MASTER_PORT": "5"}, LaunchEnv(3, 4, 1, "srun", "ib0", 5)),
        ({**TASK, "WORLD_SIZE": "4"}, LaunchEnv(3, 4, 1, "srun", "n1", 12040)),
        (BATCH, ALONE),
        (SALLOC, ALONE),
        (INTERACTIVE, ALONE),
        (ONE_TASK, ALONE),
        ({**BATCH, **STEP, "SLURM_NTASKS": "1"}, ALONE),
        ({**BATCH, **STEP, "SLURM_STEP_NUM_TASKS": "2"}, ALONE),
        ({**INTERACTIVE, "SLURM_STEP_NUM_TASKS": "4"}, ALONE),
    ],
    ids=[
        "plain python, Jupyter",
        "stale LOCAL_RANK",
        "torchrun, torch.distributed.launch",
        "srun torchrun",
        "torchrun in a batch script",
        "torchrun with one process",
        "RANK by hand, one process",
        "srun python",
        "second step of the job",
        "srun python, address given",
        "srun python, WORLD_SIZE exported before",
        "python or Jupyter in a batch script",
        "shell of salloc, or what it leaves",
        "interactive step of salloc",
        "srun with one task",
        "batch script submitted from within a step",
        "the same, several tasks",
        "interactive step submitted from within a step",
    ],
)
def test_environment(variables, expected):
    assert read_launch_env(variables) == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "RANK is set in the environment and WORLD_SIZE is not.*unset RANK"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set in the environment and RANK is not"),
        ({**TASK, "WORLD_SIZE": "8"}, "WORLD_SIZE is set in the environment and RANK is not"),
        ({**TASK, "RANK": "3"}, "RANK is set in the environment and WORLD_SIZE is not"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({**TORCHRUN, "RANK": "8"}, "rank 8 of 8"),
        ({**TORCHRUN, "RANK": "first"}, "RANK is 'first'"),
        ({**TASK, "SLURM_NTASKS_PER_NODE": "4"}, "4 tasks on 2 nodes, but SLURM_NTASKS_PER_NODE is 4"),
        ({**TASK, "SLURM_STEP_NODELIST": ""}, "neither MASTER_ADDR nor SLURM_STEP_NODELIST"),
        ({name: TASK[name] for name in TASK if name != "SLURM_LOCALID"}, "SLURM_LOCALID is not set"),
    ],
)
def test_contradictions_are_one_clear_error(variables, message):
    with pytest.raises(ConfigError, match=message):
        read_launch_env(variables)


def test_variables_are_torchruns():
    launch = LaunchEnv(3, 4, 1, "srun", "n1", 12040)
    assert read_launch_env(launch.torchrun_env) == LaunchEnv(3, 4, 1, "torchrun", "n1", 12040)


def test_ports_of_neighbouring_jobs_differ_and_are_not_handed_out_by_the_system():
    ports = {read_launch_env({**TASK, "SLURM_JOB_ID": str(job)}).master_port for job in range(9_999_000, 10_000_000)}
    assert len(ports) == 1000 and min(ports) >= 12000 and max(ports) < 32768


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("127.0.0.[2-3]", "127.0.0.2"),
        ("rack1n[003-010,12],login2", "rack1n003"),
        ("a,b[1-2]", "a"),
        ("gpu-a[07,09]", "gpu-a07"),
        ("r[0-3]n[1-2]", "r0n1"),
        ("", ""),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first
