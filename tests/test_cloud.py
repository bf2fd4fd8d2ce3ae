"""The examples for SkyPilot and Kubeflow: their commands, as these programs start them, mean what they should."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from processes import PRETRAIN, ROOT
from torch.distributed.run import get_args_parser

from engine.flags import build_parser
from run_sigma_pretraining import PretrainingConfig

SKYPILOT, TRAINJOB = (ROOT / "scripts" / "cloud" / name for name in ("skypilot.yaml", "trainjob.yaml"))


def launched(words):
    """What torchrun makes of its words, and our script of the rest."""
    launch = get_args_parser().parse_args(words)
    assert Path(launch.training_script).name == PRETRAIN
    return launch, build_parser(PretrainingConfig).parse_args(launch.training_script_args)


def check_resumable(launch, flags):
    assert launch.max_restarts > 0 and launch.shutdown_timeout < 120
    assert flags.output_dir == flags.log_dir != ""
    assert flags.auto_resume and flags.device == "cuda"
    assert flags.save_ckpt_freq <= 5


@pytest.mark.parametrize("rank", [0, 1])
def test_skypilot_starts_torchrun_with_its_variables(rank, tmp_path):
    task = yaml.safe_load(SKYPILOT.read_text())
    torchrun = tmp_path / ".venv" / "bin" / "torchrun"
    torchrun.parent.mkdir(parents=True)
    torchrun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    torchrun.chmod(0o755)
    given = {  # docs.skypilot.co: distributed jobs on many nodes
        "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8",
    }
    environment = {"PATH": os.environ["PATH"], **given, **task["envs"]}
    shown = subprocess.run(
        ["bash", "-c", task["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    launch, flags = launched(shown.stdout.splitlines())
    assert (launch.nnodes, launch.node_rank, launch.nproc_per_node) == ("2", rank, "8")
    assert (launch.master_addr, launch.master_port) == ("10.0.0.7", 29500)
    assert flags.data_path == task["envs"]["DATA_PATH"]
    check_resumable(launch, flags)
    mounts = [folder for folder, mount in task["file_mounts"].items() if flags.output_dir.startswith(folder + "/")]
    assert [task["file_mounts"][folder]["mode"] for folder in mounts] == ["MOUNT_CACHED"]
    assert any(flags.data_path.startswith(folder + "/") for folder in task["file_mounts"])
    assert task["resources"]["use_spot"]


@pytest.mark.parametrize("rank", [0, 1])
def test_kubeflow_starts_torchrun_with_its_variables(rank, monkeypatch):
    spec = yaml.safe_load(TRAINJOB.read_text())["spec"]
    trainer = spec["trainer"]
    given = {  # trainer.kubeflow.org: the distributed environment of PyTorch
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "sigma-pretrain-node-0-0.sigma-pretrain",
        "PET_MASTER_PORT": "29400",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert trainer["command"][0] == "torchrun"
    launch, flags = launched([*trainer["command"][1:], *trainer["args"]])
    assert (launch.nnodes, launch.node_rank, launch.nproc_per_node) == ("2", rank, "8")
    assert (launch.master_addr, launch.master_port) == (given["PET_MASTER_ADDR"], 29400)
    check_resumable(launch, flags)
    [job] = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    places = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert all(any(path.startswith(f"{place}/") for place in places) for path in (flags.data_path, flags.output_dir))
    assert pod["terminationGracePeriodSeconds"] > launch.shutdown_timeout
    gpus = trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert gpus == str(trainer["numProcPerNode"])
