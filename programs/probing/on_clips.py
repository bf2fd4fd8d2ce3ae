"""Attentive probes: heads on the tokens of clips, which are encoded anew in every epoch."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.loading.batch import Batch
from datasets.loading.loaders import build_train_loader
from datasets.probing import Chosen, batches_of
from datasets.transforms.mixup import build_mixup
from engine.distributed.collectives import all_reduce_sum, gather_objects, gather_to_main
from engine.distributed.world import on_every_rank, seed_everything
from engine.errors import ConfigError
from evaluation.probing.recipes import Candidate, best_of
from evaluation.probing.splits import hold_out
from evaluation.probing.training import HeadTrainer, Step, clip_probabilities, train_on_clips

from .choice import describe_choice
from .job import Job, Outcome, rows_of

logger = logging.getLogger(__name__)


def probe_attentive(job: Job) -> Outcome:
    """Attentive heads on tokens, which the encoder gives anew for each augmented clip: too many to be kept."""
    recipe, labels = job.recipe, job.labels("train")
    candidates, chosen, everything = recipe.candidates, {}, np.arange(len(labels))
    if len(candidates) > 1:
        fitted, held = hold_out(labels.tolist(), recipe.holdout, recipe.seed)
        heads = fit_on_clips(job, candidates, fitted)
        correct = np.zeros(len(candidates))
        for places, found in on_every_rank(job.world, lambda: list(test_on_clips(job, heads, "train", held))):
            correct += [float((part.argmax(axis=1) == labels[places]).sum()) for part in found]
        scores = (100 * np.sum(gather_objects(correct), axis=0) / len(held)).tolist()
        best, chosen = best_of(scores), describe_choice(candidates, scores)
        head = fit_on_clips(job, [candidates[best]], everything)[0] if recipe.refit else heads[best]
    else:
        (head,) = fit_on_clips(job, candidates, everything)
    every = range(len(job.data.lists["test"]))
    tested = on_every_rank(job.world, lambda: list(test_on_clips(job, [head], "test", every)))
    own = {p: row for places, (rows,) in tested for p, row in zip(places, rows, strict=True)}
    merged = {place: row for share in gather_to_main(own) for place, row in share.items()}
    return Outcome({"": rows_of(merged)} if job.world.is_main else {}, chosen)


def encode_tokens(job: Job, clips: torch.Tensor) -> torch.Tensor:
    """(B, N, D), without a graph."""
    with torch.no_grad(), job.autocast():
        return job.loaded.tokens(clips, final_norm=bool(job.config.encoder.final_norm))


def fit_on_clips(job: Job, candidates: Sequence[Candidate], places: np.ndarray) -> list[nn.Module]:
    """Heads, trained on augmented clips of some training samples by all ranks together."""
    recipe, world, sight = job.recipe, job.world, job.sight
    assert recipe.batch_size
    if recipe.batch_size % world.size or recipe.batch_size > len(places):
        raise ConfigError(
            f"--batch_size {recipe.batch_size} is that of all ranks: it has to be a multiple of their number "
            f"{world.size}, and at most the {len(places)} samples that are trained on"
        )
    loader = build_train_loader(
        Chosen(sight.train(job.data.lists["train"]), places.tolist()),
        batch_size=recipe.batch_size // world.size,
        seed=recipe.seed,
        **job.loader_kwargs(alone=False),
    )
    heads = job.build_heads(len(candidates))
    trainer = HeadTrainer(
        heads,
        candidates,
        recipe,
        steps_per_epoch=len(loader),
        smoothing=job.config.mixing.smoothing or 0.0,
        autocast=job.autocast(),
    )
    seed_everything(recipe.seed, world.rank)  # dropout and mixing
    mix = build_mixup(job.config.mixing, num_classes=job.data.num_classes)

    def parts(batch: Batch) -> Step:
        for path, reason, *_ in batch.failures:
            logger.warning("%s: %s; another sample took its place", path, reason)
        batch = batch.to(world.device)
        clips, targets = batch.clip, batch.label
        assert targets is not None
        if clips.shape[2] == 1:
            clips = clips.expand(-1, -1, job.loaded.clip.num_frames, -1, -1)
        if mix is not None:
            clips, targets = mix(clips.clone(), targets)
        for some, their in zip(*(x.split(job.config.output.forward_batch) for x in (clips, targets)), strict=True):
            yield encode_tokens(job, some), their

    def steps(epoch: int) -> Iterator[Step]:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return (parts(batch) for batch in loader)

    train_on_clips(
        trainer,
        steps,
        total=recipe.batch_size * sight.clip.num_sample,
        reduce=all_reduce_sum if world.size > 1 else None,
        log=lambda epoch, loss: logger.info("epoch %d of %d: loss %.4f", epoch + 1, recipe.epochs, loss * world.size),
    )
    return heads


def test_on_clips(
    job: Job, heads: Sequence[nn.Module], part: str, places: Sequence[int] | np.ndarray
) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Of this rank's batches the places and, by head, probabilities; training samples are seen in one view."""
    videos = job.data.lists[part]
    dataset = job.sight.test(videos) if part == "test" else job.sight.test(videos, clips=1, crops=1)
    number = job.sight.views.num_views if part == "test" else 1
    size = max(job.config.output.forward_batch // number, 1)
    own = [int(place) for place in places[job.world.rank :: job.world.size]]

    def tokens() -> Iterable[tuple[torch.Tensor, Any]]:
        for batch in batches_of(dataset, batch_size=size, **job.loader_kwargs(alone=True))(own) if own else ():
            found = encode_tokens(job, batch.to(job.world.device).clip)
            yield found.unflatten(0, (-1, batch.views)), batch.index.tolist()

    yield from clip_probabilities(heads, tokens(), job.autocast())
