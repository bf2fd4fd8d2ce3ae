"""Help of the tools, and the array job that runs them on a cluster."""

import os
import re
import subprocess

import pytest
from data_tools import TOOLS
from processes import ROOT

from scripts.data import browse, check, prepare, reencode, shard


def test_the_array_job_uses_what_exists():
    script = ROOT / "scripts" / "slurm" / "prepare.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    known = set.intersection(*(set(tool.parser()._option_string_actions) for tool in TOOLS.values()))
    commands = [
        line for line in script.read_text().splitlines() if "scripts/data/$tool.py" in line or "part=(--" in line
    ]
    assert len(commands) == 2
    assert set(re.findall(r"(?<=[( ])--\w+", " ".join(commands))) == {"--workers", "--part"} <= known
    assert "--merge" in known


def test_the_array_job_gives_every_task_its_part(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "4", "PATH": os.environ["PATH"]}
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"}
    for environment, more in ((slurm, ""), ({**slurm, **array}, " --part 3/8")):
        command = ["bash", ROOT / "scripts" / "slurm" / "prepare.sbatch", "check", "a list.csv"]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert shown.strip() == "scripts/data/check.py a list.csv --workers 4" + more


@pytest.mark.parametrize("tool", [prepare, check, reencode, shard, browse])
def test_help(tool, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--help"])
    assert stopped.value.code == 0
    assert len(capsys.readouterr().out) > 500
