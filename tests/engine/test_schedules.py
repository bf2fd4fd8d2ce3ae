"""Learning-rate schedule: step by step equal to the recorded one, and what it does to an optimizer's groups."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.schedules import Schedule, cosine_schedule

CASES = json.loads((Path(__file__).parents[1] / "golden" / "schedules.json").read_text())["cases"]


def schedule(**changes):
    fields = {"lr": 1.0, "min_lr": 0.1, "warmup_lr": 0.0, "weight_decay": 0.05, "weight_decay_end": 0.05}
    fields |= {"epochs": 10, "steps_per_epoch": 7, "warmup_epochs": 2, "warmup_steps": -1}
    return Schedule(**{**fields, **changes})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['epochs']}x{case['steps_per_epoch']}")
def test_equals_golden_in_every_step(case):
    options = {key: value for key, value in case.items() if key != "values"}
    ours = [cosine_schedule(step, **options) for step in range(len(case["values"]))]
    assert len(ours) == case["epochs"] * case["steps_per_epoch"]
    np.testing.assert_allclose(ours, case["values"], rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize(
    ("warmup_epochs", "warmup_steps", "expected"), [(2, -1, 14), (2, 0, 14), (2, 5, 5), (0, -1, 0)]
)
def test_length_of_the_warmup(warmup_epochs, warmup_steps, expected):
    s = schedule(warmup_epochs=warmup_epochs, warmup_steps=warmup_steps, warmup_lr=0.01)
    assert s.warmup == expected and s.total_steps == 70
    rates = [s.lr_at(step) for step in range(s.total_steps)]
    np.testing.assert_allclose(rates[:expected], np.linspace(0.01, 1.0, expected))
    assert rates[expected] == 1.0
    after = rates[expected:]
    assert after == sorted(after, reverse=True) and len(set(after)) == len(after)
    assert 0.1 < rates[-1] < 0.11


def test_one_step_of_warmup_has_the_first_rate():
    for start in (0.0, 0.01):
        s = schedule(warmup_steps=1, warmup_lr=start)
        assert [s.lr_at(0), s.lr_at(1)] == [start, 1.0]


def test_run_of_one_step_and_run_that_is_all_warmup():
    assert schedule(epochs=1, steps_per_epoch=1, warmup_epochs=0).lr_at(0) == 1.0
    assert schedule(epochs=2, steps_per_epoch=1, warmup_epochs=2).lr_at(1) == 1.0


def test_a_held_group_begins_at_its_step():
    groups = [{"params": [torch.ones(1, requires_grad=True)], "lr_scale": 0.5, "weight_decay": 0.9, "decayed": True}]
    optimizer = torch.optim.AdamW([{**groups[0], "held_steps": 3}], lr=9.0)
    s = schedule(weight_decay=0.9, weight_decay_end=0.9)
    for step in range(s.total_steps):
        s.apply(optimizer, step)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (
            (0, 0) if step < 3 else (0.5 * s.lr_at(step), pytest.approx(0.9))
        )


def test_apply_scales_rates_and_moves_the_decay_of_decayed_groups_only():
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr_scale": 1.0, "weight_decay": 0.05, "decayed": True},
        {"params": [torch.zeros(1, requires_grad=True)], "lr_scale": 0.25, "weight_decay": 0.0, "decayed": True},
        {"params": [torch.zeros(1, requires_grad=True)], "lr_scale": 0.5, "weight_decay": 0.0, "decayed": False},
    ]
    optimizer = torch.optim.AdamW(groups, lr=9.0)
    s = schedule(weight_decay_end=0.5)
    for step in range(s.total_steps):
        lr = s.apply(optimizer, step)
        assert lr == s.lr_at(step)
        assert [group["lr"] for group in optimizer.param_groups] == [lr, 0.25 * lr, 0.5 * lr]
        first, second, third = (group["weight_decay"] for group in optimizer.param_groups)
        # the decay's cosine has no warm-up
        assert first == second == pytest.approx(0.5 - 0.225 * (1 + np.cos(np.pi * step / 70)))
        assert third == 0
