"""Clusters of whole clips against their masks: `task clustering`, the protocol of TimeTuning for a video encoder.

Letters: T H W frames and pixels of a clip, t h w token grid, D encoder width.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .clustering import ClusteringConfig, cluster_clip, reduce_tokens, scored_frames, spread_in_time
from .masked_video import MaskedVideo, MaskError, check_void
from .matching import match_hungarian, match_many_to_one
from .pictures import overlay, strip, write_picture, write_video

HUNGARIAN, PRECISION, GREEDY = "miou_hungarian", "miou_overclustering_precision", "miou_overclustering_greedy"
COLUMNS = 8  # frames in a picture


@dataclass(frozen=True)
class ClipJob:
    """What is done with every clip.

    Attributes:
        size: height and width of the clip, at which masks are compared too.
        tokens: (T, H, W, 3) uint8 -> (t, h, w, D) float32.
        pictures: folder; None: nothing is drawn.
    """

    config: ClusteringConfig
    num_frames: int
    tubelet: int
    size: tuple[int, int]
    void: int
    tokens: Callable[[np.ndarray], np.ndarray]
    pictures: Path | None = None


Scores = dict[str, dict[str, dict[str, float]]]  # by metric, seed and clip, in percent


def uniform_frames(length: int, number: int) -> list[int]:
    """`number` frames of a video in the middle of as many equal parts: floor((k + 1/2) L / n)."""
    return [(2 * k + 1) * length // (2 * number) for k in range(number)]


def random_frames(length: int, number: int, *, name: str, seed: int) -> list[int]:
    """`number` frames in order, drawn without replacement, or with it from a shorter video; by name and seed alone."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return sorted(rng.choice(length, number, replace=length < number).tolist())


def frames_of(video: MaskedVideo, config: ClusteringConfig, number: int, *, seed: int) -> list[int]:
    """The frames of a video that make its clip."""
    if config.frames == "uniform":
        return uniform_frames(len(video.masks), number)
    return random_frames(len(video.masks), number, name=video.name, seed=seed)


def check_clips(
    videos: Sequence[MaskedVideo], config: ClusteringConfig, *, num_frames: int, size: tuple[int, int], void: int
) -> None:
    """Raise MaskError for a clip that cannot be scored: nothing but void, or more labels than clusters."""
    for video in videos:
        for seed in config.seeds[: None if config.frames == "random" else 1]:
            masks = video.read_masks(frames_of(video, config, num_frames, seed=seed), size)
            labels = np.unique(masks).tolist()
            check_void(labels, video.masks[0].parent, void=void)
            number = len(set(labels) - {void})
            if number == 0:
                raise MaskError(f"{video.masks[0].parent}: nothing but void in the clip; take it out of the split")
            if number > config.overclusters:
                raise MaskError(
                    f"{video.masks[0].parent}: {number} labels in the clip, more than --overclusters "
                    f"{config.overclusters}; give at least as many"
                )


def check_points(job: ClipJob, grid: tuple[int, ...]) -> None:
    """Raise MaskError for more clusters than points: tokens where labels are enlarged, else pixels.

    Args:
        grid: h and w.
    """
    height, width = grid if job.config.upsample == "labels" else job.size
    points = len(scored_frames(job.num_frames, job.tubelet, job.config.temporal)) * height * width
    if job.config.overclusters > points:
        raise MaskError(
            f"--overclusters {job.config.overclusters}: with --upsample {job.config.upsample} a clip has {points:,} "
            "points to put into clusters; choose fewer"
        )


def evaluate_clips(videos: Sequence[MaskedVideo], job: ClipJob) -> Scores:
    """Scores of clips whose tokens are standardised and reduced together.

    Returns:
        By metric, seed and clip's name: mean IoU in percent.
    """
    scores: Scores = {metric: {} for metric in (HUNGARIAN, PRECISION, GREEDY)}
    for seed in job.config.seeds:
        chosen = [frames_of(video, job.config, job.num_frames, seed=seed) for video in videos]
        clips = [video.read_images(frames, job.size) for video, frames in zip(videos, chosen, strict=True)]
        reduced = reduce_tokens([job.tokens(clip) for clip in clips], job.config.pca_dim)
        for video, frames, clip, features in zip(videos, chosen, clips, reduced, strict=True):
            masks = video.read_masks(frames, job.size)
            found = score_clip(clip, masks, features, job, name=video.name, seed=seed)
            for metric, value in found.items():
                scores[metric].setdefault(str(seed), {})[video.name] = value
    return scores


def score_clip(
    clip: np.ndarray, masks: np.ndarray, features: np.ndarray, job: ClipJob, *, name: str, seed: int
) -> dict[str, float]:
    """The three scores of one clip; the first seed's clusters are drawn."""
    config, void = job.config, job.void
    kept = scored_frames(job.num_frames, job.tubelet, config.temporal)
    clip, masks = clip[kept], masks[kept]
    spread = spread_in_time(features, job.tubelet, config.temporal)
    number = len(set(np.unique(masks).tolist()) - {void})
    as_many = cluster_clip(spread, number, job.size, config, seed=seed)
    over = cluster_clip(spread, config.overclusters, job.size, config, seed=seed)
    matched = {
        HUNGARIAN: match_hungarian(as_many, masks, void=void),
        PRECISION: match_many_to_one(over, masks, by="precision", void=void),
        GREEDY: match_many_to_one(over, masks, by="iou", void=void),
    }
    if job.pictures is not None and seed == config.seeds[0]:
        shown = np.where(masks == void, 0, masks)
        label_of = matched[HUNGARIAN].label_of
        assigned = np.vectorize(lambda cluster: label_of.get(cluster, 0))(as_many)
        rows = [clip, overlay(clip, shown), overlay(clip, assigned), overlay(clip, over + 1)]
        write_picture(strip(rows, columns=COLUMNS), job.pictures / "overlays" / f"{name}.png")
        write_video(np.concatenate(rows, axis=2), job.pictures / "overlays" / f"{name}.webp", fps=6)
    return {metric: 100 * score.miou for metric, score in matched.items()}
