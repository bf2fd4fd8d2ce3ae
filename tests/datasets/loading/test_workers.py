"""Workers that die or hang end the run with one sentence: real processes, killed and stuck."""

import faulthandler
import os
import shutil
import signal
import sys
import threading
import time

import pytest
import torch
from conftest import Data, write_list
from processes import FINETUNE, PRETRAIN, ROOT, fresh, run_in_processes, run_script
from torch.utils.data import Dataset

from datasets.errors import LoaderError
from datasets.loading.loaders import build_train_loader
from datasets.loading.workers import explain, loader_errors, reading, set_timeout
from engine.errors import user_errors

HANG = 1000.0  # seconds of a task that is to be ended
QUICK = 100.0  # seconds in which that must happen, on a busy machine too
SHM_WORDS = "RuntimeError: unable to write to file </torch_12_34_5>: No space left on device (28)"


class Reader(Dataset):
    """A training set of files that are opened and read as they are; `act(path)` decides what else happens."""

    def __init__(self, paths, act):
        self.paths, self.act = [str(path) for path in paths], act

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        with reading(self.paths[key[1]]):
            self.act(self.paths[key[1]])
        return {"clip": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "index": key[1], "failures": []}


def run(dataset, **options):
    """One epoch in a process of its own, with an entry script's errors; what it wrote, and seconds."""

    def target():
        with user_errors(LoaderError), loader_errors():
            for _ in build_train_loader(dataset, batch_size=1, **options):
                pass

    start = time.perf_counter()
    (finished,) = run_in_processes(target)
    return finished, time.perf_counter() - start


def open_as_native_code_does(path):
    """Blocks in the kernel where the path is a pipe that nobody writes to."""
    with open(path, "rb") as file:
        file.read(1)


def die_at(name, number):
    def act(path):
        if name in path:
            os.kill(os.getpid(), number)

    return act


@pytest.fixture
def paths(tmp_path):
    files = [tmp_path / f"clip {number}.mp4" for number in range(8)]
    for file in files:
        file.write_bytes(b"x")
    return files


def check_message(finished, *words):
    lines = finished.stderr.replace("\0", "").splitlines()  # torch's worker ends what it writes itself with a zero
    errors = [line for line in lines if line.startswith("error: ")]
    assert finished.code == 2 and len(errors) == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_video_that_hangs_is_named(paths, num_workers):
    paths[0].unlink()
    os.mkfifo(paths[0])
    finished, seconds = run(Reader(paths[:1], open_as_native_code_does), num_workers=num_workers, decode_timeout=0.5)
    check_message(finished, str(paths[0]), "took longer than --decode_timeout allows")
    assert seconds < QUICK


def test_a_clip_starts_no_thread_in_the_main_process(monkeypatch):
    started = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), start(thread)))
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *args, **kwargs: started.append("faulthandler"))
    for _ in range(20):
        with reading("clip.mp4"):
            pass
    assert len(started) <= 1


@pytest.mark.parametrize(
    ("limits", "seconds", "ends"),
    [
        ([(1.0, 0.0), (HANG, 1.5)], 1.5, False),  # the limit of a clip that is done passes while another is read
        ([(HANG, 0.0), (0.3, HANG)], 0.3, True),  # a shorter limit than the one being waited for
        ([(1.0, 0.0), (HANG, 1.2), (0.3, HANG)], 1.5, True),  # after the thread has had nothing to wait for
    ],
)
def test_limits_of_the_main_process(limits, seconds, ends):
    def target():
        for limit, takes in limits:
            set_timeout(limit)
            with reading(f"clip of {limit}.mp4"):
                time.sleep(takes)

    start = time.perf_counter()
    (finished,) = run_in_processes(target)
    if ends:
        check_message(finished, "clip of 0.3.mp4", "took longer than --decode_timeout allows")
    else:
        assert finished.code == 0, finished.stderr
    assert seconds <= time.perf_counter() - start < seconds + QUICK


def test_a_forked_process_is_watched_too(paths):
    """Threads do not survive a fork: the one of the parent, which has read before, watches nothing in the child."""
    with reading("clip.mp4"):
        pass
    paths[0].unlink()
    os.mkfifo(paths[0])
    finished, seconds = run(Reader(paths[:1], open_as_native_code_does), num_workers=0, decode_timeout=0.5)
    check_message(finished, str(paths[0]), "took longer than --decode_timeout allows")
    assert seconds < QUICK


def test_no_timeout_when_it_is_0(paths):
    finished, _ = run(Reader(paths[:2], lambda path: time.sleep(0.3)), num_workers=1, decode_timeout=0.0)
    assert finished.code == 0, finished.stderr


