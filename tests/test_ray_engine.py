"""Data tools and features on a real Ray of two workers: the same results as with processes, after every misfortune."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from misbehaving import misbehave
from processes import ROOT, run_script

from datasets.lists.read import read_list
from engine.errors import ConfigError
from inference import features
from scripts import extract_features
from scripts.data import check, reencode, shard
from scripts.data.engines import ENGINES
from scripts.data.processes import Task
from scripts.data.ray_engine import connected, run_with_ray

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow  # a Ray takes ten seconds to start, a worker several
TOOLS = {"check": check, "reencode": reencode, "shard": shard}


@pytest.fixture(scope="module")
def ray():
    with connected(2, gpus=2) as module:  # Ray believes in these GPUs; nothing here uses one
        yield module


def results(engine, works, *, timeout=60, workers=2):
    tasks = [Task(str(place), work) for place, work in enumerate(works)]
    return {task.key: result for task, result in ENGINES[engine](tasks, misbehave, workers=workers, timeout=timeout)}


def test_a_crash_and_a_hang_cost_one_result_each_and_are_named_as_by_processes(ray):
    works = ["1", "crash", "2", "hang", "3", "segfault", "4"]
    made = results("ray", works, timeout=4)
    assert made == results("processes", works, timeout=4)
    assert [made[key].get("did") for key in ("0", "2", "4", "6")] == ["1", "2", "3", "4"]
    assert "SIGKILL" in made["1"]["error"] and "hangs" in made["3"]["error"] and "SIGSEGV" in made["5"]["error"]


def test_a_task_that_takes_the_ray_workers_with_it_is_given_up(ray):
    made = results("ray", ["1", "parent", "2", "3"])
    assert [made[key].get("did") for key in ("0", "2", "3")] == ["1", "2", "3"]
    assert made["1"] == {"error": "the Ray worker or machine that worked on it died, 3 times"}


def test_bugs_and_full_disks_stop_a_job(ray):
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        results("ray", ["bug"])
    with pytest.raises(ConfigError, match=r"/disk/x\.mp4: No space left"):
        results("ray", ["full"])
    assert results("ray", []) == {}


def test_workers_without_a_cpu_do_not_hold_up_the_others(ray):
    """On a cluster that is smaller than --workers."""
    made = results("ray", ["pid"] * 12, workers=6)
    assert len(made) == 12
    assert 1 <= len({result["did"] for result in made.values()}) <= 2


def test_a_process_that_needs_a_gpu_has_one_of_its_own(ray):
    tasks = [Task(str(place), "gpu") for place in range(12)]
    results = list(run_with_ray(tasks, misbehave, workers=2, timeout=60, gpus=2))
    assert {result["did"] for _, result in results} <= {"0", "1"} and len(results) == 12


# ------------------------------------------------------------------------------------------------- the tools


@pytest.fixture(scope="module")
def videos(data, tmp_path_factory):
    """A list of good videos with two bad ones between them."""
    folder = tmp_path_factory.mktemp("listed")
    (folder / "text.mp4").write_text("<html>404 not found</html>")
    paths = [*data.videos[:2], folder / "text.mp4", *data.videos[2:4], folder / "missing.mp4"]
    (folder / "train.csv").write_text("".join(f"{path} {place}\n" for place, path in enumerate(paths)))
    return folder / "train.csv"


def run(tool, videos, out, *words):
    where = ["--out", str(out), "--samples", "0"] if tool == "check" else [str(out)]
    TOOLS[tool].main([str(videos), *where, "--workers", "2", *words])


def outputs(folder):
    """All final files of a job by name, and its results without their order and time."""
    made = {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(str(folder).encode(), b"OUT")
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("results-")
    }
    lines = (folder / "results-1of1.jsonl").read_text().replace(str(folder), "OUT").splitlines()
    found = sorted(({**json.loads(line), "at": 0} for line in lines), key=lambda result: result["key"])
    return made, found


@pytest.mark.parametrize("tool", TOOLS)
def test_files_and_lines_are_those_of_processes(tool, ray, videos, tmp_path, capsys):
    told = {}
    for engine in ENGINES:
        run(tool, videos, tmp_path / engine, "--engine", engine)
        told[engine] = capsys.readouterr().out.replace(str(tmp_path / engine), "OUT")
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "processes")
    assert told["ray"] == told["processes"]
    assert read_list(tmp_path / "ray" / "train.csv").paths
    run(tool, videos, tmp_path / "ray", "--engine", "ray")  # has nothing to do, and changes nothing
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "processes")


def test_what_was_lost_is_made_again(ray, videos, tmp_path):
    run("reencode", videos, tmp_path, "--engine", "ray")
    before, _ = outputs(tmp_path)
    victims = sorted((tmp_path / "videos").rglob("*.mp4"))[:2]
    victims[0].unlink()
    victims[1].write_bytes(victims[1].read_bytes()[:-9])
    lines = (tmp_path / "results-1of1.jsonl").read_text().splitlines()
    run("reencode", videos, tmp_path, "--engine", "ray")
    assert outputs(tmp_path)[0] == before
    assert len((tmp_path / "results-1of1.jsonl").read_text().splitlines()) == len(lines) + 2


def test_features_are_those_of_one_process_to_the_bit(ray, pretrained, data, tmp_path, monkeypatch, capsys):
    """From a part that is there; relative paths are those of the command's folder. A bad video is named."""
    monkeypatch.setattr(features, "SHARD", 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    for place, video in enumerate(data.videos[:5]):
        (tmp_path / "bad" / f"{place}.mp4").symlink_to(video)
    (tmp_path / "bad" / "3.mp4").unlink()
    (tmp_path / "bad" / "3.mp4").write_text("<html>404 not found</html>")
    words = ["--batch_size", "2", "--device", "cpu", "--num_workers", "0"]
    command = [str(pretrained / "checkpoint-0.pth"), str(data.folder / "test.csv")]
    alone = run_script("scripts/extract_features.py", *command, "alone", *words, cwd=tmp_path)
    assert alone.code == 0, alone.stderr
    extract_features.main([*command, "out", *words, "--part", "2/4"])
    extract_features.main([*command, "out", *words, "--engine", "ray", "--workers", "2"])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"features.npy", "index.csv", "meta.json"}
    for file in (tmp_path / "alone").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        extract_features.main([command[0], "bad", "of_bad", *words, "--engine", "ray", "--workers", "1"])
    assert re.fullmatch(r"error: rows 2 to 3: bad/3\.mp4: .*", capsys.readouterr().err.splitlines()[-1])
    assert [file.name for file in (tmp_path / "of_bad").glob("rows-*")] == ["rows-00000000-00000002.npy"]


