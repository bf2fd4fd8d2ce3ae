"""A real slurm for the tests of this folder, which root runs with `-m slurm` where Debian's packages are installed."""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import ROOT

SCRIPT = Path(__file__).parent / "cluster.sh"
LIMIT = 600.0  # seconds for a job; on two idle cores two processes start in ten
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Cluster:
    """Two nodes of four CPUs and two GPUs that are none."""

    folder: Path
    environment: dict[str, str]

    def call(self, *command, **variables):
        """What a command of slurm prints."""
        words = [str(word) for word in command]
        environment = {**self.environment, **{name: str(value) for name, value in variables.items()}}
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(self, template, output, *flags, options=(), **variables):
        """Submit a template as its head says, for CPUs; the job's number."""
        base = ["--parsable", "--gpus-per-node=0", "--ntasks-per-node=2", "--cpus-per-task=1", f"--output={output}"]
        script = ROOT / "scripts" / "slurm" / template
        return self.call("sbatch", *base, *options, script, *flags, **{"DEVICE": "cpu", **variables})

    def run(self, output, script, *, options=()):
        """Submit the text of a batch script, and wait; what it printed."""
        file = self.folder / "script.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        job = self.call("sbatch", "--parsable", f"--output={output}", *options, file)
        assert self.wait(job)["JobState"] == "COMPLETED", Path(output).read_text()
        return Path(output).read_text()

    def show(self, job):
        """What slurm knows of a job: JobState, Restarts, ExitCode and so on."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", job, "--oneliner")))

    def wait(self, job):
        """Until the job is over and none of its processes is left; what slurm then knows of it."""
        self.until(lambda: self.show(job)["JobState"] in OVER, f"job {job} to be over")
        self.until(lambda: not self.processes(job), f"the processes of job {job} to be gone", 20)
        return self.show(job)

    def until(self, condition, what, seconds=LIMIT):
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds:g} seconds for {what}"
            time.sleep(0.2)

    def processes(self, job, **variables):
        """Numbers of the processes of a job that have these variables, slurm's own not counted."""
        number = self.show(job)["JobId"]
        wanted = {f"{name}={value}".encode() for name, value in {"SLURM_JOB_ID": number, **variables}.items()}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                    found.append(int(folder.name))
            except OSError:  # it has ended
                continue
        return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root can start a slurm")
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]:
        pytest.skip(
            f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm slurmctld slurmd munge"
        )
    folder = tmp_path_factory.mktemp("cluster")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    environment |= {"OMP_NUM_THREADS": "1", "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        subprocess.run(["bash", SCRIPT, "start", folder, "2"], check=True)
        yield Cluster(folder, environment)
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder], check=True)
