"""Samplers, collation and loaders: the order is exact over ranks, workers and restarts."""

import itertools
import pickle
import random
import tracemalloc

import numpy as np
import pytest
import torch
from processes import run_in_processes
from torch.utils.data import Dataset

from datasets.errors import AnnotationError, DecodeError
from datasets.loading.batch import Batch, collate
from datasets.loading.loaders import build_eval_loader, build_train_loader
from datasets.loading.samplers import EvalSampler, TrainSampler
from datasets.loading.workers import init_worker
from datasets.samples import sample_rng

NUM_SAMPLES = 23


class NoiseDataset(Dataset):
    """A training set without files: clips and masks from the sample's stream."""

    def __init__(self, repeats: int = 0) -> None:
        self.repeats = repeats

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        rng = sample_rng(0, epoch, index)
        shape = (self.repeats, 2, 3, 4, 4) if self.repeats else (2, 3, 4, 4)
        clip = torch.from_numpy(rng.integers(0, 256, size=shape, dtype=np.uint8))
        item = {"clip": clip, "index": index, "failures": [("bad.mp4", "torn", 0)] if index == 5 else []}
        if self.repeats:
            return item | {"label": index % 4}
        return item | {"mask": torch.from_numpy(rng.random(8) < 0.5)}


class RepeatedMaskDataset(NoiseDataset):
    """Pre-training with several crops and masks of each clip."""

    def __getitem__(self, key: tuple[int, int]) -> dict:
        item = super().__getitem__(key)
        del item["label"]
        return item | {"mask": torch.from_numpy(sample_rng(1, *key).random((self.repeats, 8)) < 0.5)}


class ViewsDataset(Dataset):
    """An evaluation set without files: six views of a video, all filled with its index."""

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> dict:
        clip = torch.full((6, 2, 3, 4, 4), index, dtype=torch.uint8)
        return {"clip": clip, "label": index % 4, "index": index, "views": 6, "failures": []}


class TornDataset(NoiseDataset):
    def __getitem__(self, key: tuple[int, int]) -> dict:
        raise DecodeError("some/clip.mp4", "cannot be decoded")


