"""Orders of the samples: balanced over classes, epochs of any length; the same on any number of ranks, resumable."""

from collections import Counter

import numpy as np
import pytest

from datasets.loading.orders import BalancedOrder, ShuffledOrder
from datasets.loading.samplers import TrainSampler

LABELS = np.array([5] * 40 + [2] * 6 + [0] * 3 + [9])[np.random.default_rng(0).permutation(50)]


def balanced(length=None, seed=0):
    return BalancedOrder(LABELS.tolist(), length=length, seed=seed)


def whole(order, epoch):
    return order(epoch, np.arange(order.length))


@pytest.mark.parametrize("length", [None, 7, 50, 130])
def test_balanced_classes_come_equally_often(length):
    order = balanced(length)
    for epoch in range(4):
        videos, _ = whole(order, epoch)
        counts = Counter(LABELS[videos].tolist())
        assert sum(counts.values()) == (length or 50)
        assert max(counts.values()) - min(counts.get(label, 0) for label in (0, 2, 5, 9)) <= 1


def test_balanced_passes_go_on_from_epoch_to_epoch():
    """No video of a class comes a second time before all others of it have come, whatever the epochs' length."""
    order = balanced(50)
    seen = Counter()
    for epoch in range(12):
        videos, _ = whole(order, epoch)
        seen.update(videos.tolist())
        for label in (0, 2, 5, 9):
            counts = [seen[video] for video in np.flatnonzero(label == LABELS)]
            assert max(counts) - min(counts) <= 1
    assert len(seen) == 50


@pytest.mark.parametrize(
    "order", [balanced(50), balanced(130), ShuffledOrder(50, length=130), ShuffledOrder(50, length=30)]
)
def test_nothing_in_an_epoch_is_the_same_sample_twice(order):
    for epoch in range(3):
        pairs = list(zip(*(part.tolist() for part in whole(order, epoch)), strict=True))
        assert len(set(pairs)) == len(pairs) == order.length
        assert min(occurrence for _, occurrence in pairs) == 0
        times = Counter(video for video, _ in pairs)
        assert max(times.values()) > 1 or order.length == 30


def test_an_epoch_of_the_length_of_the_list_is_as_without_the_option():
    plain, same = ShuffledOrder(50, seed=3), ShuffledOrder(50, length=50, seed=3)
    for epoch in (0, 1, 7):
        for a, b in zip(whole(plain, epoch), whole(same, epoch), strict=True):
            np.testing.assert_array_equal(a, b)
        assert sorted(whole(plain, epoch)[0]) == list(range(50)) and not whole(plain, epoch)[1].any()


def test_short_epochs_go_through_the_list():
    order = ShuffledOrder(50, length=20, seed=1)
    seen = np.concatenate([whole(order, epoch)[0] for epoch in range(5)])
    assert sorted(seen[:50]) == sorted(seen[50:]) == list(range(50))


def test_classes_of_one_size_are_drawn_independently():
    """Half of each comes in an epoch: the same places of both would tie videos of two classes together for ever."""
    videos = whole(BalancedOrder([0] * 20 + [1] * 20, length=20), 0)[0].tolist()
    first, second = {video for video in videos if video < 20}, {video - 20 for video in videos if video >= 20}
    assert len(first) == len(second) == 10 and first != second


def test_seed_and_epoch_decide():
    assert whole(balanced(), 0)[0].tolist() == whole(balanced(), 0)[0].tolist()
    assert whole(balanced(), 0)[0].tolist() != whole(balanced(), 1)[0].tolist()
    assert whole(balanced(), 0)[0].tolist() != whole(balanced(seed=1), 0)[0].tolist()


@pytest.mark.parametrize("make", [balanced, lambda length: ShuffledOrder(50, length=length)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_and_resuming(make, size):
    """The batches of one rank, split; and after two steps on another number of ranks the rest of them."""
    one = TrainSampler(50, batch_size=6, order=make(75))
    one.set_epoch(2)
    batches = np.array([(*key, 0)[:3] for key in one]).reshape(12, 6, 3)
    state = one.state_dict(2)
    ranks = [TrainSampler(50, batch_size=6 // size, rank=r, world_size=size, order=make(75)) for r in range(size)]
    for sampler in ranks:
        sampler.load_state_dict(state)
        sampler.set_epoch(2)
    shares = [np.array([(*key, 0)[:3] for key in sampler]).reshape(10, 6 // size, 3) for sampler in ranks]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), batches[2:])


@pytest.mark.parametrize(
    ("before", "after", "flag"),
    [
        (balanced(), None, "--balanced_sampling was 1 and is now off"),
        (None, balanced(), "--balanced_sampling was off and is now 1"),
        (ShuffledOrder(50, length=20), None, "--samples_per_epoch was 20 and is now off"),
        (ShuffledOrder(50, length=20), ShuffledOrder(50, length=30), "--samples_per_epoch was 20 and is now 30"),
    ],
)
def test_another_order_is_not_resumed(before, after, flag):
    state = TrainSampler(50, batch_size=5, order=before).state_dict(1)
    with pytest.raises(ValueError, match=flag):
        TrainSampler(50, batch_size=5, order=after).load_state_dict(state)
