"""Clusters against labels: hand-worked cases, and all assignments tried."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from evaluation.segmentation.matching import match_hungarian, match_many_to_one

BOTH = [match_hungarian, match_many_to_one]


@pytest.fixture
def truth():
    return np.random.RandomState(0).choice([0, 1, 4], size=(3, 12, 10), p=[0.6, 0.3, 0.1])


@pytest.mark.parametrize("match", BOTH)
def test_a_prediction_equal_to_the_truth_scores_one_whatever_its_ids(match, truth):
    assert match(truth, truth).miou == 1
    renamed = np.select([truth == 0, truth == 1, truth == 4], [7, 0, 2])
    matched = match(renamed, truth)
    assert matched.miou == 1
    assert matched.label_of == {7: 0, 0: 1, 2: 4}


def test_all_clusters_in_one_label_give_its_share_of_the_area():
    """Ten clusters that all go to the background: its IoU is its share, that of the rest is 0."""
    truth = np.zeros((1, 10, 20), int)
    truth[:, :4, :10] = 1  # 40 of 200 pixels, at most 4 of the 10 in any cluster's column pair
    clusters = np.tile(np.arange(20) // 2, (1, 10, 1))
    matched = match_many_to_one(clusters, truth)
    assert matched.ious == {0: 160 / 200, 1: 0.0}
    assert matched.miou == 0.4


def test_hungarian_equals_the_best_of_all_assignments(truth):
    clusters = np.random.RandomState(1).randint(3, size=truth.shape)
    best = max(
        sum(
            ((clusters == c) & (truth == g)).sum() / ((clusters == c) | (truth == g)).sum()
            for c, g in enumerate(labels)
        )
        for labels in itertools.permutations([0, 1, 4])
    )
    assert match_hungarian(clusters, truth).miou == pytest.approx(best / 3, abs=1e-12)


@pytest.mark.parametrize("by", ["precision", "iou"])
def test_scores_equal_sklearn_after_the_matching(by, truth):
    clusters = np.random.RandomState(2).randint(10, size=truth.shape)
    matched = match_many_to_one(clusters, truth, by=by)
    given = np.vectorize(matched.label_of.get)(clusters)
    expected = jaccard_score(truth.ravel(), given.ravel(), labels=[0, 1, 4], average=None, zero_division=0)
    np.testing.assert_allclose(list(matched.ious.values()), expected, atol=1e-12)


def test_precision_and_iou_choose_differently():
    """A cluster with 6 pixels of a large label and 4 of a small one, all that label has."""
    truth = np.zeros(100, int)
    truth[:4] = 1
    clusters = np.ones(100, int)
    clusters[:10] = 0
    assert match_many_to_one(clusters, truth, by="precision").label_of == {0: 0, 1: 0}  # 6/10 over 4/10
    assert match_many_to_one(clusters, truth, by="iou").label_of == {0: 1, 1: 0}  # 4/10 over 6/100


def test_ties_go_to_the_smaller_label():
    truth, clusters = np.array([3, 3, 1, 1]), np.zeros(4, int)
    assert match_many_to_one(clusters, truth).label_of == {0: 1}


def test_left_over_clusters_become_background_and_labels_without_one_score_nothing():
    truth = np.array([0, 0, 0, 0, 2, 2])
    clusters = np.array([0, 0, 1, 1, 2, 2])
    matched = match_hungarian(clusters, truth)
    assert matched.label_of == {0: 0, 1: 0, 2: 2}  # a tie: one of them is matched, the other left over
    assert matched.miou == 1
    assert match_hungarian(np.zeros(6, int), truth).ious == {0: 4 / 6, 2: 0.0}


@pytest.mark.parametrize("match", BOTH)
def test_void_pixels_are_dropped_before_matching(match, truth):
    with_void = truth.copy()
    with_void[:, :3] = 255
    clusters = truth.copy()
    clusters[:, :3] = 9  # a cluster of its own, all in void
    matched = match(clusters, with_void)
    assert matched.miou == 1
    assert 9 not in matched.label_of
    assert 255 not in matched.ious
    with pytest.raises(ValueError, match="void"):
        match(clusters, np.full_like(truth, 255))
