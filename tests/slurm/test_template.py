"""The templates without slurm: what job.sh sets and starts, and real torchrun with its flags.

`srun` and `scontrol` are small programs that come first on PATH; test_slurm.py has the real ones.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import LIMIT, PRETRAIN, ROOT, free_port, run_script
from runs import load, records, same

RECORDS = 'env -0 > "$SEEN/environment"; printf "%s\\n" "$@" > "$SEEN/words"'
STARTS = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'  # one task on one node, here
SCONTROL = 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$SEEN/called"; fi'
JOB = {
    "SLURM_SUBMIT_DIR": ROOT,
    "SLURM_JOB_NAME": "name",
    "SLURM_JOB_NODELIST": "here",
    "SLURM_JOB_NUM_NODES": 1,
    "SLURM_NTASKS_PER_NODE": 2,
    "SLURM_CPUS_PER_TASK": 1,
    "DEVICE": "cpu",
    "VENV": sys.prefix,
}


def start(folder, *flags, srun, **variables):
    """The pre-training template as slurm's batch script; `folder` gets what it wrote and what the programs saw."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, text in (("srun", srun), ("scontrol", SCONTROL)):
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    for name in ("python", "torchrun"):  # of VENV, which comes before the PATH that is given
        assert (Path(sys.prefix) / "bin" / name).exists()
    foreign = ("SLURM", "SBATCH", "RANK", "WORLD", "LOCAL", "MASTER", "TORCH_FR", "TORCH_NCCL")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"SEEN": str(folder), "PATH": f"{programs}:{environment['PATH']}", "TMPDIR": str(folder)}
    environment |= {name: str(value) for name, value in {**JOB, **variables}.items()}
    command = ["bash", ROOT / "scripts/slurm/pretrain.sbatch", *map(str, flags)]
    with (folder / "out").open("a") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder)


def seen_by_srun(folder, **variables):
    """Variables and words that the template starts `srun` with."""
    process = start(folder, srun=RECORDS, SLURM_JOB_ID=7, OUTPUT_DIR=folder / "run", **variables)
    assert process.wait(LIMIT) == 0, (folder / "out").read_text()
    pairs = (pair.split("=", 1) for pair in (folder / "environment").read_text().split("\0") if pair)
    return dict(pairs), (folder / "words").read_text().splitlines()


def test_the_flight_recorder_is_on(tmp_path):
    """By the names that torch reads now: TORCH_NCCL_TRACE_BUFFER_SIZE is the deprecated one."""
    variables, _ = seen_by_srun(tmp_path)
    assert int(variables["TORCH_FR_BUFFER_SIZE"]) == 2000 and variables["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    dump = Path(variables["TORCH_FR_DUMP_TEMP_FILE"])
    assert dump.is_absolute() and dump.parent == (tmp_path / "run").resolve() and dump.parent.is_dir()
    assert "TORCH_NCCL_TRACE_BUFFER_SIZE" not in variables
    assert seen_by_srun(tmp_path, TORCH_FR_BUFFER_SIZE=50)[0]["TORCH_FR_BUFFER_SIZE"] == "50"


def test_torchrun_passes_signals_on_and_waits(tmp_path):
    _, words = seen_by_srun(tmp_path, LAUNCHER="torchrun", SHUTDOWN_TIMEOUT=45)
    assert words[words.index("--shutdown-timeout") + 1] == "45" and words[words.index("--rdzv_id") + 1] == "7"
    (signals,) = [word for word in words if word.startswith("--signals-to-handle=")]
    assert {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"} <= set(re.split("[=,]", signals))
    srun, torchrun = words[: words.index("torchrun")], words[words.index("torchrun") :]
    assert "--ntasks=1" in srun and "--cpus-per-task=2" in srun  # one torchrun a node, with the CPUs of all its tasks
    assert torchrun[torchrun.index("--nproc_per_node") + 1] == "2"


def processes_of(folder):
    """Numbers of the processes that have the variables of a template that was started in `folder`."""
    wanted, found = f"SEEN={folder}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def wait_for(condition, what):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"waited {LIMIT:g} seconds for {what}"
        time.sleep(0.1)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads Linux's /proc")
def test_real_torchrun_with_the_flags_of_the_template(data, tmp_path):
    """USR1 to torchrun in an array job: one requeue, by its number and task, and no process left. Started again it goes
    on to the end as if without a stop, and once more it has nothing to do."""
    flags = data.flags(PRETRAIN, epochs=20, batch_size=1, save_ckpt_freq=1000)  # 120 updates
    run = tmp_path / "seed0"
    job = {"SLURM_JOB_ID": next(port for port in iter(free_port, 0) if port >= 12_000) - 12_000}
    job |= {"SLURM_ARRAY_JOB_ID": 5, "SLURM_ARRAY_TASK_ID": 1, "SEEDS": "3 0"}
    job |= {"LAUNCHER": "torchrun", "OUTPUT_DIR": tmp_path}
    log = run / "log.txt"

    process = start(tmp_path, *flags, srun=STARTS, **job)
    wait_for(lambda: process.poll() is not None or (log.exists() and len(records(run)) > 10), "10 steps")
    assert process.poll() is None, (tmp_path / "out").read_text()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(LIMIT) != 0
    wait_for(lambda: not processes_of(tmp_path), "all processes to be gone")
    done = len(records(run))
    assert 10 < done < 120 and (tmp_path / "called").read_text() == "requeue 5_1\n"

    for words in ("resumed from", "training is finished already"):
        assert start(tmp_path, *flags, srun=STARTS, **job).wait(LIMIT) == 0, (tmp_path / "out").read_text()
        assert words in (tmp_path / "out").read_text()
    assert not processes_of(tmp_path)
    assert (tmp_path / "called").read_text() == "requeue 5_1\n"
    assert [record["step"] for record in records(run)] == list(range(1, 121))
    straight = tmp_path / "straight"
    words = [*flags, "--output_dir", straight]
    assert all(finished.code == 0 for finished in run_script(PRETRAIN, *words, size=2))
    got, expected = (load(folder / "checkpoint-19.pth") for folder in (run, straight))
    assert all(same(got[part], expected[part]) for part in ("model", "optimizer", "rng"))
