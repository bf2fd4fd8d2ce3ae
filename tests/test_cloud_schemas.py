"""The examples for SkyPilot and Kubeflow against the schemas of these programs.

Neither goes together with the other packages (SkyPilot wants an older `click`), so `.ci/run` runs this file in an
environment of its own; it uses nothing of this project:

    python -m pytest --noconftest tests/test_cloud_schemas.py
"""

from pathlib import Path

import pytest

CLOUD = Path(__file__).parents[1] / "scripts" / "cloud"


def test_skypilot_takes_the_task(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # it writes there when it is imported
    monkeypatch.chdir(CLOUD.parents[1])
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
    text = (CLOUD / "skypilot.yaml").read_text()
    task = sky.Task.from_yaml_config(_load(text))
    [resources] = task.resources
    assert (task.num_nodes, resources.use_spot, resources.accelerators) == (2, True, {"H100": 8})
    assert set(task.storage_mounts) == {"/data", "/output"}
    with pytest.raises(Exception, match="acelerators"):
        sky.Task.from_yaml_config(_load(text.replace("accelerators", "acelerators")))


def test_kubeflow_takes_the_job():
    """Fields that the models do not know are dropped by them: what comes out is what went in, or there were some."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed")
    job = _load((CLOUD / "trainjob.yaml").read_text())
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    job["spec"]["trainer"]["numNode"] = 2
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() != job
    job["spec"]["trainer"]["numNodes"] = "two"
    with pytest.raises(ValueError, match="numNodes"):
        models.TrainerV1alpha1TrainJob.from_dict(job)


def _load(text):
    import yaml  # which SkyPilot brings

    return yaml.safe_load(text)
