"""J and F: equal to davis2017-evaluation's on random masks, and hand-worked cases."""

import importlib.util
import json

import numpy as np
import pytest
from processes import ROOT
from scipy.ndimage import binary_dilation

from evaluation.segmentation.j_and_f import boundary, contour, region, score_objects, statistics

GOLDEN = ROOT / "tests" / "golden"
spec = importlib.util.spec_from_file_location("golden_j_and_f", GOLDEN / "j_and_f.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


def test_numbers_of_davis2017_evaluation():
    rows = json.loads((GOLDEN / "j_and_f.json").read_text())
    found = list(golden.sequences())
    assert len(found) == len(rows) == 16
    for (predicted, truth), row in zip(found, rows, strict=True):
        j = np.array([region(p, t) for p, t in zip(predicted, truth, strict=True)])
        f = np.array([boundary(p, t) for p, t in zip(predicted, truth, strict=True)])
        np.testing.assert_allclose(j, row["j"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(f, row["f"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(statistics(j), row["j_statistics"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(statistics(f), row["f_statistics"], rtol=0, atol=1e-12)
    values = np.concatenate([row["f"] for row in rows])
    assert {0.0, 1.0} < set(values.tolist())  # empty masks, and everything between


def test_a_mask_and_itself_shifted():
    truth = np.zeros((480, 854), bool)
    truth[100:300, 200:500] = True
    assert region(truth, truth) == boundary(truth, truth) == 1
    shifted = np.roll(truth, 8, axis=1)
    assert region(shifted, truth) == pytest.approx(292 / 308)
    assert boundary(shifted, truth) == 1  # the tolerance is 8 pixels at this size
    assert boundary(np.roll(truth, 9, axis=1), truth) < 1


def test_empty_masks():
    empty, full = np.zeros((20, 30), bool), np.ones((20, 30), bool)
    dot = empty.copy()
    dot[5, 5] = True
    assert region(empty, empty) == boundary(empty, empty) == 1
    assert region(empty, dot) == region(dot, empty) == boundary(empty, dot) == boundary(dot, empty) == 0
    assert not contour(full).any()  # the image's edge is no boundary


def test_tolerance_is_a_disk():
    """Distances against a dilation with a disk."""
    random = np.random.RandomState(1)
    predicted, truth = (golden.blobs(random, 120, 214, 3) for _ in range(2))
    radius = int(np.ceil(0.008 * np.hypot(120, 214)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = y**2 + x**2 <= radius**2
    lines = contour(predicted), contour(truth)
    precision = (lines[0] & binary_dilation(lines[1], disk)).sum() / lines[0].sum()
    recall = (lines[1] & binary_dilation(lines[0], disk)).sum() / lines[1].sum()
    assert boundary(predicted, truth) == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)


def test_first_and_last_frame_do_not_count():
    truth = np.zeros((5, 20, 20), np.uint8)
    truth[:, 3:9, 3:9], truth[:, 12:16, 3:9] = 1, 2
    predicted = truth.copy()
    predicted[[0, -1]] = 0
    scores = score_objects(predicted, truth, (1, 2))
    assert all(score.j.tolist() == score.f.tolist() == [1, 1, 1] for score in scores.values())
    predicted[2][truth[2] == 2] = 0
    assert score_objects(predicted, truth, (1, 2))[2].j.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="at least 3"):
        score_objects(truth[:2], truth[:2], (1,))
