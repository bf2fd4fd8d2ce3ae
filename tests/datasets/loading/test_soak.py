"""Two thousand batches of real videos: the workers' memory and open files stay where they are after the start."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.lists.read import read_list
from datasets.loading.loaders import build_train_loader
from datasets.masks.masks import MaskConfig
from datasets.pretraining import PretrainDataset
from datasets.sampling import ClipConfig
from datasets.transforms.presets import PretrainTransform

BATCHES, WARM_UP, EVERY = 2000, 400, 20


def memory_of(pid):
    """Resident KiB without shared pages: batches on their way to the main process come and go."""
    pages = [int(word) for word in Path(f"/proc/{pid}/statm").read_text().split()]
    return (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE") / 1024


def open_files_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_and_open_files_stay_flat(write_video, tmp_path):
    videos = [write_video(tmp_path / f"{i}.mp4", 4 + i % 3, width=32, height=32, gop=4) for i in range(40)]
    videos.append(tmp_path / "broken.mp4")
    videos[-1].write_bytes(videos[0].read_bytes()[:700])
    (tmp_path / "list.csv").write_text("".join(f"{video}\n" for video in videos))
    dataset = PretrainDataset(
        read_list(tmp_path / "list.csv"),
        ClipConfig(num_frames=2, sampling_rate=1),
        MaskConfig(mask_ratio=0.5),
        transform=PretrainTransform(16),
        grid=(1, 2, 2),
        seed=0,
    )
    loader = build_train_loader(dataset, batch_size=2, num_workers=2)
    rows, failures, count = [], 0, 0
    epoch = 0
    while count < BATCHES:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            failures += len(batch.failures)
            count += 1
            if count >= WARM_UP and count % EVERY == 0:
                pids = [os.getpid(), *(worker.pid for worker in loader._iterator._workers)]
                rows.append([[memory_of(pid), open_files_of(pid)] for pid in pids])
        epoch += 1
    assert failures > 50  # the broken one is opened, too
    table = np.array(rows, dtype=float)  # (samples, processes, 2)
    third = len(table) // 3
    growth = np.median(table[-third:], axis=0) - np.median(table[:third], axis=0)  # over about 1,070 batches
    assert (growth[:, 0] < 2048).all(), growth  # KiB
    assert (abs(growth[:, 1]) <= 1).all(), growth
    assert torch.get_num_threads() == 1
