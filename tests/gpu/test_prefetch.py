"""Prefetching on a GPU: equal batches while the GPU is busy, no waiting, no more memory than is said."""

import itertools

import pytest
import torch
from torch.utils.data import Dataset

from datasets.loading.loaders import build_train_loader
from datasets.loading.prefetch import DevicePrefetcher
from datasets.transforms.normalization import normalize_clips

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")]

BATCH, FRAMES, SIZE = 8, 4, 96
VALUES = BATCH * FRAMES * 3 * SIZE * SIZE  # of a batch
DEVICE = torch.device("cuda", 0)


class Noise(Dataset):
    """A training set without files, whose labels are the numbers of its clips; fails at `bad`."""

    def __init__(self, bad=None):
        self.bad = bad

    def __len__(self):
        return 24 * BATCH

    def __getitem__(self, key):
        if key == self.bad:
            raise RuntimeError("this clip is bad")
        generator = torch.Generator().manual_seed(1000 * key[0] + key[1])
        clip = torch.randint(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        mask = torch.rand(8, generator=generator) < 0.5
        return {"clip": clip.permute(0, 3, 1, 2), "mask": mask, "label": key[1], "index": key[1], "failures": []}


def prefetcher(pin_memory=True, num_workers=2, bad=None):
    loader = build_train_loader(Noise(bad), batch_size=BATCH, num_workers=num_workers, pin_memory=pin_memory)
    return DevicePrefetcher(loader, DEVICE)


def be_busy():
    """Some milliseconds of work for the GPU, so that the copies run beside it and the host is ahead."""
    x = torch.randn(4096, 4096, device=DEVICE)
    for _ in range(3):
        x = x @ x / 64
    return x


@pytest.mark.parametrize("pin_memory", [True, False])
def test_batches_are_those_of_the_cpu(pin_memory):
    """Shared, page-locked and the GPU's memory are all used again while the GPU is behind."""
    ahead, plain = prefetcher(pin_memory), build_train_loader(Noise(), batch_size=BATCH)
    for epoch in (0, 1):
        for each in (ahead.sampler, plain.sampler):
            each.set_epoch(epoch)
        expected = [(normalize_clips(same.clip).to(DEVICE), same.label.to(DEVICE), same.mask) for same in plain]
        wrong = []
        for batch, (clip, label, mask) in zip(ahead, expected, strict=True):
            be_busy()
            assert batch.clip.device == batch.label.device == DEVICE and batch.mask.device.type == "cpu"
            assert torch.equal(batch.mask, mask) and batch.to(DEVICE).clip is batch.clip
            wrong += [(batch.clip != clip).any(), (batch.label != label).any(), (batch.index != label).any()]
            batch.clip.fill_(torch.nan)  # must not reach a later batch
        assert len(wrong) == 3 * 24 and not torch.stack(wrong).any()


def test_the_host_never_waits():
    for batch in itertools.islice(prefetcher(), 2):  # kernels are compiled, constants copied
        del batch
    batches = iter(prefetcher())
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len([be_busy() for _ in batches]) == 24
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_one_more_batch_is_held_than_without():
    batches = iter(prefetcher())
    next(batches)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()  # with the batch ahead
    for batch in batches:
        batch.clip.mul_(2)
        del batch
    more = torch.cuda.max_memory_allocated() - before
    assert more < (4 + 1) * VALUES + 2**20  # float32 of one and uint8 of one


def test_given_up_in_the_middle():
    """Memory of the batch ahead is given out again when the copy into it is over."""
    for _ in range(10):
        batches = iter(prefetcher(num_workers=0))
        be_busy()
        next(batches)
        batches.close()
        sevens = [torch.full((VALUES,), 7.0, device=DEVICE) for _ in range(4)]
        assert all((tensor == 7).all() for tensor in sevens)


def test_errors_of_workers_come_through():
    ahead = prefetcher(bad=(0, 50))
    with pytest.raises(RuntimeError, match="this clip is bad"):
        list(ahead)
