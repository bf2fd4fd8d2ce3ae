"""Weights of the classes: scikit-learn's rule, and files."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from datasets.class_balance import BalanceConfig, balanced_weights, read_weights
from datasets.errors import AnnotationError
from sigma_video.options import OptionError

NAMES = ["run", "a, b", "fall"]


def test_balanced_weights_equal_scikit_learn():
    labels = np.random.default_rng(0).choice([0, 1, 3], p=[0.7, 0.2, 0.1], size=97)
    found = balanced_weights(labels.tolist(), 5)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(found[[0, 1, 3]], expected)
    assert found[[2, 4]].tolist() == [0, 0]  # no video
    assert found[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize("text", ["1\n0.5\n\n2e0\n", 'fall,2\nrun,1\n"a, b",0.5\n', "# by hand\n1\n0.5\n2\n"])
def test_files(tmp_path, text):
    (tmp_path / "w.txt").write_text(text)
    assert read_weights(tmp_path / "w.txt", NAMES).tolist() == [1, 0.5, 2]


@pytest.mark.parametrize("name", ['"say ""hi"""', 'say "hi"', '  "say ""hi"""'])
def test_names_with_quotes_are_found_as_csv_writes_them_and_as_they_are(tmp_path, name):
    (tmp_path / "w.txt").write_text(f"{name},2\nrun,3\n")
    assert read_weights(tmp_path / "w.txt", ["run", 'say "hi"']).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n2\n", "2 weights for 3 classes, none for 'fall'"),
        ("1\n2\n3\n4\n", "4 weights for 3 classes"),
        ("1\nx\n3\n", "line 2: 'x' is not a weight"),
        ("1\n-1\n3\n", "line 2: '-1' is not a weight"),
        ("1\nnan\n3\n", "line 2: 'nan' is not a weight"),
        ("1\ninf\n3\n", "line 2: 'inf' is not a weight"),
        ("class,weight\nrun,1\n", "line 1: 'class,weight' is a header"),
        ("jump,1\n", "line 1: 'jump' is none of the 3 classes"),
        ("run,1\nrun,2\n", "line 2: a second weight for class 'run'"),
        ("0\n0\n0\n", "all weights are 0"),
        ("1e-300\n0\n1e-99\n", "all weights are 0, or too small"),
        ("", "0 weights for 3 classes"),
    ],
)
def test_files_that_are_refused(tmp_path, text, words):
    (tmp_path / "w.txt").write_text(text)
    with pytest.raises(AnnotationError, match=words):
        read_weights(tmp_path / "w.txt", NAMES)


def test_options():
    with pytest.raises(AnnotationError, match=r"--class_weights gone\.txt: no such file"):
        BalanceConfig(class_weights="gone.txt").weights([0], NAMES)
    assert BalanceConfig().weights([0], NAMES) is None
    with pytest.raises(OptionError, match="leave one out"):
        BalanceConfig(class_weights="balanced", balanced_sampling=True)
