"""Nearest neighbours against the formula, one query and one neighbour at a time, in float64."""

import math

import numpy as np
import pytest
import torch

from evaluation.probing import nearest
from evaluation.probing.nearest import classify_nearest, unit_features

CPU = torch.device("cpu")
HOW = {"neighbours": (1, 3, 20), "temperature": 0.07, "num_classes": 3}


@pytest.fixture(scope="module")
def features():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=20)
    bank = random.normal(size=(20, 2, 5)) + 0.5 * np.eye(3, 5)[labels][:, None]
    return random.normal(size=(11, 3, 5)).astype("float32"), bank.astype("float32"), labels


def naive(queries, bank, labels, k, temperature=0.07):
    """DINO's vote: of the k nearest by cosine, exp(cosine / T) for their class."""

    def unit(views):
        mean = [sum(view[d] for view in views) / len(views) for d in range(len(views[0]))]
        length = math.sqrt(sum(x * x for x in mean))
        return [x / length for x in mean]

    known = [unit(views.tolist()) for views in bank]
    votes = np.zeros((len(queries), 3))
    for number, views in enumerate(queries):
        query = unit(views.tolist())
        cosines = [sum(a * b for a, b in zip(query, other, strict=True)) for other in known]
        for place in sorted(range(len(known)), key=lambda place: -cosines[place])[:k]:
            votes[number, labels[place]] += math.exp(cosines[place] / temperature)
    return votes


def merged(found, k):
    return np.stack([found[k][place] for place in sorted(found[k])])


def test_votes_are_those_of_the_formula(features):
    found = classify_nearest(*features, device=CPU, **HOW)
    for k in HOW["neighbours"]:  # up to all there are
        assert merged(found, k) == pytest.approx(naive(*features, k), rel=1e-4)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_out_queries_and_give_the_same_bits(features, size, monkeypatch):
    monkeypatch.setattr(nearest, "CHUNK", 4)
    alone = classify_nearest(*features, device=CPU, **HOW)
    shares = [classify_nearest(*features, device=CPU, rank=rank, size=size, **HOW) for rank in range(size)]
    for k in HOW["neighbours"]:
        together = {place: row for share in shares for place, row in share[k].items()}
        assert together.keys() == alone[k].keys()
        assert all(np.array_equal(together[place], row) for place, row in alone[k].items())


def test_views_are_averaged_before_they_are_scaled():
    views = np.array([[[2.0, 0.0], [0.0, 4.0]]], np.float32)
    assert unit_features(views, CPU).numpy() == pytest.approx(np.array([[1, 2]]) / math.sqrt(5))
