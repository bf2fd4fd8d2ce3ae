"""Heads trained on features: against scikit-learn, against a step written out, and against each other."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from evaluation.probing.heads import LinearHead, ProbeError
from evaluation.probing.recipes import Candidate, RecipeConfig, best_of, defaults_for
from evaluation.probing.splits import hold_out, refuse_overlap
from evaluation.probing.training import (
    HeadTrainer,
    accuracy,
    clip_probabilities,
    epoch_batches,
    probabilities,
    train_on_clips,
    train_on_features,
)

CPU = torch.device("cpu")


def recipe(**changes):
    values = {"epochs": 3, "batch_size": 8, "warmup_epochs": 0.0, "min_lr": 0.0, "lrs": (1.0,), "weight_decays": (0.0,)}
    return RecipeConfig(**values | changes)


def clouds(samples=120, dim=4, views=1):
    """Features (V, G, D) of three classes that overlap."""
    random = np.random.default_rng(3)
    labels = np.arange(samples) % 3
    features = random.normal(size=(samples, views, dim)) + 1.2 * np.eye(3, dim)[labels][:, None]
    return features.astype("float32"), labels


def test_a_linear_probe_is_logistic_regression():
    features, labels = clouds()
    head = LinearHead(4, 3, trains_norm=False)
    everything = np.arange(len(labels))
    how = recipe(epochs=150, batch_size=len(labels))
    scale = 256 / len(labels)  # the rate is for 256 samples
    kwargs = {"features": features, "labels": labels, "places": everything, "smoothing": 0.0, "device": CPU}
    train_on_features([head], [Candidate(0.05 * scale, 0.0)], how, **kwargs)
    ours = probabilities(head, features, everything, device=CPU)
    inputs = head.norm(torch.from_numpy(features[:, 0])).numpy().astype("float64")
    theirs = LogisticRegression(C=np.inf, max_iter=1000).fit(inputs, labels).predict_proba(inputs)
    assert np.abs(ours - theirs).max() < 5e-3


def test_a_first_step_is_that_of_adamw():
    """W (1 - lr w) - lr g / (|g| + eps), with g = mean of (p - t) x^T and targets t smoothed."""
    features, labels = clouds(samples=6)
    head = LinearHead(4, 3, trains_norm=False)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.constant_(head.linear.bias, 10.0)  # the same for all classes
    x = head.norm(torch.from_numpy(features[:, 0])).double()
    before = head.linear.weight.detach().double()
    p = torch.softmax(x @ before.T, 1)
    t = torch.full((6, 3), 0.1 / 3).double() + 0.9 * torch.eye(3).double()[labels]
    g = (p - t).T @ x / 6
    trainer = HeadTrainer(
        [head], [Candidate(0.01, 0.2)], recipe(batch_size=128, warmup_epochs=1.0), steps_per_epoch=2, smoothing=0.1
    )
    trainer.step([(torch.from_numpy(features[:, 0]), torch.from_numpy(labels))], total=6)
    lr = 0.01 * 128 / 256 / 2  # first of two steps of warm-up
    expected = before * (1 - lr * 0.2) - lr * g / (g.abs() + 1e-8)
    assert torch.allclose(head.linear.weight.double(), expected, atol=1e-6)
    assert (head.linear.bias - 10).abs().max() <= lr * 1.01  # no decay there


def test_parts_of_a_step_count_as_one(tmp_path):
    features, labels = clouds(samples=8)
    x, y = torch.from_numpy(features[:, 0]), torch.from_numpy(labels)
    results = []
    for parts in ([(x, y)], [(x[:3], y[:3]), (x[3:], y[3:])]):
        torch.manual_seed(0)
        head = LinearHead(4, 3)
        trainer = HeadTrainer([head], [Candidate(0.1, 0.1)], recipe(), steps_per_epoch=1, smoothing=0.0)
        loss = trainer.step(parts, total=8)
        results.append(torch.cat([head.linear.weight.flatten(), torch.tensor([loss])]))
    assert torch.allclose(*results, atol=1e-5)


def test_heads_that_learn_together_learn_what_they_learn_alone():
    features, labels = clouds(views=2)
    candidates = [Candidate(1e-2, 0.05), Candidate(0.5, 0.0), Candidate(1e3, 0.1)]  # the last one diverges

    def trained(some):
        heads = []
        for _ in some:
            torch.manual_seed(0)
            heads.append(LinearHead(4, 3))
        kwargs = {"features": features, "labels": labels, "places": np.arange(90), "smoothing": 0.1, "device": CPU}
        train_on_features(heads, some, recipe(epochs=4, batch_size=16), **kwargs)
        return [head.state_dict() for head in heads]

    together, alone = trained(candidates), [trained([candidate])[0] for candidate in candidates]
    for a, b in zip(together, alone, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_rate_warms_up_and_falls_to_its_end():
    how = recipe(epochs=4, batch_size=512, warmup_epochs=1.0, min_lr=0.1)
    rates = [a * 1.0 + b * 0.1 for a, b in (how.lr_scale(step, steps_per_epoch=5) for step in range(20))]
    assert rates[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert all(a > b for a, b in itertools.pairwise(rates[5:])) and 0.2 < rates[-1] < 0.23


def test_an_epoch_shows_each_sample_once_in_an_order_of_its_own():
    places = np.arange(100, 130)
    first, second = ([*epoch_batches(places, 10, seed=0, epoch=epoch)] for epoch in (0, 1))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == places.tolist()
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert [len(batch) for batch in epoch_batches(places, 64, seed=0, epoch=0)] == [30]


def test_views_are_averaged_as_probabilities():
    features, _ = clouds(samples=5, views=3)
    head = LinearHead(4, 3)
    torch.nn.init.normal_(head.linear.weight, std=3)
    rows = probabilities(head, features, np.array([4, 1]), device=CPU, chunk=1)
    for row, place in zip(rows, (4, 1), strict=True):
        each = [torch.softmax(head(torch.from_numpy(features[place, g][None])), 1)[0] for g in range(3)]
        assert row == pytest.approx(torch.stack(each).mean(0).detach().numpy(), abs=1e-6)


def test_views_of_clips_are_averaged_as_probabilities():
    heads = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3)) for _ in range(2)]
    tokens = 4 * torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    ((mark, found),) = clip_probabilities(heads, [(tokens, "mark")], nullcontext())
    for head, rows in zip(heads, found, strict=True):
        with torch.no_grad():
            expected = [sum(torch.softmax(head(view[None])[0], 0) for view in video) / 3 for video in tokens]
        assert mark == "mark" and rows == pytest.approx(torch.stack(expected).numpy(), abs=1e-6)


def test_training_on_clips_mixes_targets_and_trains_after_each_test():
    """Soft targets are not smoothed again; what a test between epochs switches off, dropout, is on again."""
    head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    trainer = HeadTrainer([head], [Candidate(0.0, 0.0)], recipe(epochs=2), steps_per_epoch=1, smoothing=0.5)
    tokens, targets = torch.randn(4, 2, 4), torch.tensor([[0.7, 0.3, 0.0]] * 4)
    modes, losses = [], []

    def steps(epoch):
        modes.append(head.training)
        head.eval()
        yield [(tokens, targets)]

    train_on_clips(trainer, steps, total=4, reduce=None, log=lambda epoch, loss: losses.append(loss))
    expected = -(targets * head(tokens).log_softmax(1)).sum(1).mean().item()
    assert modes == [True, True] and losses == pytest.approx([expected] * 2, rel=1e-5)


def test_predictions_that_are_nan_are_no_answers():
    rows = np.array([[0.9, 0.1], [np.nan, np.nan]])
    assert accuracy(rows, np.array([0, 0])) == 0 and accuracy(rows[:1], np.array([0])) == 100


def test_the_best_head_is_the_first_of_equals():
    assert best_of([1.0, 3.0, 3.0, 2.0]) == 1


def test_a_hold_out_takes_its_part_of_each_class():
    labels = [0] * 20 + [1] * 40 + [2]
    fitted, held = hold_out(labels, 0.1, seed=5)
    assert sorted([*fitted, *held]) == list(range(61)) and not set(fitted) & set(held)
    assert np.bincount(np.array(labels)[held], minlength=3).tolist() == [2, 4, 0]
    assert np.array_equal(held, hold_out(labels, 0.1, seed=5)[1])
    assert not np.array_equal(held, hold_out(labels, 0.1, seed=6)[1])
    with pytest.raises(ProbeError, match=r"--holdout 0.1 of 2 training samples holds none out"):
        hold_out([0, 1], 0.1, seed=0)


def test_lists_that_share_samples_are_refused():
    train, test = [("/d/a.mp4", None), ("/d/b.mp4", (0.0, 1.0))], [("/d/b.mp4", (1.0, 2.0)), ("/d/../d/a.mp4", None)]
    refuse_overlap(train, test[:1], files=("train.csv", "test.csv"))  # two parts of one video
    with pytest.raises(ProbeError, match=r"test.csv: 1 of its samples are in train.csv as well, first /d/../d/a.mp4"):
        refuse_overlap(train, test, files=("train.csv", "test.csv"))


def test_each_probe_has_its_published_recipe():
    ssv2 = {probe: defaults_for(probe, "SSV2", epochs=None) for probe in ("linear", "pooler1", "attentive4", "knn")}
    assert (ssv2["linear"]["epochs"], ssv2["linear"]["batch_size"], ssv2["linear"]["num_sample"]) == (30, 384, 2)
    assert 1e-3 in ssv2["linear"]["lrs"] and defaults_for("linear", "UCF101", epochs=None)["epochs"] == 100
    assert (ssv2["pooler1"]["epochs"], ssv2["pooler1"]["warmup_epochs"]) == (50, 2.5)
    assert defaults_for("pooler1", "Kinetics-400", epochs=None)["epochs"] == 150
    assert (ssv2["pooler1"]["test_num_segment"], ssv2["pooler1"]["test_num_crop"]) == (1, 3)
    assert len(ssv2["attentive4"]["lrs"]) * len(ssv2["attentive4"]["weight_decays"]) == 20
    assert (ssv2["knn"]["test_num_segment"], ssv2["knn"]["final_norm"]) == (1, True)
    assert defaults_for("pooler1", "SSV2", epochs=10)["warmup_epochs"] == 0.5
    views = {
        (probe, name): tuple(defaults_for(probe, name, epochs=None)[f"test_num_{part}"] for part in ("segment", "crop"))
        for probe in ("linear", "pooler1", "attentive4", "knn")
        for name in ("Kinetics-400", "SSV2", "UCF101")
    }
    assert views == {
        **dict.fromkeys(itertools.product(["linear"], ["Kinetics-400", "SSV2", "UCF101"]), (None, None)),
        **dict.fromkeys(itertools.product(["knn"], ["Kinetics-400", "SSV2", "UCF101"]), (1, 1)),
        ("pooler1", "Kinetics-400"): (4, 3),
        ("pooler1", "SSV2"): (1, 3),
        ("pooler1", "UCF101"): (None, None),
        ("attentive4", "Kinetics-400"): (8, 3),
        ("attentive4", "SSV2"): (2, 3),
        ("attentive4", "UCF101"): (None, None),
    }
    areas = {name: defaults_for("linear", name, epochs=None)["min_crop_area"] for name in ("ImageNet-1K", "SSV2")}
    assert areas == {"ImageNet-1K": 0.08, "SSV2": 0.25}
    assert defaults_for("attentive4", "ImageNet-1K", epochs=None)["min_crop_area"] == 0.3
