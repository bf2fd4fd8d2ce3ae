"""Shared memory of the loader's workers: written again only after it has been given back, in real processes."""

import pytest
import torch
from processes import run_in_processes
from torch.utils.data import DataLoader, Dataset

from datasets.loading.batch import WorkerCollate
from datasets.loading.shared import MOST_SEGMENTS, Segments, release

NUM_BATCHES = 30


class Clips(Dataset):
    """Clips with the channels last in memory, all filled with their number."""

    def __len__(self):
        return 2 * NUM_BATCHES

    def __getitem__(self, index):
        clip = torch.full((4, 16, 16, 3), index, dtype=torch.uint8).permute(0, 3, 1, 2)
        return {"clip": clip, "mask": torch.arange(8) % 2 == index % 2, "index": index, "failures": []}


def loader(*, reuse, num_workers=2):
    return DataLoader(Clips(), batch_size=2, num_workers=num_workers, collate_fn=WorkerCollate(reuse=reuse))


def check_batch(number, clip):
    assert clip.shape == (2, 4, 3, 16, 16) and clip.stride(2) == 1  # layout kept
    assert (clip == torch.tensor([2 * number, 2 * number + 1]).view(2, 1, 1, 1, 1)).all()


@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
def test_given_back_memory_is_used_again_and_batches_are_right(strategy):
    def target():
        torch.multiprocessing.set_sharing_strategy(strategy)
        addresses = set()
        for number, batch in enumerate(loader(reuse=True)):
            assert batch.reused and batch.clip.is_shared() and batch.mask.is_shared()
            check_batch(number, batch.clip)
            addresses.add(batch.clip.data_ptr())
            release(batch.clip)
        assert number == NUM_BATCHES - 1
        assert len(addresses) <= 2 * MOST_SEGMENTS, len(addresses)  # of 2 workers; mapped once each

    (finished,) = run_in_processes(target)
    assert finished.code == 0, finished.stderr


@pytest.mark.parametrize("reuse", [True, False])
def test_what_is_not_given_back_is_never_overwritten(reuse):
    batches = list(loader(reuse=reuse))
    assert len(batches) == NUM_BATCHES and all(batch.reused == reuse for batch in batches)
    for number, batch in enumerate(batches):
        check_batch(number, batch.clip)


def test_the_main_process_uses_private_memory():
    for number, batch in enumerate(loader(reuse=True, num_workers=0)):
        assert not batch.reused and not batch.clip.is_shared()
        check_batch(number, batch.clip)


def test_segments():
    segments = Segments()
    first, second = segments.take(100), segments.take(100)
    assert first.is_shared() and len(first) == 100 and first.data_ptr() != second.data_ptr()
    release(first)
    assert segments.take(60).data_ptr() == first.data_ptr()  # the larger one serves
    assert segments.take(60).data_ptr() not in (first.data_ptr(), second.data_ptr())  # all in use
    release(second)
    assert segments.take(101).data_ptr() != second.data_ptr()  # too small


def test_only_so_many_segments_are_kept():
    segments = Segments()
    taken = [segments.take(10) for _ in range(MOST_SEGMENTS + 3)]
    for tensor in taken:
        release(tensor)
    again = [segments.take(10) for _ in range(MOST_SEGMENTS + 3)]
    old, new = ({tensor.data_ptr() for tensor in tensors} for tensors in (taken, again))
    assert len(old) == len(new) == MOST_SEGMENTS + 3 and len(old & new) == MOST_SEGMENTS
