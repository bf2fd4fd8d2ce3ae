"""The templates under a real slurm: `bash scripts/test.sh -m slurm tests/slurm`. Every job leaves no process behind
(`Cluster.wait`). The ones that are also marked long are left out in continuous integration."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from processes import FINETUNE, PRETRAIN, run_script
from runs import load, records, same

pytestmark = pytest.mark.slurm

LONG = {"epochs": 40, "batch_size": 1, "save_ckpt_freq": 1000}  # 240 updates
WHO = (
    "import os, sys; from engine.distributed.launch import read_launch_env as f; "
    "sys.stdout.write(str(f(os.environ)) + chr(10))"
)


def last_checkpoint(folder, epochs):
    return load(folder / f"checkpoint-{epochs - 1}.pth")


@pytest.fixture(scope="module")
def short_run(data, tmp_path_factory):
    """Pre-training in two processes without slurm."""
    folder = tmp_path_factory.mktemp("short")
    assert [rank.code for rank in run_script(PRETRAIN, *data.flags(PRETRAIN, folder, batch_size=2), size=2)] == [0, 0]
    return folder


@pytest.fixture(scope="module")
def long_run(data, tmp_path_factory):
    """One that is not interrupted."""
    folder = tmp_path_factory.mktemp("long")
    assert [rank.code for rank in run_script(PRETRAIN, *data.flags(PRETRAIN, folder, **LONG), size=2)] == [0, 0]
    return folder


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
@pytest.mark.parametrize("nodes", [pytest.param(1, marks=pytest.mark.long), 2])
def test_pretraining_computes_what_it_does_without_slurm(launcher, nodes, cluster, data, short_run, tmp_path):
    options = ["--nodes", nodes, "--ntasks-per-node", 2 // nodes]
    flags = data.flags(PRETRAIN, batch_size=2)
    variables = {"OUTPUT_DIR": tmp_path / "run", "LAUNCHER": launcher}
    job = cluster.submit("pretrain.sbatch", tmp_path / "out", *flags, options=options, **variables)
    assert cluster.wait(job)["JobState"] == "COMPLETED", (tmp_path / "out").read_text()
    got, expected = last_checkpoint(tmp_path / "run", 2), last_checkpoint(short_run, 2)
    assert same(got["model"], expected["model"]) and same(got["optimizer"], expected["optimizer"])
    text = (tmp_path / "out").read_text()
    assert text.count("total batch") == 1 and "ranks 2" in text


def test_sweep_and_its_evaluation(cluster, data, tmp_path):
    """Learning rates and seeds over an array of one-process jobs; then all results are tested again."""
    sweep = {"SEEDS": "3 4", "LRS": "1e-3 1e-1", "OUTPUT_DIR": tmp_path}
    flags = data.flags(FINETUNE, epochs=1, warmup_epochs=0)
    options = ["--ntasks-per-node=1", "--array=0-3"]
    array = cluster.submit("finetune.sbatch", tmp_path / "out-%a", *flags, options=options, **sweep)
    for task in range(4):
        assert cluster.wait(f"{array}_{task}")["JobState"] == "COMPLETED", (tmp_path / f"out-{task}").read_text()
    folders = [tmp_path / f"lr{lr}" / f"seed{seed}" for lr in ("1e-3", "1e-1") for seed in (3, 4)]
    runs = [json.loads((folder / "run.json").read_text())[-1]["args"] for folder in folders]
    assert [(run["lr"], run["seed"]) for run in runs] == [(1e-3, 3), (1e-3, 4), (1e-1, 3), (1e-1, 4)]
    results = [json.loads((folder / "test.json").read_text()) for folder in folders]
    assert len({result["test/loss"] for result in results}) == 4

    options = ["--ntasks-per-node=2", "--array=1,2"]
    array = cluster.submit("eval.sbatch", tmp_path / "eval-%a", *flags, options=options, **sweep)
    for task in (1, 2):
        assert cluster.wait(f"{array}_{task}")["JobState"] == "COMPLETED", (tmp_path / f"eval-{task}").read_text()
        tested = json.loads((folders[task] / "test.json").read_text())
        assert tested["weights"][""]["file"] == str(folders[task] / "checkpoint-0.pth")
        for name in ("test/top1", "test/top5", "videos", "views"):
            assert tested[name] == results[task][name]
        assert tested["test/loss"] == pytest.approx(results[task]["test/loss"], abs=1e-5)


def test_a_recipe(cluster, data, tmp_path):
    """Its flags and its total batch, those of the command line behind them."""
    flags = data.flags(PRETRAIN, batch_size=None, data_path=None)
    variables = {"RECIPE": "ssv2_videomae_vit_b", "DATA_PATH": data.pretrain_list, "BATCH_SIZE": 1024}
    options = ["--nodes=2", "--ntasks-per-node=1"]
    job = cluster.submit(
        "pretrain.sbatch", tmp_path / "out", *flags, options=options, OUTPUT_DIR=tmp_path / "run", **variables
    )
    assert cluster.wait(job)["JobState"] == "FAILED"
    assert "the list has 12 videos, fewer than the 2048 of one batch over all ranks" in (tmp_path / "out").read_text()


def test_an_array_larger_than_the_sweep_is_refused(cluster, tmp_path):
    array = cluster.submit("pretrain.sbatch", tmp_path / "out", options=["--array=2"], SEEDS="0 1", OUTPUT_DIR=tmp_path)
    assert cluster.wait(f"{array}_2")["ExitCode"] == "2:0"
    assert "error: task 2 of the array, but SEEDS='0 1'" in (tmp_path / "out").read_text()


def steps_done(folder):
    return len(records(folder)) if (folder / "log.txt").exists() else 0


def let_it_make(steps, cluster, job, folder):
    """Wait until a running job has logged more than so many steps."""
    cluster.until(lambda: steps_done(folder) > steps or cluster.show(job)["JobState"] == "FAILED", f"{steps} steps")
    assert steps_done(folder) > steps, f"job {job} has failed"


@pytest.mark.parametrize(
    ("launcher", "times", "options"),
    [
        pytest.param("srun", 2, ["--nodes=1", "--ntasks-per-node=2"], marks=pytest.mark.long),
        ("srun", 1, ["--nodes=2", "--ntasks-per-node=1", "--array=1"]),
        pytest.param("torchrun", 1, ["--nodes=2", "--ntasks-per-node=1"], marks=pytest.mark.long),
    ],
    ids=["srun", "srun, array, two nodes", "torchrun, two nodes"],
)
def test_preempted_requeued_and_gone_on_exactly(launcher, times, options, cluster, data, long_run, tmp_path):
    folder, out = tmp_path / "seed0", tmp_path / "out"
    flags = data.flags(PRETRAIN, **{**LONG, "num_workers": 1})
    variables = {"OUTPUT_DIR": tmp_path, "LAUNCHER": launcher, "SEEDS": "7 0" if "--array=1" in options else "0"}
    number = cluster.submit("pretrain.sbatch", out, *flags, options=options, **variables)
    task = "_1" if "--array=1" in options else ""
    name = number + task
    for stop in range(1, times + 1):
        let_it_make(steps_done(folder) + 20, cluster, name, folder)
        cluster.call("scancel", "--signal=USR1", name)
        cluster.until(lambda: cluster.show(name)["Restarts"] == str(stop), f"requeue {stop}")  # noqa: B023
    shown = cluster.wait(name)
    text = out.read_text()
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", str(times)), text
    assert text.count(f"scontrol requeue {name}: slurm will restart this job") == times
    assert len(re.findall("resumed from .* steps done", text)) == times
    assert [row["step"] for row in records(folder)] == list(range(1, 241))
    losses = [[row["train/loss"] for row in records(run)] for run in (folder, long_run)]
    assert losses[0] == losses[1]
    got, expected = last_checkpoint(folder, 40), last_checkpoint(long_run, 40)
    assert all(same(got[part], expected[part]) for part in ("model", "optimizer", "rng"))

    again = cluster.submit("pretrain.sbatch", tmp_path / "again", *flags, options=options, **variables)
    assert cluster.wait(again + task)["JobState"] == "COMPLETED"
    assert "training is finished already" in (tmp_path / "again").read_text()
    assert steps_done(folder) == 240


def test_cancelled_saves_and_stays_cancelled(cluster, data, tmp_path):
    job = cluster.submit(
        "pretrain.sbatch", tmp_path / "out", *data.flags(PRETRAIN, **LONG), OUTPUT_DIR=tmp_path / "run"
    )
    let_it_make(5, cluster, job, tmp_path / "run")
    cluster.call("scancel", job)
    shown = cluster.wait(job)
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "0")
    assert "stopped by SIGTERM" in (tmp_path / "out").read_text()
    assert [path.stem.startswith("checkpoint-") for path in (tmp_path / "run").glob("*.pth")] == [True]


@pytest.mark.parametrize("launcher", ["srun", pytest.param("torchrun", marks=pytest.mark.long)])
def test_a_rank_that_dies_ends_the_job(launcher, cluster, data, tmp_path):
    variables = {"OUTPUT_DIR": tmp_path / "run", "LAUNCHER": launcher}
    options = ["--nodes=2", "--ntasks-per-node=1"]
    flags = data.flags(PRETRAIN, **LONG)
    job = cluster.submit("pretrain.sbatch", tmp_path / "out", *flags, options=options, **variables)
    let_it_make(5, cluster, job, tmp_path / "run")
    tasks = cluster.processes(job, SLURM_PROCID=1, SLURM_STEP_ID=0)
    victims = [pid for pid in tasks if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].endswith(b".py")]
    os.kill(victims[0], signal.SIGKILL)
    shown = cluster.wait(job)
    assert shown["JobState"] == "FAILED" and shown["ExitCode"] != "0:0" and shown["Restarts"] == "0"


def test_who_a_process_is(cluster, tmp_path):
    """What `read_launch_env` makes of the variables that this slurm really sets."""
    who = f"{sys.executable} -c '{WHO}'"
    options = ["--nodes=2", "--ntasks-per-node=2"]
    alone = "LaunchEnv(rank=0, size=1, local_rank=0, launcher='python', master_addr='', master_port=0)"
    assert cluster.run(tmp_path / "batch", who, options=options).splitlines() == [alone]
    assert cluster.run(tmp_path / "one", f"srun -N1 -n1 {who}", options=options).splitlines()[-1] == alone

    job, *lines = cluster.run(tmp_path / "step", f"echo $SLURM_JOB_ID; srun {who}", options=options).splitlines()
    port = 12000 + int(job)
    ranks = [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert sorted(lines) == [
        f"LaunchEnv(rank={rank}, size=4, local_rank={local}, launcher='srun', master_addr='127.0.0.2', "
        f"master_port={port})"
        for rank, local in ranks
    ]
    assert cluster.run(tmp_path / "part", f"srun -N1 -n2 {who}", options=options).count("size=2") == 2

    nested = tmp_path / "nested.sh"
    nested.write_text(f"#!/bin/bash\n{who} >{tmp_path}/nested.tmp; mv {tmp_path}/nested.tmp {tmp_path}/nested\n")
    submit = f'srun -N1 -n2 bash -c "[ \\$SLURM_PROCID = 1 ] || sbatch -n1 --output=/dev/null {nested}"'
    cluster.run(tmp_path / "outer", submit, options=options)
    cluster.until(lambda: (tmp_path / "nested").exists(), "the job submitted from a step")
    assert (tmp_path / "nested").read_text().splitlines() == [alone]


def test_what_slurm_shows_of_gpus(cluster, tmp_path):
    """With --gpus-per-task each task has one of its own, number 0 for torch; with --gpus-per-node all see all."""
    show = """srun bash -c 'echo "$SLURM_LOCALID $CUDA_VISIBLE_DEVICES"' | sort"""
    options = ["--nodes=1", "--ntasks-per-node=2"]
    each = cluster.run(tmp_path / "each", show, options=[*options, "--gpus-per-task=1"]).splitlines()
    both = cluster.run(tmp_path / "both", show, options=[*options, "--gpus-per-node=2"]).splitlines()
    assert (each, both) == (["0 0", "1 1"], ["0 0,1", "1 0,1"])
