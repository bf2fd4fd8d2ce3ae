"""Tasks: losses, metrics and tables equal those of scikit-learn and SciPy; what a test writes reads back."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    mean_absolute_error,
    precision_score,
    r2_score,
    recall_score,
    root_mean_squared_error,
)

from engine.errors import ConfigError
from engine.tasks.classification import Classification
from engine.tasks.multilabel import Multilabel
from engine.tasks.regression import Regression, scale_of
from engine.tasks.results import write_results
from engine.tasks.scores import average_precision, r_squared, spearman
from engine.tasks.task import Selection, VideoPredictions

NAMES = ["run, fast", 'a "jump"', "fall", "é"]


def batch_of(outputs, labels):
    return SimpleNamespace(clip=torch.as_tensor(outputs), label=torch.as_tensor(labels))


def predictions_of(views, targets):
    views = np.asarray(views)
    return VideoPredictions(views.mean(axis=1), np.asarray(targets), views)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_average_precision_equals_scikit_learn_also_with_equal_scores(rng):
    for values in (1000, 5, 2, 1):
        scores, truth = rng.integers(values, size=60) / values, rng.random(60) < 0.3
        assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))
    assert average_precision(np.array([0.3]), np.array([True])) == 1


def test_correlations_equal_scipy_and_scikit_learn(rng):
    for values in (1000, 4):
        predicted, targets = rng.integers(values, size=50) / 7.0, rng.integers(values, size=50) / 3.0
        assert spearman(predicted, targets) == pytest.approx(spearmanr(predicted, targets).statistic)
        assert r_squared(predicted, targets) == pytest.approx(r2_score(targets, predicted))
    assert spearman(np.ones(4), np.arange(4.0)) is None and r_squared(np.arange(4.0), np.full(4, 0.1)) is None


def test_multilabel_metrics_leave_out_classes_that_no_video_has(rng):
    truth = (rng.random((40, 4)) < 0.3).astype(np.int64)
    truth[:, 2] = 0
    task, found = Multilabel(class_names=NAMES), predictions_of(rng.random((40, 3, 4)), truth)
    metrics = task.metrics(found)
    here = [0, 1, 3]
    expected = average_precision_score(truth[:, here], found.scores[:, here], average="macro")
    assert metrics["mAP"] == pytest.approx(100 * expected) and metrics["classes"] == 3
    assert "over 3 classes, without 1 that no video has (fall)" in task.describe(metrics, found)
    p = found.scores
    assert metrics["loss"] == pytest.approx(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean())
    rows = list(task.class_tables(found)["classes"].rows)
    assert [row[3] == "" for row in rows] == [False, False, True, False]
    chosen = found.scores > 0.5
    assert rows[0][5] == pytest.approx(100 * precision_score(truth[:, 0], chosen[:, 0]), abs=1e-3)
    assert rows[0][6] == pytest.approx(100 * recall_score(truth[:, 0], chosen[:, 0]), abs=1e-3)


def test_mean_per_class_beside_what_the_released_code_gives():
    """Four videos of class 0, one right; two of class 1, both right; none of class 2; one of class 3, wrong.

    Per class 1/4, 1, 0, and of the classes so far 1/4, 3/6, 3/7.
    """
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 3]), [0, 1, 2, 3, 1, 1, 0]
    found = predictions_of(np.eye(4)[predicted][:, None], labels)
    metrics = Classification(with_cumulative=True).metrics(found)
    assert metrics["mean_per_class"] == pytest.approx(100 * (1 / 4 + 1 + 0) / 3)
    assert metrics["legacy_cumulative"] == pytest.approx(100 * (1 / 4 + 3 / 6 + 3 / 7) / 3)
    assert metrics["top1"] == pytest.approx(100 * 3 / 7)
    assert "legacy_cumulative" not in Classification().metrics(found)


def test_regression_metrics_equal_scikit_learn(rng):
    targets = rng.normal(1.7e9, 30, size=25)
    found = predictions_of(targets[:, None, None] + rng.normal(size=(25, 4, 1)) * 20, targets)
    metrics, mean = Regression(loss="mse", target_scale=[0, 1]).metrics(found), found.scores[:, 0]
    assert metrics["mae"] == pytest.approx(mean_absolute_error(targets, mean))
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(targets, mean))
    assert metrics["r2"] == pytest.approx(r2_score(targets, mean))
    assert metrics["spearman"] == pytest.approx(spearmanr(targets, mean).statistic)


@pytest.mark.parametrize("loss", ["mse", "smooth_l1"])
def test_regression_learns_standardised_numbers(loss):
    values = [1.7e9, 1.7e9 + 30, 1.7e9 + 90]  # seconds, which float32 rounds to 128
    mean, deviation = scale_of(values)
    task = Regression(loss=loss, target_scale=[mean, deviation])
    outputs, standard = torch.tensor([[0.5], [3.0], [-1.0]]), (np.array(values) - np.mean(values)) / np.std(values)
    out = task(torch.nn.Identity(), batch_of(outputs, torch.tensor(values, dtype=torch.float64)))
    error = outputs[:, 0].numpy() - standard
    small = np.abs(error) < 1
    expected = error**2 if loss == "mse" else np.where(small, error**2 / 2, np.abs(error) - 0.5)
    assert out["loss"].item() == pytest.approx(expected.mean(), rel=1e-5)
    assert out["mae"].item() == pytest.approx(np.abs(error).mean() * np.std(values), rel=1e-5)
    expected = np.mean(values) + np.std(values) * outputs[:, 0].double().numpy()
    np.testing.assert_allclose(task.scores(outputs)[:, 0], expected, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"all training videos have the number 0\.1"):
        scale_of([0.1] * 3)
    with pytest.raises(ConfigError, match=r"the number -1e\+200, and float32 holds none beyond 1e\+30"):
        scale_of([1.0, -1e200, 3.0])


def test_the_columns_of_classes_are_not_called_as_others():
    scores = np.array([[[0.25, 0.75]]])
    found = predictions_of(scores, np.array([[0, 1]]))
    table = Multilabel(class_names=["run", "labels"]).video_table(found)
    assert table.header == ("labels", "predicted", "run", "probability of labels")
    assert list(table.rows) == [("labels", "labels", "0.25", "0.75")]


def test_multilabel_loss_is_binary_cross_entropy(rng):
    logits, truth = rng.normal(size=(6, 4)), (rng.random((6, 4)) < 0.5).astype(int)
    out = Multilabel(class_names=NAMES)(torch.nn.Identity(), batch_of(logits, truth))
    p = 1 / (1 + np.exp(-logits))
    assert out["loss"].item() == pytest.approx(-(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_weigh_every_clip_whatever_its_batch(smoothing, rng):
    logits, labels, weights = rng.normal(size=(8, 4)), rng.integers(4, size=8), np.array([0.5, 2.0, 0.0, 3.0])
    task = Classification(None, smoothing, class_weights=weights)
    whole = task(torch.nn.Identity(), batch_of(logits, labels))["loss"].item()
    soft = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert whole == pytest.approx(-(weights * soft * log_p).sum(1).mean(), rel=1e-5)
    halves = [task(torch.nn.Identity(), batch_of(logits[i : i + 4], labels[i : i + 4]))["loss"].item() for i in (0, 4)]
    assert np.mean(halves) == pytest.approx(whole, rel=1e-5)
    mixed = Classification(lambda clips, labels: (clips, torch.from_numpy(soft).float()), 0.3, class_weights=weights)
    assert mixed(torch.nn.Identity(), batch_of(logits, labels))["loss"].item() == pytest.approx(whole, rel=1e-5)
    equal = Classification(None, smoothing, class_weights=np.ones(4))(torch.nn.Identity(), batch_of(logits, labels))
    plain = Classification(None, smoothing)(torch.nn.Identity(), batch_of(logits, labels))
    assert equal["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-6)


def test_which_validation_is_the_best():
    assert Selection().improves(0.0, -1.0) and Selection().improves(5.0, 4.0) and not Selection().improves(4.0, 4.0)
    lower = Selection("mae", lower_is_better=True)
    assert lower.improves(9.0, -1.0) and lower.improves(3.0, 4.0) and not lower.improves(5.0, 4.0)


class Videos:
    """A list of three videos, of which the second is a part of the first."""

    def __len__(self):
        return 3

    def samples(self):
        return iter([("/v/a, b.mp4", None), ("/v/a, b.mp4", (1.0, 2.5)), ("/v/é.mp4", None)])


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_of_a_classification(tmp_path, rng):
    views = rng.random((3, 2, 4)).astype(np.float32)
    found = predictions_of(views, [3, 0, 3])
    names = write_results(Classification(class_names=NAMES), found, Videos(), tmp_path / "test_ema")
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    saved = np.load(tmp_path / "test_ema_predictions.npz")
    np.testing.assert_array_equal(saved["view_probabilities"], views)
    np.testing.assert_array_equal(saved["probabilities"], found.scores)
    assert saved["paths"].tolist() == [path for path, _ in Videos().samples()] and saved["num_views"] == 2
    assert saved["spans"][1].tolist() == [1.0, 2.5] and np.isnan(saved["spans"][[0, 2]]).all()
    rows, predicted = rows_of(tmp_path / "test_ema_predictions.csv"), found.scores.argmax(1)
    assert [row["path"] for row in rows] == saved["paths"].tolist()
    assert [row["start"] for row in rows] == ["", "1.0", ""]
    assert [row["label_name"] for row in rows] == ["é", "run, fast", "é"]
    assert [int(row["predicted"]) for row in rows] == predicted.tolist()
    assert [[int(row["view0"]), int(row["view1"])] for row in rows] == views.argmax(2).tolist()
    matrix = confusion_matrix([3, 0, 3], predicted, labels=range(4))
    np.testing.assert_array_equal(saved["confusion"], matrix)
    table = rows_of(tmp_path / "test_ema_confusion.csv")
    assert [[int(row[name]) for name in NAMES] for row in table] == matrix.tolist()
    classes = rows_of(tmp_path / "test_ema_classes.csv")
    assert [row["name"] for row in classes] == NAMES and [row["videos"] for row in classes] == ["1", "0", "0", "2"]
    assert classes[1]["accuracy"] == "" and float(classes[3]["accuracy"]) == pytest.approx(50 * matrix[3, 3])


def test_files_of_the_other_tasks(tmp_path, rng):
    found = predictions_of(rng.random((3, 2, 4)), [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    write_results(Multilabel(class_names=NAMES), found, Videos(), tmp_path / "multi")
    rows = rows_of(tmp_path / "multi_predictions.csv")
    assert [row["labels"] for row in rows] == ["run, fast;fall", "", 'a "jump"']
    written = [[float(row[name]) for name in NAMES] for row in rows]
    np.testing.assert_allclose(written, found.scores, rtol=1e-5)
    np.testing.assert_array_equal(np.load(tmp_path / "multi_predictions.npz")["labels"], found.targets)
    found = predictions_of(rng.normal(size=(3, 2, 1)), [0.25, -3.0, 1e9])
    write_results(Regression(loss="mse", target_scale=[0, 1]), found, Videos(), tmp_path / "number")
    rows = rows_of(tmp_path / "number_predictions.csv")
    assert [float(row["target"]) for row in rows] == [0.25, -3.0, 1e9]
    views = [[float(row["view0"]), float(row["view1"])] for row in rows]
    np.testing.assert_allclose(views, found.views[:, :, 0], rtol=1e-8)