# ------------------------------------------------------------------------------------------------- a Ray of its own


@pytest.fixture
def ray_folder():
    """Where the Ray of a command keeps its files; also what its processes are known by."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # its sockets' paths must be short
    yield folder
    shutil.rmtree(folder)


def processes_of(folder):
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"RAY_TMPDIR={folder}\0".encode() in environment.read_bytes():
                found.append(environment.parent.name)
    return found


def test_ctrl_c_ends_a_command_and_all_of_its_ray_and_the_same_command_resumes(data, ray_folder, tmp_path):
    copies = [tmp_path / f"{place}.mp4" for place in range(40)]
    for place, path in enumerate(copies):
        path.symlink_to(data.videos[place % 12])
    (tmp_path / "all.csv").write_text("".join(f"{path} 0\n" for path in copies))
    out = tmp_path / "out"
    words = [sys.executable, ROOT / "scripts/data/reencode.py", tmp_path / "all.csv", out, "--engine", "ray"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(ray_folder)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    start = {"env": environment, "cwd": tmp_path, "start_new_session": True, **streams}
    running = subprocess.Popen([*words, "--workers", "2"], **start)
    results = out / "results-1of1.jsonl"
    while not (results.exists() and results.stat().st_size) and running.poll() is None:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "Traceback" not in told
    deadline = time.monotonic() + 20
    while processes_of(ray_folder):
        assert time.monotonic() < deadline, processes_of(ray_folder)
        time.sleep(0.1)
    assert not list(ray_folder.iterdir())
    before = results.read_bytes()
    assert 0 < before.count(b"\n") < len(copies)

    finished = subprocess.run([*words, "--workers", "2"], timeout=300, **{**start, "check": True})
    assert re.search(rf"{before.count(10)} of 40 were done before", finished.stderr)
    assert results.read_bytes().startswith(before)
    keys = [json.loads(line)["key"] for line in results.read_text().splitlines()]
    assert sorted(keys) == sorted(map(str, copies))
    assert len(read_list(out / "all.csv").paths) == 40
    assert not list(out.rglob("*.partial"))
    assert not re.search(r"raylet|WARNING|INFO|usage", finished.stdout + finished.stderr)
