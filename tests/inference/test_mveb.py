"""MVEB: mteb gets the features of `VideoModel.features`, and scores them."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from processes import ROOT, run_script

HAS_MTEB = importlib.util.find_spec("mteb") is not None


@pytest.mark.skipif(HAS_MTEB, reason="mteb is installed")
def test_without_mteb_the_error_says_what_to_install(tmp_path):
    finished = run_script("scripts/mveb.py", tmp_path / "c.pth", "HMDB51Classification", tmp_path / "out")
    assert finished.code == 2 and not (tmp_path / "out").exists()
    assert finished.stderr.startswith('error: MVEB needs mteb: pip install "mteb')


@pytest.mark.long
@pytest.mark.skipif(not HAS_MTEB, reason="mteb is not installed")
def test_tiny_tasks_of_every_kind(pretrained, data, tmp_path):
    """From videos that a table holds as files and as bytes, of any batch size; every file of results is there."""
    program = [sys.executable, ROOT / "tests/inference/mveb_tasks.py"]
    videos = data.videos[:6]
    words, environment = [pretrained / "checkpoint-0.pth", tmp_path, *videos], os.environ | {"HF_HUB_OFFLINE": "1"}
    finished = subprocess.run([*program, *words], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert finished.returncode == 0, finished.stderr
    *said, last = finished.stdout.splitlines()
    found = json.loads(last)
    expected = np.array(found["expected"])
    assert expected.shape == (6, 128) and len(found["calls"]) == 5
    train, test, cluster, first, second = map(np.array, found["calls"])
    for embeddings in (test, cluster, first):
        np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, np.roll(expected, -2, axis=0), rtol=1e-5, atol=1e-6)
    assert all(np.isclose(expected, row, rtol=1e-5, atol=1e-6).all(axis=1).any() for row in train)
    assert len(np.unique(expected.round(4), axis=0)) == 6
    assert {file.stem for file in tmp_path.rglob("Tiny*.json")} == found["scores"].keys() and len(found["scores"]) == 3

    assert said[-1] == f"TinyClassification: {found['scores']['TinyClassification']:.4f}"
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    for line, part in zip(errors, ("Did you mean: 'HMDB51Clas", "HMDB51ZeroShot needs text", "HMDB51"), strict=True):
        assert part in line, errors
    (meta,) = (
        json.loads(file.read_text()) for file in tmp_path.rglob("model_meta.json") if "tests" in str(file.parent)
    )
    assert meta["modalities"] == ["video"] and meta["experiment_kwargs"]["views"] == "2x1"
