"""Steps of the unsupervised protocol, against NumPy and hand-worked cases."""

import numpy as np
import pytest

from evaluation.segmentation.clips import frames_of, random_frames, uniform_frames
from evaluation.segmentation.clustering import (
    ClusteringConfig,
    cluster_clip,
    drawn,
    reduce_tokens,
    scored_frames,
    spread_in_time,
)
from evaluation.segmentation.matching import match_hungarian


@pytest.fixture
def tokens():
    random = np.random.RandomState(0)
    return (random.randn(4, 5, 6, 12) * np.arange(1, 13) + 3).astype(np.float32)


def test_reduction_equals_the_singular_value_decomposition(tokens):
    """Distances between tokens, which are what k-means sees, are those of the first components of z-scores."""
    flat = tokens.reshape(-1, 12).astype(float)
    scaled = (flat - flat.mean(0)) / flat.std(0)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    expected = left[:, :5] * values[:5]
    found = reduce_tokens([tokens], 5)[0].reshape(-1, 5)
    gram = found @ found.T
    np.testing.assert_allclose(gram, expected @ expected.T, atol=1e-3 * np.abs(gram).max())


def test_reduction_of_several_clips_is_one(tokens):
    """A constant dimension is no error, and shared statistics differ from a clip's own."""
    first, second = tokens[:2], 2 * tokens[2:]
    second[..., 3] = first[..., 3] = 1
    together = reduce_tokens([first, second], 50)
    assert [part.shape for part in together] == [(2, 5, 6, 12)] * 2
    joined = reduce_tokens([np.concatenate([first, second])], 50)[0]
    np.testing.assert_array_equal(np.concatenate(together), joined)
    assert not np.allclose(np.abs(together[0]), np.abs(reduce_tokens([first], 50)[0]), atol=1e-2)


def test_frames_of_a_tubelet(tokens):
    assert scored_frames(8, 2, "repeat") == scored_frames(8, 2, "trilinear") == list(range(8))
    assert scored_frames(8, 2, "subsample_gt") == [0, 2, 4, 6]
    repeated = spread_in_time(tokens, 2, "repeat")
    assert all(np.array_equal(repeated[t], tokens[t // 2]) for t in range(8))
    assert spread_in_time(tokens, 2, "subsample_gt") is tokens
    between = spread_in_time(tokens, 2, "trilinear")
    np.testing.assert_allclose(between[1], 0.75 * tokens[0] + 0.25 * tokens[1], rtol=1e-5)
    np.testing.assert_allclose(between[[0, 7]], tokens[[0, 3]], rtol=1e-5)


@pytest.mark.parametrize("upsample", ["features", "labels"])
@pytest.mark.parametrize("points", [0, 20])
def test_clusters_of_separate_features_are_their_regions(upsample, points):
    regions = np.zeros((2, 4, 4), int)
    regions[:, :, 2:], regions[1, 2:] = 1, 2
    features = np.eye(3, dtype=np.float32)[regions] * 10
    config = ClusteringConfig(upsample=upsample, kmeans_points=points)
    found = cluster_clip(features, 3, (16, 16), config, seed=1)
    large = regions.repeat(4, axis=1).repeat(4, axis=2)
    assert found.shape == large.shape
    assert match_hungarian(found, large).miou > (0.999 if upsample == "labels" else 0.8)
    np.testing.assert_array_equal(found, cluster_clip(features, 3, (16, 16), config, seed=1))


def test_points_are_drawn_once_each_by_seed():
    points = np.arange(50)[:, None]
    found = drawn(points, 20, seed=3)
    assert len(set(found.ravel().tolist())) == 20
    assert np.array_equal(found, drawn(points, 20, seed=3))
    assert not np.array_equal(found, drawn(points, 20, seed=4))
    assert drawn(points, 0, seed=3) is points
    assert drawn(points, 60, seed=3) is points


def test_uniform_frames():
    """floor((k + 1/2) L / n), worked by hand."""
    assert uniform_frames(50, 4) == [6, 18, 31, 43]
    assert uniform_frames(3, 4) == [0, 1, 1, 2]
    assert uniform_frames(16, 16) == list(range(16))


def test_random_frames_depend_on_name_and_seed_alone():
    found = random_frames(40, 16, name="dog", seed=1)
    assert found == sorted(set(found)) and found[-1] < 40
    assert found == random_frames(40, 16, name="dog", seed=1)
    assert found not in (random_frames(40, 16, name="cat", seed=1), random_frames(40, 16, name="dog", seed=2))
    assert len(random_frames(5, 16, name="dog", seed=1)) == 16


def test_uniform_frames_are_the_same_for_every_seed():
    class Video:
        name, masks = "dog", range(40)

    uniform, random = ClusteringConfig(), ClusteringConfig(frames="random")
    assert frames_of(Video, uniform, 4, seed=1) == frames_of(Video, uniform, 4, seed=2)
    assert frames_of(Video, random, 4, seed=1) != frames_of(Video, random, 4, seed=2)
