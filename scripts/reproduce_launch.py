"""Run jobs one after the other on this machine, or submit them to slurm with their dependencies."""

import hashlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from engine.errors import ConfigError

from .reproduce_jobs import Job

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "scripts" / "slurm" / "recipe.sbatch"


def environment_of(job: Job) -> dict[str, str]:
    """This process's environment with the job's variables and this process's Python."""
    return {**os.environ, "VENV": sys.prefix, **job.variables}


# ------------------------------------------------------------------------------------------------ this machine


def run_local(jobs: Sequence[Job], logs: Path) -> list[Job]:
    """Run jobs in this order; what needs one that failed is left out.

    Returns:
        Those that failed or were left out.
    """
    failed: dict[str, Job] = {}
    logs.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(jobs, 1):
        log = logs / f"{job.name}.log"
        if needs := [name for name in job.after if name in failed]:
            print(f"[{number}/{len(jobs)}] {job.name}: left out, it needs {', '.join(needs)}", flush=True)
            failed[job.name] = job
            continue
        print(f"[{number}/{len(jobs)}] {job.name}, log {log}", flush=True)
        job.mark()
        code = _run(job, log)
        if code or not job.is_done():
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            print(f"[{number}/{len(jobs)}] {job.name}: failed with {how}: {_reason(log)}", flush=True)
            failed[job.name] = job
    return list(failed.values())


def _run(job: Job, log: Path) -> int:
    """Exit code of a job, whose output is added to its log. Signals to this process go to the job."""
    words = job.command if job.recipe is None else ("bash", str(job.recipe.file), *job.flags)
    environment = environment_of(job)
    if job.variables.get("GPUS") == "1":
        environment["ONE_OF_SEVERAL"] = "1"  # one process needs no torchrun
    with log.open("a", encoding="utf-8") as out, _passing_on() as hand_over:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        hand_over(process)
        return process.wait()


@contextmanager
def _passing_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Ctrl-C and TERM go to the job, which saves a checkpoint first; once it has ended they end this process.

    Yields what is called with the job as soon as there is one; it gets what has come before.
    """
    received: list[int] = []
    jobs: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # not to wait here: the wait that is interrupted holds a lock, and goes on after this
        received.append(number)
        for process in jobs:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def hand_over(process: subprocess.Popen[bytes]) -> None:
        jobs.append(process)
        for number in received:
            os.killpg(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield hand_over
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        print(f"ended by {signal.Signals(received[0]).name}; the same command goes on from here", flush=True)
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if received:
        sys.exit(128 + received[0])


def _reason(log: Path) -> str:
    """The error that a log ends with, or else its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["nothing was printed"])[-1]


# ------------------------------------------------------------------------------------------------ slurm


class Slurm:
    """Submits jobs whose names are those of one output folder; a job that is queued or runs is not submitted again.

    Args:
        options: words for every sbatch, such as --account.
    """

    def __init__(self, out: Path, options: Sequence[str] = ()) -> None:
        self.prefix = f"sigma-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]}"
        self.logs = out / "logs"
        self.options = tuple(options)

    def queued(self) -> dict[str, str]:
        """Numbers of the jobs of this folder that have not ended, by name."""
        listed = _call("squeue", "--noheader", "--me", "--format=%j %A").splitlines()
        pairs = [line.split() for line in listed if line.startswith(f"{self.prefix}-")]
        return {name.removeprefix(f"{self.prefix}-"): number for name, number in pairs}

    def submit(self, jobs: Sequence[Job], *, nodes: int, gpus: int, device: str) -> dict[str, str]:
        """Submit those that are not queued; the numbers of all, by name."""
        self.logs.mkdir(parents=True, exist_ok=True)
        numbers = self.queued()
        for job in jobs:
            if job.name in numbers:
                job.refuse_another()
                print(f"{job.name}: is in the queue as job {numbers[job.name]}", flush=True)
                continue
            job.mark()
            after = [numbers[name] for name in job.after if name in numbers]
            if job.recipe is None:
                words, variables = ["--ntasks=1", *self.options, f"--wrap={shlex.join(job.command)}"], dict(os.environ)
            else:
                sizes = [f"--nodes={nodes}", f"--ntasks-per-node={gpus}"]
                sizes += [f"--gpus-per-node={gpus if device == 'cuda' else 0}"]
                words = [*sizes, *self.options, str(TEMPLATE), *job.flags]
                variables = {**environment_of(job), "RECIPE": job.recipe.name}
            numbers[job.name] = self._sbatch(job.name, words, variables, condition="afterok", after=after)
        return numbers

    def submit_table(self, command: str, name: str, after: Sequence[str]) -> str:
        """Submit a shell command that runs once all these jobs have ended, however that is."""
        words = ["--ntasks=1", *self.options, f"--wrap={command}"]
        return self._sbatch(name, words, dict(os.environ), condition="afterany", after=after)

    def _sbatch(
        self, name: str, words: Sequence[str], variables: Mapping[str, str], *, condition: str, after: Sequence[str]
    ) -> str:
        base = ["--parsable", f"--job-name={self.prefix}-{name}", f"--output={self.logs / f'{name}.log'}"]
        base += ["--open-mode=append", f"--chdir={ROOT}"]
        if after:
            base += [f"--dependency={condition}:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
        number = _call("sbatch", *base, *words, variables=variables).strip().partition(";")[0]
        print(f"{name}: job {number}" + (f" after {', '.join(after)}" if after else ""), flush=True)
        return number


def _call(*words: str, variables: Mapping[str, str] | None = None) -> str:
    """What a command of slurm prints. Raises ConfigError where there is no slurm, or it refuses."""
    try:
        done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError(
            f"--launcher slurm: there is no {words[0]} here: submit from a machine of the cluster"
        ) from error
    if done.returncode:
        raise ConfigError(f"--launcher slurm: {words[0]}: {done.stderr.strip()}")
    return done.stdout
