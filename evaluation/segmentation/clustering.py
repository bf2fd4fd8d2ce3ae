"""Unsupervised segmentation of clips: tokens are standardised, reduced by PCA, enlarged and clustered by k-means.

The order of steps is that of TimeTuning (github.com/SMSD75/Timetuning, commit 94550b5), with libraries for each.
Letters: T frames of masks, t slots of tokens, h w token grid, D encoder width, F reduced width, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, Options, Rule, option


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig(Options):
    """How tokens become clusters of pixels."""

    frames: str = option(
        "uniform", "of a video; uniform: evenly spaced; random: drawn by seed", choices=("uniform", "random")
    )
    seeds: tuple[int, ...] = option(
        (1,), "of k-means and of random frames; the result is their mean", rule=NOT_NEGATIVE, metavar="SEED"
    )
    fit_clips: int = option(1, "clips that share one standardisation and PCA", rule=AT_LEAST_ONE, metavar="N")
    pca_dim: int = option(50, "dimensions that PCA keeps", rule=AT_LEAST_ONE)
    overclusters: int = option(
        10, "clusters of overclustering", rule=Rule(lambda number: number >= 2, "must be at least 2"), metavar="K"
    )
    upsample: str = option(
        "features",
        "what is enlarged to the clip's size: features before k-means (bilinear), labels after it (nearest)",
        choices=("features", "labels"),
    )
    temporal: str = option(
        "repeat",
        "frames of a tubelet: repeat its tokens; keep only the first frame (subsample_gt); interpolate (trilinear)",
        choices=("repeat", "subsample_gt", "trilinear"),
    )
    kmeans_points: int = option(
        256, "points that k-means is fitted on, for each cluster, drawn by seed; 0: all", rule=NOT_NEGATIVE, metavar="N"
    )
    kmeans_iterations: int = option(50, "iterations of k-means", rule=AT_LEAST_ONE)
    kmeans_restarts: int = option(5, "runs of k-means, of which the best counts", rule=AT_LEAST_ONE)


def reduce_tokens(clips: Sequence[np.ndarray], dim: int) -> list[np.ndarray]:
    """Standardise each dimension over all tokens of all given clips, then PCA without whitening.

    Args:
        clips: (t, h, w, D) float each.
        dim: what is kept, at most D and the number of tokens.

    Returns:
        (t, h, w, F) float32 each.
    """
    tokens = np.concatenate([clip.reshape(-1, clip.shape[-1]) for clip in clips]).astype(np.float64)
    scaled = StandardScaler().fit_transform(tokens)
    reduced = PCA(min(dim, *tokens.shape), svd_solver="full").fit_transform(scaled).astype(np.float32)
    ends = np.cumsum([clip[..., 0].size for clip in clips])[:-1]
    return [part.reshape(*clip.shape[:3], -1) for part, clip in zip(np.split(reduced, ends), clips, strict=True)]


def scored_frames(num_frames: int, tubelet: int, temporal: str) -> list[int]:
    """Frames of a clip whose masks are compared."""
    return list(range(0, num_frames, tubelet if temporal == "subsample_gt" else 1))


def spread_in_time(features: np.ndarray, tubelet: int, temporal: str) -> np.ndarray:
    """(t, h, w, F) of slots -> (T, h, w, F) of `scored_frames`."""
    if temporal == "subsample_gt":
        return features
    if temporal == "repeat":
        return features.repeat(tubelet, axis=0)
    t, h, w, _ = features.shape
    return _interpolate(features, (t * tubelet, h, w), "trilinear")


def cluster_clip(
    features: np.ndarray, num_clusters: int, size: tuple[int, int], config: ClusteringConfig, *, seed: int
) -> np.ndarray:
    """k-means over all pixels of one clip.

    Args:
        features: (T, h, w, F).
        size: (H, W) of the result.

    Returns:
        (T, H, W) cluster of every pixel.
    """
    frames, h, w, dim = features.shape
    if config.upsample == "features":
        # Frame by frame: with frames unchanged in number, trilinear is bilinear in each.
        features, (h, w) = _interpolate(features, (frames, *size), "trilinear"), size
    points = features.reshape(-1, dim)
    fitted = KMeans(
        num_clusters,
        n_init=config.kmeans_restarts,
        max_iter=config.kmeans_iterations,
        tol=0,
        random_state=seed,
        algorithm="lloyd",
    ).fit(drawn(points, config.kmeans_points * num_clusters, seed=seed))
    clusters = fitted.predict(points).reshape(frames, h, w)
    if config.upsample == "features":
        return clusters
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, (h, w), strict=True))  # nearest
    return clusters[:, rows][:, :, columns]


def drawn(points: np.ndarray, number: int, *, seed: int) -> np.ndarray:
    """`number` of the points, drawn without replacement; all of them for 0, or if there are not more."""
    if not 0 < number < len(points):
        return points
    return points[np.random.default_rng(seed).choice(len(points), number, replace=False)]


def _interpolate(features: np.ndarray, size: tuple[int, ...], mode: str) -> np.ndarray:
    """(t, h, w, F) -> (*size, F), half-pixel centres."""
    moved = torch.from_numpy(features).movedim(-1, 0)[None]
    return F.interpolate(moved, size=size, mode=mode, align_corners=False)[0].movedim(0, -1).numpy()