class GlobalRandomDataset(NoiseDataset):
    """Shows the states of a worker's global generators."""

    def __getitem__(self, key: tuple[int, int]) -> dict:
        draws = [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002
        clip = torch.tensor(draws + [float(torch.get_num_threads())], dtype=torch.float64).view(1, 1, 1, 4)
        return {"clip": clip, "index": key[1], "failures": []}


def epoch_of(loader, epoch: int) -> list[Batch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_equal(first: Batch, second: Batch) -> None:
    for name, value in vars(first).items():
        other = getattr(second, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


# ---- training order ----


def test_epochs_are_permutations_that_differ():
    loader = build_train_loader(NoiseDataset(), batch_size=4, seed=3)
    orders = [torch.cat([batch.index for batch in epoch_of(loader, epoch)]).tolist() for epoch in range(3)]
    assert len(loader) == 5 and all(len(order) == len(set(order)) == 20 for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == torch.cat([batch.index for batch in epoch_of(loader, 1)]).tolist()
    other_seed = build_train_loader(NoiseDataset(), batch_size=4, seed=4)
    assert orders[0] != torch.cat([batch.index for batch in epoch_of(other_seed, 0)]).tolist()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_make_the_single_process_batch(world_size):
    single = epoch_of(build_train_loader(NoiseDataset(), batch_size=2 * world_size, seed=1), 2)
    ranks = [
        epoch_of(build_train_loader(NoiseDataset(), batch_size=2, rank=rank, world_size=world_size, seed=1), 2)
        for rank in range(world_size)
    ]
    assert len(single) == len(ranks[0]) > 2
    for whole, *parts in zip(single, *ranks, strict=True):
        for name in ("clip", "mask", "index"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
        assert whole.failures == [failure for part in parts for failure in part.failures]


def test_workers_change_nothing():
    expected = [epoch_of(build_train_loader(NoiseDataset(), batch_size=4), epoch) for epoch in (0, 1)]
    loader = build_train_loader(NoiseDataset(), batch_size=4, num_workers=2)
    for epoch in (0, 1):  # the second one in the same workers
        for batch, same in zip(epoch_of(loader, epoch), expected[epoch], strict=True):
            assert_equal(batch, same)


def test_iterating_leaves_the_global_generators_alone():
    loader = build_train_loader(NoiseDataset(), batch_size=4)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    epoch_of(loader, 0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cut", [0, 1, 4, 5])
def test_resume_in_mid_epoch(cut, num_workers):
    straight = epoch_of(build_train_loader(NoiseDataset(), batch_size=4), 3) + epoch_of(
        build_train_loader(NoiseDataset(), batch_size=4), 4
    )
    interrupted = build_train_loader(NoiseDataset(), batch_size=4, num_workers=num_workers)
    interrupted.sampler.set_epoch(3)
    seen = [batch for batch, _ in zip(interrupted, range(cut), strict=False)]
    state = pickle.loads(pickle.dumps(interrupted.sampler.state_dict(cut)))

    resumed = build_train_loader(NoiseDataset(), batch_size=4, num_workers=num_workers)
    resumed.sampler.load_state_dict(state)
    assert len(resumed) == 5
    seen += epoch_of(resumed, 3) + epoch_of(resumed, 4)
    assert len(seen) == len(straight) == 10
    for batch, same in zip(seen, straight, strict=True):
        assert_equal(batch, same)


def test_resume_on_another_number_of_ranks():
    state = TrainSampler(NUM_SAMPLES, batch_size=4, world_size=1, seed=2).state_dict(2)
    whole = TrainSampler(NUM_SAMPLES, batch_size=4, seed=2)
    whole.load_state_dict(state)
    halves = [TrainSampler(NUM_SAMPLES, batch_size=2, rank=rank, world_size=2, seed=2) for rank in (0, 1)]
    for half in halves:
        half.load_state_dict(state)
    first, second = (np.array(list(half)).reshape(-1, 2, 2) for half in halves)
    assert np.concatenate([first, second], axis=1).reshape(-1, 2).tolist() == [list(key) for key in whole]


def test_world_size_may_change_at_every_cut():
    """1, then 2, then 4 ranks: the videos of every global step are those of a run that was not cut off."""
    straight = np.array(list(TrainSampler(107, batch_size=8, seed=2))).reshape(-1, 8, 2)
    state, steps = TrainSampler(107, batch_size=8, seed=2).state_dict(0), []
    for world_size, end in ((1, 3), (2, 7), (4, 13)):
        ranks = [
            TrainSampler(107, batch_size=8 // world_size, rank=rank, world_size=world_size, seed=2)
            for rank in range(world_size)
        ]
        shares = []
        for sampler in ranks:
            sampler.load_state_dict(state)
            shares.append(np.array(list(sampler)).reshape(-1, 8 // world_size, 2))
        steps.append(np.concatenate(shares, axis=1)[: end - sum(map(len, steps))])
        state = ranks[-1].state_dict(end)
    assert np.array_equal(np.concatenate(steps), straight)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"seed": 9}, "--seed"), ({"num_samples": 24}, "num_samples"), ({"batch_size": 5}, "global_batch")],
)
def test_resume_refuses_another_order(change, name):
    state = TrainSampler(NUM_SAMPLES, batch_size=4, seed=2).state_dict(1)
    options = {"num_samples": NUM_SAMPLES, "batch_size": 4, "seed": 2} | change
    with pytest.raises(ValueError, match=name):
        TrainSampler(options.pop("num_samples"), **options).load_state_dict(state)


def test_accumulation_can_replace_ranks():
    """After two batches of 8 the epoch goes on in batches of 4, at the fifth of them."""
    state = TrainSampler(NUM_SAMPLES, batch_size=4, world_size=2, seed=2).state_dict(1)
    sampler = TrainSampler(NUM_SAMPLES, batch_size=4, seed=2)
    straight = list(sampler)
    sampler.load_state_dict(state)
    assert list(sampler) == straight[8:]


# ---- large lists ----


def first_batch(num_samples: int, rank: int) -> tuple[list, int]:
    """What a rank of 1,024 asks for first, and the most memory that making the sampler and asking took."""
    tracemalloc.start()
    sampler = TrainSampler(num_samples, batch_size=4, rank=rank, world_size=1024, seed=0)
    keys = list(itertools.islice(sampler, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return keys, peak


def test_a_billion_videos_on_1024_ranks_start_like_ten_thousand():
    first_batch(10**4, 0)  # what is allocated once only
    small, large = (first_batch(size, 1023)[1] for size in (10**4, 10**9))
    assert large < 2 * small + 65_536 and large < 300_000  # bytes; a stored order would take 8 * 10^9
    batches = [first_batch(10**9, rank)[0] for rank in range(0, 1024, 31)]
    assert len({index for batch in batches for _, index in batch}) == 4 * len(batches)


def test_every_video_of_a_large_list_comes_once_over_the_ranks():
    ranks = [TrainSampler(10_007, batch_size=5, rank=rank, world_size=16, seed=4) for rank in range(16)]
    orders = []
    for epoch in (0, 1):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in ranks]
        assert all(len(share) == len(sampler) == 10_007 // 80 * 5 for share, sampler in zip(shares, ranks, strict=True))
        seen = [index for share in shares for _, index in share]
        assert len(set(seen)) == len(seen) == 10_007 - 10_007 % 80 and max(seen) < 10_007
        orders.append(seen)
    assert orders[0] != orders[1] and set(orders[0]) != set(orders[1])  # others are left out


def test_a_list_that_batches_fill_exactly_is_shown_completely():
    shares = [list(TrainSampler(10_000, batch_size=5, rank=rank, world_size=16, seed=1)) for rank in range(16)]
    assert sorted(index for share in shares for _, index in share) == list(range(10_000))


def test_too_few_videos_for_one_batch():
    with pytest.raises(AnnotationError, match=r"23 videos.*24.*--batch_size 12 x 2 ranks"):
        build_train_loader(NoiseDataset(), batch_size=12, world_size=2)


# ---- evaluation order ----


@pytest.mark.parametrize("num_samples", [1, 2, 7, 23])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_covers_every_index_once(world_size, num_samples):
    shares = [list(EvalSampler(num_samples, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == list(range(num_samples))
    assert [len(EvalSampler(num_samples, rank=r, world_size=world_size)) for r in range(world_size)] == [
        len(share) for share in shares
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_loader(num_workers):
    batches = list(build_eval_loader(ViewsDataset(), batch_size=4, rank=1, world_size=2, num_workers=num_workers))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(1, NUM_SAMPLES, 2))
    for batch in batches:
        assert batch.views == 6 and len(batch.clip) == 6 * len(batch.index) == 6 * len(batch.label)
        by_video = batch.clip.view(len(batch.index), 6, -1)
        assert (by_video == batch.index.to(torch.uint8)[:, None, None]).all()


# ---- batches ----


def test_collate_repeats_are_video_major():
    items = [NoiseDataset(repeats=3)[(0, index)] for index in (5, 2)]
    batch = collate(items)
    assert batch.clip.shape == (6, 2, 3, 4, 4) and batch.views == 3 and batch.mask is None
    assert torch.equal(batch.clip[3], items[1]["clip"][0])
    assert batch.index.tolist() == [5, 5, 5, 2, 2, 2] and batch.label.tolist() == [1, 1, 1, 2, 2, 2]
    assert batch.failures == [("bad.mp4", "torn", 0)]


def test_collate_pretraining():
    items = [NoiseDataset()[(0, index)] for index in (0, 1)]
    batch = collate(items)
    assert batch.clip.shape == (2, 2, 3, 4, 4) and batch.mask.shape == (2, 8) and batch.label is None
    assert batch.index.dtype == torch.int64 and batch.failures == []


def test_collate_repeated_pretraining_is_video_major():
    items = [RepeatedMaskDataset(repeats=3)[(0, index)] for index in (5, 2)]
    batch = collate(items)
    assert batch.clip.shape == (6, 2, 3, 4, 4) and batch.mask.shape == (6, 8) and batch.label is None
    assert torch.equal(batch.mask, torch.cat([items[0]["mask"], items[1]["mask"]])) and batch.views == 3
    assert torch.equal(batch.clip[4], items[1]["clip"][1])
    assert batch.index.tolist() == [5, 5, 5, 2, 2, 2] and batch.failures == [("bad.mp4", "torn", 0)]


def test_batch_to_normalises_once_and_keeps_the_rest():
    batch = collate([NoiseDataset()[(0, index)] for index in (0, 1)])
    moved = batch.to("cpu")
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (batch.clip.permute(0, 2, 1, 3, 4).float() / 255 - mean) / std
    assert torch.equal(moved.clip, expected)
    assert torch.equal(moved.to("cpu").clip, expected)
    assert torch.equal(moved.mask, batch.mask) and torch.equal(moved.index, batch.index)
    assert batch.clip.dtype == torch.uint8  # the original is left as it was


# ---- workers ----


def test_workers_are_seeded_apart_and_single_threaded():
    """By rank, worker and epoch, though the workers of the second epoch are those of the first."""
    draws = []
    for rank in (0, 1):
        loader = build_train_loader(GlobalRandomDataset(), batch_size=1, rank=rank, world_size=2, seed=0, num_workers=2)
        for epoch in (0, 1):
            rows = [batch.clip.flatten().tolist() for batch in epoch_of(loader, epoch)]
            assert all(row[3] == 1 for row in rows)
            draws += [tuple(row[:3]) for row in rows[:2]]  # the first draw of each of the two workers
    for generator in range(3):
        assert len({draw[generator] for draw in draws}) == 8


def test_worker_seeds_of_an_epoch_do_not_depend_on_the_ones_before():
    """A run that starts in a later epoch sees the numbers of one that came through the earlier ones."""
    rows = []
    for epochs in ((0, 1), (1,)):
        loader = build_train_loader(GlobalRandomDataset(), batch_size=2, seed=0, num_workers=1)
        rows.append([torch.cat([batch.clip for batch in epoch_of(loader, epoch)]) for epoch in epochs][-1])
    assert torch.equal(*rows)


def test_seeding_leaves_the_main_process_alone():
    state = random.getstate()
    epoch_of(build_train_loader(NoiseDataset(), batch_size=4, seed=3), 2)
    assert random.getstate() == state


def test_init_worker_is_repeatable():
    """In a process of its own, whose signals it blocks."""

    def target():
        draws = []
        for _ in range(2):
            init_worker(1, seed=3, rank=2)
            draws.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
        assert draws[0] == draws[1]

    (finished,) = run_in_processes(target)
    assert finished.code == 0, finished.stderr


@pytest.mark.parametrize("num_workers", [0, 1])
def test_decode_errors_reach_the_caller_with_the_path(num_workers):
    loader = build_train_loader(TornDataset(), batch_size=4, num_workers=num_workers)
    with pytest.raises(RuntimeError, match=r"some/clip\.mp4"):  # a worker's DecodeError arrives as its base class
        next(iter(loader))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_workers_lie_in_shared_memory(num_workers):
    """The worker's own thread puts them there, whose errors reach the main process."""
    batch = next(iter(build_train_loader(NoiseDataset(), batch_size=4, num_workers=num_workers)))
    assert batch.clip.is_shared() == batch.mask.is_shared() == (num_workers > 0)