def test_the_limit_ends_with_the_reading(paths):
    """A worker that has read a clip may take as long as it likes over the rest."""

    class Slow(Reader):
        def __getitem__(self, key):
            item = super().__getitem__(key)
            time.sleep(1.5)
            return item

    finished, _ = run(Slow(paths[:1], open_as_native_code_does), num_workers=1, decode_timeout=1.0)
    assert finished.code == 0, finished.stderr


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, ["was killed while it was reading", "memory", "--num_workers"]),
        (signal.SIGSEGV, ["killed by signal: Segmentation fault while it was reading", "--decoder"]),
        (signal.SIGBUS, ["/dev/shm", "--shm-size", "--num_workers"]),
    ],
)
def test_a_dead_worker(paths, number, words):
    finished, seconds = run(Reader(paths, die_at("clip 3", number)), num_workers=2)
    check_message(finished, *words)
    assert number == signal.SIGBUS or str(paths[3]) in finished.stderr
    assert seconds < QUICK


def test_a_worker_killed_from_outside_while_the_main_process_computes(paths):
    """The signal handler raises in the middle of the step, not in the loop over the batches."""

    def target():
        with user_errors(LoaderError), loader_errors():
            loader = build_train_loader(Reader(paths, lambda path: None), batch_size=1, num_workers=1)
            batches = iter(loader)
            next(batches)
            os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
            for _ in range(10_000):
                time.sleep(0.01)  # the step
            sys.exit("the worker's death was not noticed")

    (finished,) = run_in_processes(target)
    check_message(finished, "was killed", "memory")


@pytest.mark.slow
def test_workers_that_give_no_batch_at_all(paths):
    """Stuck outside of `reading`, where no timer runs in the worker."""

    class Stuck(Reader):
        def __getitem__(self, key):
            time.sleep(HANG)

    def target():
        with user_errors(LoaderError), loader_errors():
            next(iter(build_train_loader(Stuck(paths, None), batch_size=1, num_workers=1, decode_timeout=0.1)))

    (finished,) = run_in_processes(target)
    check_message(finished, "no batch for a long time", "--decode_timeout")


_FULL = """
import sys, torch
from torch.utils.data import Dataset
from datasets.errors import LoaderError
from datasets.loading.loaders import build_train_loader
from datasets.loading.workers import loader_errors
from engine.errors import user_errors

class Clips(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, key):
        return {"clip": torch.zeros(16, 3, 64, 64, dtype=torch.uint8), "index": key[1], "failures": []}

with user_errors(LoaderError), loader_errors():
    list(build_train_loader(Clips(), batch_size=8, num_workers=2))
"""


@pytest.mark.slow
def test_full_shared_memory():
    """Two workers with batches of 1.5 MiB each, and 1 MiB for them, on a mount that only this process sees."""
    shell = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if not shutil.which("unshare") or fresh("unshare", "-m", "sh", "-c", shell).returncode:
        pytest.skip("may not mount a file system of its own")
    finished = fresh("unshare", "-m", "sh", "-c", f'{shell} && exec "$0" -c "$1"', sys.executable, _FULL, cwd=ROOT)
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert finished.returncode == 2 and len(errors) == 1, finished.stderr
    assert "/dev/shm (1 MiB) is full" in errors[0] and "--shm-size" in errors[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback\n{SHM_WORDS}", ["/dev/shm"]),
        ("DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that ...", ["/dev/shm"]),
        ("received 0 items of ancdata", ["ulimit -n"]),
        ("[Errno 24] Too many open files", ["ulimit -n"]),
        ("DataLoader worker (pid(s) 1, 2) exited unexpectedly", ["pid 1", "died", "--num_workers 0"]),
    ],
)
def test_loader_errors_are_explained(text, words):
    assert all(word in explain(text) for word in words)


@pytest.mark.parametrize("text", ["CUDA out of memory", "size mismatch", "No space left on device: checkpoint-3.pth"])
def test_other_errors_pass(text):
    assert explain(text) is None
    with pytest.raises(RuntimeError, match="^" + text[:10]), loader_errors():
        raise RuntimeError(text)


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory):
    """Lists of folders of frames, where each frame is a named pipe that nobody writes to: reading it never ends."""
    folder = tmp_path_factory.mktemp("unreadable")
    videos = tuple(folder / f"frames of {number}.mp4" for number in range(8))
    for video in videos:
        video.mkdir()
        os.mkfifo(video / "0.jpg")
    for name in ("pretrain", "train", "val", "test"):
        write_list(folder / f"{name}.csv", videos)
    return Data(folder, videos)


@pytest.mark.parametrize("script", [PRETRAIN, FINETUNE])
def test_entry_scripts_end_with_one_line(script, unreadable, tmp_path):
    finished = run_script(script, *unreadable.flags(script, tmp_path, num_workers=1, decode_timeout=0.5))
    check_message(finished, f"error: {unreadable.folder}/frames of ", "took longer than --decode_timeout allows")
