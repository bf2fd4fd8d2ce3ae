"""Real processes for tests: the entry scripts, and functions that talk over gloo.

Processes are forked from the test's own, which has torch imported already: a script then starts in milliseconds
instead of seconds, and everything else (argument parsing, process group, streams, exit code) is as from a shell.
"""

import gc
import multiprocessing
import os
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import einops._torch_specific  # noqa: F401  (what a run imports late is imported here, not in each process)
import numpy.ma  # noqa: F401
import torch
import torch.utils.serialization.config

import run_class_finetuning  # noqa: F401
import run_probing  # noqa: F401
import run_repetition_counting  # noqa: F401
import run_segmentation  # noqa: F401
import run_sigma_pretraining  # noqa: F401
from engine.distributed.world import distributed

ROOT = Path(__file__).parents[1]
PRETRAIN, FINETUNE, SEGMENT = "run_sigma_pretraining.py", "run_class_finetuning.py", "run_segmentation.py"
PROBE = "run_probing.py"
COUNT = "run_repetition_counting.py"
LIMIT = 300.0  # seconds; a test that hangs is a failure, one on a busy machine is not


@dataclass(frozen=True)
class Finished:
    """A process that has ended: its exit code, and all it wrote."""

    code: int
    stdout: str
    stderr: str

    @property
    def errors(self):
        """The lines of stderr that start with `error: `."""
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]


def free_port():
    """A port that nothing listens on, below those that the system gives to sockets that ask for any.

    Tests run beside one another: one of those could be given away between here and its use.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:  # taken
                continue
        return port


def _redirect(folder):
    """File descriptors 1 and 2, and Python's streams over them, into files: what libraries write there counts too."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))


def _own_temporary_folder(folder):
    """Variables for a process whose temporary files go with `folder`: one that is killed removes none itself."""
    (folder / "tmp").mkdir()
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "torchinductor_of_tests"))
    return {"TMPDIR": str(folder / "tmp"), "TORCHINDUCTOR_CACHE_DIR": compiled}  # what is compiled stays for the next


def _child(target, folder, cwd, environment):
    gc.freeze()  # else each collection goes through all that the parent has imported: half a second a time
    os.environ.update(environment)
    tempfile.tempdir = None  # ask the environment again
    os.chdir(cwd)
    _redirect(folder)
    torch.set_num_threads(1)
    target()


@dataclass(frozen=True)
class Running:
    """Processes that may be sent signals while they run."""

    processes: list
    scratch: Path

    @property
    def pids(self):
        return [process.pid for process in self.processes]

    @property
    def alive(self):
        return any(process.is_alive() for process in self.processes)

    def stderr(self, rank=0):
        """What a rank has written so far."""
        file = self.scratch / str(rank) / "stderr"
        return file.read_text() if file.exists() else ""

    def finish(self):
        """Wait for all of them; a list of Finished, by rank."""
        for process in self.processes:
            process.join(LIMIT)
            if process.is_alive():
                process.kill()
                process.join()
        written = [
            [(self.scratch / str(rank) / stream).read_text() for stream in ("stdout", "stderr")]
            for rank in range(len(self.processes))
        ]
        return [Finished(p.exitcode, *texts) for p, texts in zip(self.processes, written, strict=True)]


@contextmanager
def running(target, *, size=1, cwd="."):
    """`target()` in `size` new processes, with the environment that torchrun gives to several; a Running."""
    context = multiprocessing.get_context("fork")
    port = str(free_port())
    with tempfile.TemporaryDirectory() as scratch:
        processes = []
        for rank in range(size):
            environment = {}
            if size > 1:
                environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            folder = Path(scratch) / str(rank)
            folder.mkdir()
            environment |= _own_temporary_folder(folder)
            processes.append(context.Process(target=_child, args=(target, folder, cwd, environment)))
        for process in processes:
            process.start()
        run = Running(processes, Path(scratch))
        try:
            yield run
        finally:
            run.finish()


def run_in_processes(target, *, size=1, cwd="."):
    """Run `target()` in `size` processes to the end; a list of Finished, by rank."""
    with running(target, size=size, cwd=cwd) as run:
        return run.finish()


def script_target(script, *argv):
    """What runs an entry script as its own main program."""

    def target():
        sys.argv = [str(ROOT / script), *map(str, argv)]
        runpy.run_path(sys.argv[0], run_name="__main__")

    return target


def run_script(script, *argv, size=1, cwd="."):
    """Run an entry script as its own main program; a list of Finished by rank, or with one process its Finished."""
    finished = run_in_processes(script_target(script, *argv), size=size, cwd=cwd)
    return finished if size > 1 else finished[0]


def gloo_world(function, *args, size=2):
    """`function(world, *args)` in `size` processes that have joined a gloo group; its results by rank.

    Raises:
        AssertionError: a process failed; holds what it wrote.
    """
    with tempfile.TemporaryDirectory() as scratch:

        def target():
            try:
                with distributed("cpu") as world:
                    torch.save(function(world, *args), Path(scratch) / f"{world.rank}.pt")
            except BaseException:
                traceback.print_exc()
                raise

        for rank, finished in enumerate(run_in_processes(target, size=size)):
            assert finished.code == 0, f"rank {rank} ended with {finished.code}:\n{finished.stderr}"
        return [torch.load(Path(scratch) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def torchrun(script, *argv, size=2, cwd="."):
    """Run an entry script under the real torchrun, from a fresh interpreter; its CompletedProcess."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size)]
    return fresh(*launcher, ROOT / script, *argv, cwd=cwd)


def fresh(*command, cwd="."):
    """Run a command as from a shell; its CompletedProcess."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD", "LOCAL"))}
    with tempfile.TemporaryDirectory() as scratch:
        environment |= {"OMP_NUM_THREADS": "1", **_own_temporary_folder(Path(scratch))}
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
