"""Which head of a sweep is taken."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from engine.monitoring.metrics import log_table
from evaluation.probing.recipes import Candidate, best_of


def describe_choice(candidates: Sequence[Candidate], scores: Sequence[float]) -> dict[str, Any]:
    """What a sweep found, for log and record."""
    best = candidates[best_of(scores)]
    rows = {candidate.describe(): f"{score:.2f}" for candidate, score in zip(candidates, scores, strict=True)}
    log_table("top-1 on the held-out training samples", {**rows, "chosen": best.describe()})
    tried = [{**dataclasses.asdict(c), "holdout_top1": s} for c, s in zip(candidates, scores, strict=True)]
    return {"chosen_lr": best.lr, "chosen_weight_decay": best.weight_decay, "tried": tried}
