"""Batches one ahead: order, errors and memory. The copy itself runs on a GPU only: tests/gpu/test_prefetch.py."""

import weakref

import pytest
import torch
from torch.utils.data import DataLoader

from datasets.loading.loaders import LoaderConfig
from datasets.loading.prefetch import one_ahead


class Item:
    def __init__(self, number):
        self.number = number


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_item_in_order_and_the_next_one_fetched_before(count):
    fetched = []

    def fetch():
        for number in range(count):
            fetched.append(number)
            yield Item(number)

    for number, item in enumerate(one_ahead(fetch())):
        assert item.number == number
        assert fetched == list(range(min(number + 2, count)))
    assert fetched == list(range(count))


def test_what_was_given_out_is_not_held():
    """Not even while the next item is fetched: a batch is large."""
    alive = []

    def fetch():
        for number in range(4):
            assert [ref() for ref in alive[:-1]] == [None] * len(alive[:-1])  # the last one waits to be given out
            item = Item(number)
            alive.append(weakref.ref(item))
            yield item
            del item

    items = one_ahead(fetch())
    for item in items:
        del item
    assert [ref() for ref in alive] == [None] * 4


def test_errors_come_through():
    def fetch():
        yield from (0, 1, 2)
        raise RuntimeError("worker died")

    items = one_ahead(fetch())
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(RuntimeError, match="worker died"):  # before the batch ahead is given out
        next(items)


def test_off_a_gpu_the_loader_is_left_as_it_is():
    loader = DataLoader([0])
    for prefetch in (True, False):
        assert LoaderConfig(gpu_prefetch=prefetch).prefetched(loader, torch.device("cpu")) is loader
    assert LoaderConfig().gpu_prefetch
