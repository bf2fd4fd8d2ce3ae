"""Full disks, folders that go, things in the way: one line with the path and the reason, and no traceback."""

import errno
import logging
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from processes import FINETUNE, PRETRAIN, run_in_processes, run_script, script_target

from engine.checkpointing.io import write_checkpoint
from engine.config import RunConfig
from engine.distributed.world import World
from engine.errors import ConfigError, naming, user_errors
from engine.files import replace_text
from engine.monitoring.metrics import RunLog, setup_logging
from engine.resilience.lock import RunLock
from sigma_video.options import OptionError

HERE = World(0, 1, 0, torch.device("cpu"))


def limited(target, size):
    """`target` in a process whose files cannot get larger than this: writes fail as on a full disk."""

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        target()

    return run


def lines_of(target):
    (ended,) = run_in_processes(target)
    assert "Traceback" not in ended.stderr and "Logging error" not in ended.stderr, ended.stderr
    return ended


@pytest.mark.parametrize("name", ["log.txt", "console.txt", "run.json", "test.json", "bad_videos.txt", "run.lock"])
def test_a_folder_in_the_place_of_a_file_is_found_at_the_start(name, data, tmp_path):
    (tmp_path / name).mkdir()
    ended = run_script(PRETRAIN, *data.flags(PRETRAIN, tmp_path))
    assert ended.code == 2 and str(tmp_path / name) in ended.errors[0] and "in the way" in ended.errors[0]


@pytest.mark.parametrize("name", ["checkpoint-3.pth", "test_ema_predictions.npz"])
def test_folders_in_the_place_of_results_too(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} is in the way"):
        RunConfig(output_dir=str(tmp_path)).with_folders()


@pytest.mark.parametrize("make", [lambda path: RunConfig(output_dir=path).with_folders(), lambda path: lock(path)])
def test_a_name_that_is_no_folder(make, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output_dir .*/file: a file, not a folder"):
        make(str(tmp_path / "file"))
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"--output_dir .*/link: a link to .*/gone, where nothing is"):
        make(str(tmp_path / "link"))
    (tmp_path / "gone").mkdir()
    make(str(tmp_path / "link"))


def lock(path):
    held = RunLock(Path(path))
    held.acquire()
    held.release()


@pytest.mark.parametrize("flag", ["output_dir", "log_dir"])
def test_a_tilde_that_the_shell_left_is_no_folder(flag):
    with pytest.raises(OptionError, match=f"--{flag} ~/runs: shells expand '~'"):
        RunConfig(**{flag: "~/runs"})


def test_a_disk_that_is_full_at_the_start(tmp_path):
    def target():
        with user_errors():
            RunConfig(output_dir=str(tmp_path / "out")).with_folders()

    ended = lines_of(limited(target, 1000))
    assert (
        ended.code == 2
        and ended.stderr == f"error: --output_dir {tmp_path}/out: cannot be written to (File too large)\n"
    )


def test_the_reason_of_a_checkpoint_that_cannot_be_written(tmp_path):
    def target():
        with user_errors():
            write_checkpoint(tmp_path / "x.pth", {"model": torch.zeros(10_000)})

    ended = lines_of(limited(target, 8_000))
    assert ended.code == 2 and "File too large" in ended.stderr and "enforce fail" not in ended.stderr
    assert not [*tmp_path.glob("x.pth*")]  # what was written so far does not stay on the full disk


def test_a_log_that_fills_the_disk_ends_the_run_by_its_name(tmp_path):
    def target():
        with user_errors():
            log = RunLog(str(tmp_path), None, world=HERE)
            for step in range(1000):
                log.write(step, loss=1.0)

    ended = lines_of(limited(target, 5_000))
    assert ended.code == 2 and ended.stderr.startswith(
        f"error: {tmp_path}/log.txt could not be written: File too large"
    )


def test_a_run_goes_on_without_its_events_and_without_its_console_file(tmp_path):
    def target():
        setup_logging(HERE, str(tmp_path))
        logging.getLogger().handlers[0].setLevel(logging.WARNING)  # stderr is a file here, and limited too
        log = RunLog("", str(tmp_path / "events"), world=HERE)
        for step in range(3000):
            log.write(step, loss=1.0)
        for step in range(200):
            logging.getLogger("engine").info("step %d of a long run that says much", step)
        log.close()

    ended = lines_of(limited(target, 5_000))
    assert ended.code == 0
    for path in (f"--log_dir {tmp_path}/events: events", f"{tmp_path}/console.txt"):
        assert ended.stderr.count(f"{path} could not be written: File too large. The run goes on without") == 1


