"""Rank and world size from the environment of torchrun or srun, or the defaults of a single process."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError

# Slurm's reserved step ids (batch script, salloc shell and others): never a step with several tasks.
FIRST_RESERVED_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class LaunchEnv:
    """Rank of this process, rendezvous address if there are several, and what launched it."""

    rank: int
    size: int
    local_rank: int
    launcher: str  # torchrun (or anything that sets its variables), srun, or python
    master_addr: str = ""
    master_port: int = 0

    @property
    def torchrun_env(self) -> dict[str, str]:
        """The variables that torchrun would have set; torch and DeepSpeed read them."""
        numbers = {
            "RANK": self.rank,
            "WORLD_SIZE": self.size,
            "LOCAL_RANK": self.local_rank,
            "MASTER_PORT": self.master_port,
        }
        return {"MASTER_ADDR": self.master_addr} | {name: str(number) for name, number in numbers.items()}


def read_launch_env(env: Mapping[str, str]) -> LaunchEnv:
    """Rank, world size, local rank and rendezvous address from environment variables.

    RANK and WORLD_SIZE take precedence: for torchrun inside a slurm task they are right and slurm's are not. Slurm's
    variables are used only in a step with several tasks; in the shell of an allocation they are stale.

    Raises:
        ConfigError: variables contradict each other, or the rendezvous address is missing.
    """
    in_step = _is_multi_task_step(env)
    given = [name for name in ("RANK", "WORLD_SIZE") if name in env]
    # Many batch scripts export WORLD_SIZE before srun; it is redundant then.
    if len(given) == 1 and not (in_step and env.get("WORLD_SIZE") == env["SLURM_NTASKS"]):
        missing = "WORLD_SIZE" if given == ["RANK"] else "RANK"
        raise ConfigError(
            f"{given[0]} is set in the environment and {missing} is not: start with torchrun or srun, "
            f"which set both, or `unset {given[0]}` for one process"
        )
    if len(given) == 2:
        launch = _from_torchrun(env)
    elif in_step:
        launch = _from_srun(env)
    else:
        return LaunchEnv(0, 1, 0, "python")
    if not 0 <= launch.rank < launch.size:
        raise ConfigError(f"rank {launch.rank} of {launch.size} processes: RANK must be below WORLD_SIZE")
    return launch


def was_restarted(env: Mapping[str, str]) -> bool:
    """Whether this is a restart, by slurm (requeue) or torchrun (`--max-restarts`), of the same command."""
    counts = (env.get("SLURM_RESTART_COUNT", "0"), env.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return any(count.isdigit() and int(count) > 0 for count in counts)


def _from_torchrun(env: Mapping[str, str]) -> LaunchEnv:
    rank, size, local_rank = _number(env, "RANK"), _number(env, "WORLD_SIZE"), _number(env, "LOCAL_RANK", default="0")
    if size > 1 and not ("MASTER_ADDR" in env and "MASTER_PORT" in env):
        raise ConfigError(
            f"WORLD_SIZE={size}, but MASTER_ADDR and MASTER_PORT are not set: start with torchrun or srun, "
            "or set them to the address of rank 0 and a free port there"
        )
    return LaunchEnv(
        rank, size, local_rank, "torchrun", env.get("MASTER_ADDR", ""), _number(env, "MASTER_PORT", default="0")
    )


def _is_multi_task_step(env: Mapping[str, str]) -> bool:
    """Whether srun launched this process as one of several tasks; observed in slurm 22.05.

    A batch script and the shell of salloc have SLURM_NTASKS but no step; salloc's interactive step has a reserved id
    and one task; a job submitted from inside a step inherits the step's variables, but not its SLURM_NTASKS.
    """
    if "SLURM_PROCID" not in env or not env.get("SLURM_STEP_ID", "").isdigit():
        return False
    tasks = env.get("SLURM_STEP_NUM_TASKS", "1")
    return int(env["SLURM_STEP_ID"]) < FIRST_RESERVED_STEP and tasks != "1" and tasks == env.get("SLURM_NTASKS")


def _from_srun(env: Mapping[str, str]) -> LaunchEnv:
    size, nodes = _number(env, "SLURM_NTASKS"), _number(env, "SLURM_STEP_NUM_NODES", default="1")
    per_node = _number(env, "SLURM_NTASKS_PER_NODE", default=str(size // nodes))
    if per_node * nodes != size:
        raise ConfigError(
            f"srun started {size} tasks on {nodes} nodes, but SLURM_NTASKS_PER_NODE is {per_node}: give srun "
            "--nodes, --ntasks and --ntasks-per-node that agree"
        )
    address = env.get("MASTER_ADDR") or first_host(env.get("SLURM_STEP_NODELIST", ""))
    if not address:
        raise ConfigError(f"srun started {size} tasks, but neither MASTER_ADDR nor SLURM_STEP_NODELIST is set")
    # Other jobs and steps on the node get other ports; all are below the range of ephemeral ports.
    port = 12000 + (_number(env, "SLURM_JOB_ID", default="0") + 997 * int(env["SLURM_STEP_ID"])) % 20000
    return LaunchEnv(
        _number(env, "SLURM_PROCID"),
        size,
        _number(env, "SLURM_LOCALID"),
        "srun",
        address,
        _number(env, "MASTER_PORT", default=str(port)),
    )


def first_host(nodes: str) -> str:
    """First host of a compressed slurm node list: `rack1n[003-010,12],login2` -> `rack1n003`."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]  # at a comma outside brackets
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def _number(env: Mapping[str, str], name: str, *, default: str | None = None) -> int:
    text = env.get(name, default)
    if text is None or not text.isdigit():
        found = "not set" if text is None else repr(text)
        raise ConfigError(f"{name} is {found} in the environment: expected a number")
    return int(text)
