"""Probes of pooled features: nearest neighbours, and linear heads."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from engine.distributed.collectives import gather_objects, gather_to_main
from evaluation.probing.nearest import classify_nearest
from evaluation.probing.recipes import Candidate, best_of
from evaluation.probing.splits import hold_out
from evaluation.probing.training import accuracy, probabilities, train_on_features

from .choice import describe_choice
from .features import features
from .job import Job, Outcome, rows_of


def probe_nearest(job: Job) -> Outcome:
    """Nearest neighbours of the test samples among the training samples."""
    options, world = job.config.neighbours, job.world
    bank, queries = features(job, "train"), features(job, "test")
    votes = classify_nearest(
        queries,
        bank,
        job.labels("train"),
        device=world.device,
        rank=world.rank,
        size=world.size,
        neighbours=options.neighbours,
        temperature=options.temperature,
        num_classes=job.data.num_classes,
    )
    shares = gather_to_main(votes)
    by_k = {k: {place: row for share in shares for place, row in share[k].items()} for k in options.neighbours}
    scores = {f"_k{k}": rows_of(found) for k, found in by_k.items()} if world.is_main else {}
    return Outcome(scores, {})


def probe_linear(job: Job) -> Outcome:
    """Linear heads on cached features: the sweep, the choice, the test."""
    recipe, world = job.recipe, job.world
    cached, labels = features(job, "train"), job.labels("train")
    everything = np.arange(len(labels))
    smoothing = job.config.mixing.smoothing or 0.0

    def fit(candidates: Sequence[Candidate], places: np.ndarray) -> list[nn.Module]:
        heads = job.build_heads(len(candidates))
        train_on_features(
            heads,
            candidates,
            recipe,
            features=cached,
            labels=labels,
            places=places,
            smoothing=smoothing,
            device=world.device,
        )
        return heads

    candidates, chosen, places = recipe.candidates, {}, everything
    best = candidates[0]
    if len(candidates) > 1:
        fitted, held = hold_out(labels.tolist(), recipe.holdout, recipe.seed)
        own = candidates[world.rank :: world.size]  # a head each is trained whole on one rank
        found = {
            candidate: accuracy(probabilities(head, cached, held, device=world.device), labels[held])
            for candidate, head in zip(own, fit(own, fitted) if own else (), strict=True)
        }
        merged = {candidate: score for share in gather_objects(found) for candidate, score in share.items()}
        scores = [merged[candidate] for candidate in candidates]
        best, chosen = candidates[best_of(scores)], describe_choice(candidates, scores)
        places = everything if recipe.refit else fitted
    (head,) = fit([best], places)  # on every rank, with the same result
    test = features(job, "test")
    return Outcome({"": probabilities(head, test, np.arange(len(test)), device=world.device)}, chosen)