def test_an_output_folder_that_goes_while_the_run_trains(data, tmp_path):
    folder = tmp_path / "out"

    def target():
        write = RunLog.write

        def gone(self, step, **values):
            if step == 3:
                shutil.rmtree(folder)
            write(self, step, **values)

        RunLog.write = gone
        script_target(PRETRAIN, *data.flags(PRETRAIN, folder, epochs=4))()

    ended = lines_of(target)
    assert ended.code == 2 and ended.errors == [f"error: {folder}/log.txt: No such file or directory"]


def as_another_user(target):
    """In a process without the rights of root, and with a home that it may not read."""

    def run():
        os.environ["HOME"] = "/root"
        os.setgid(65534)
        os.setuid(65534)
        target()

    return run


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("what", ["train.csv", "labels.txt", "weights.pth", "output"])
def test_what_may_not_be_read_is_named(what, data, finetuned, tmp_path):
    for folder in (tmp_path, *tmp_path.parents, data.folder):
        if "pytest-" in str(folder):  # pytest's own are for their owner alone
            folder.chmod(0o755)
    for name in ("train", "val", "test"):
        shutil.copy(data.folder / f"{name}.csv", tmp_path)
    shutil.copy(finetuned / "checkpoint-0.pth", tmp_path / "weights.pth")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    (tmp_path / "output").mkdir(mode=0o755)
    flags = {"data_path": tmp_path, "output_dir": tmp_path / "output"}
    if what != "output":
        (tmp_path / "output").chmod(0o777)
        (tmp_path / what).chmod(0)
    if what == "weights.pth":
        flags["finetune"] = tmp_path / what
    target = script_target(FINETUNE, *data.flags(FINETUNE, **flags))

    "loads the codec, which that user may not".encode("utf-8-sig")

    def cached():
        os.environ["XDG_CACHE_HOME"] = str(tmp_path / "output" / "cache")
        target()

    ended = lines_of(as_another_user(cached))
    assert ended.code == 2 and len(ended.errors) == 1, ended.stderr
    assert str(tmp_path / what) in ended.errors[0]
    assert "ermission denied" in ended.errors[0] or "not readable by this user" in ended.errors[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EACCES, "Permission denied", "/home/other/.cache/x"),
            "error: /home/other/.cache/x: Permission denied",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", b"/a/b.json.tmp"),
            "error: /a/b.json could not be written: No sp",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "error: a file could not be written: Disk quota exceeded"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", Path("/gone")), "error: /gone: No such file"),
    ],
)
def test_errors_of_files_are_one_line(error, words, capsys):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise error
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(words)


def test_an_error_without_a_file_is_a_fault_of_the_code():
    with pytest.raises(OSError, match="strange"), user_errors():
        raise OSError("strange")


def test_output_that_nobody_reads_any_more_ends_the_program_without_a_word(monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        os.close(reading)
        with pytest.raises(SystemExit) as ended, user_errors():
            print("a line")  # noqa: T201
        print("and one at the exit", flush=True)  # noqa: T201
    assert ended.value.code == 128 + signal.SIGPIPE
    with pytest.raises(BrokenPipeError), user_errors():  # of something else
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_name_is_given_to_errors_that_have_none():
    with pytest.raises(OSError, match="/x") as raised, naming("/x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == "/x"
    with pytest.raises(OSError, match="/y"), naming("/x"):
        raise OSError(errno.ENOSPC, "No space left on device", "/y")


def test_text_that_cannot_be_replaced_leaves_the_old_and_no_remains(tmp_path):
    file = tmp_path / "run.json"
    replace_text(file, "old")

    def target():
        with user_errors():
            replace_text(file, "new" * 1000)

    ended = lines_of(limited(target, 1000))
    assert ended.code == 2 and str(file) in ended.stderr and ".tmp" not in ended.stderr
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
