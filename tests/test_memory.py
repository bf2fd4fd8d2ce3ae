"""A run that cannot fit is refused in one line that names the option, before any memory is taken."""

import subprocess
import sys
import time

import pytest
import torch
from conftest import write_list
from processes import FINETUNE, PRETRAIN, ROOT, run_script

from engine.config import RunFacts
from engine.distributed.world import World
from engine.errors import ConfigError
from engine.flags import parse
from engine.memory import GIB, Need, check_memory, memory_of
from run_class_finetuning import FinetuningConfig, build_evaluator, build_task, read_data

CPU = torch.device("cpu")
HUGE = [
    (PRETRAIN, {"num_prototypes": 10**9}, "--num_prototypes 1000000000: prototypes"),
    (PRETRAIN, {"num_prototypes": 10**30}, "--num_prototypes 1000000000000000000000000000000"),
    (PRETRAIN, {"projection_dims": 10**7}, "--projection_dims 10000000: projection network"),
    (PRETRAIN, {"projection_dims": "32|100000|100000"}, "--projection_dims 32 100000 100000"),
    (PRETRAIN, {"decoder_num_classes": 10**9}, "--decoder_num_classes 1000000000"),
    (PRETRAIN, {"num_masks": 10**9}, "--num_masks 1000000000"),
    (PRETRAIN, {"tubelet_size": 10**6, "num_frames": 10**6}, "--tubelet_size 1000000"),
    (PRETRAIN, {"input_size": 100_000}, "--input_size 100000"),
    (PRETRAIN, {"num_frames": 1_000_000}, "--num_frames 1000000"),
    (PRETRAIN, {"decoder_depth": 10_000}, "--decoder_depth 10000: must be between 0 and 1000"),
    (PRETRAIN, {"batch_size": 10**9}, "--batch_size 1000000000"),
    (PRETRAIN, {"num_sample": 10**9}, "--num_sample 1000000000"),
    (PRETRAIN, {"num_workers": 10**6}, "--num_workers 1000000: must be between 0 and 1024"),
    (FINETUNE, {"nb_classes": 10**9}, "--nb_classes 1000000000: must be between 1 and 1,000,000"),
    (FINETUNE, {"input_size": 100_000, "short_side_size": 100_000}, "--input_size 100000"),
    (FINETUNE, {"num_frames": 1_000_000}, "--num_frames 1000000"),
    (FINETUNE, {"test_num_segment": 10**9}, "--test_num_segment 1000000000"),
    (FINETUNE, {"test_num_crop": 10**9}, "--test_num_crop 1000000000"),
]


@pytest.mark.parametrize(("script", "changes", "words"), HUGE, ids=lambda value: str(value)[:50])
def test_what_is_too_large_is_refused_at_once(script, changes, words, data, tmp_path):
    began = time.monotonic()
    ended = run_script(script, *data.flags(script, tmp_path, **changes))
    assert ended.code == 2 and words in ended.errors[0] and len(ended.errors) == 1, ended.stderr
    assert "Traceback" not in ended.stderr and time.monotonic() - began < 40  # a busy machine; alone one second


def test_a_label_that_is_too_large(data, tmp_path):
    write_list(tmp_path / "train.csv", data.videos)
    with (tmp_path / "train.csv").open("a") as listed:
        listed.write(f"{data.videos[0]} 999999999\n")
    for name in ("val", "test"):
        write_list(tmp_path / f"{name}.csv", data.videos)
    ended = run_script(FINETUNE, *data.flags(FINETUNE, tmp_path / "out", data_path=tmp_path))
    assert ended.code == 2 and "line 13: label 999999999 would make" in ended.errors[0]


def test_a_batch_of_the_test_holds_as_many_clips_as_one_of_training(data):
    """And not its views times as many: --batch_size 8 with 2 x 2 views makes batches of two videos."""
    config = parse(FinetuningConfig, data.flags(FINETUNE, batch_size=8)).resolved()
    world, facts = World(0, 1, 0, CPU), RunFacts()
    listed = read_data(config, world, facts)
    loaders = build_evaluator(config, world, listed, build_task(config, listed, facts)).loaders
    clips = {part: len(next(iter(loaders[part])).clip) for part in ("train", "val", "test")}
    assert clips == {"train": 8 * 2, "val": 5, "test": 2 * 4}  # two augmentations of each; five videos to validate on


def test_the_largest_part_is_named():
    needs = [Need("--a 1", "first", 3 * GIB), Need("--b 2", "second", 5 * GIB)]
    check_memory(needs, CPU, available=8 * GIB)
    with pytest.raises(ConfigError, match=r"^--b 2: second: at least 5\.0 GiB of 8\.0 GiB .* cpu memory is 7\.9 GiB"):
        check_memory(needs, CPU, available=int(7.9 * GIB))


def test_the_memory_of_this_machine():
    with open("/proc/meminfo") as info:
        total = next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemTotal"))
    assert 0.1 * total < memory_of(CPU) <= 1.01 * total


@pytest.mark.slow
def test_the_peak_of_a_process_is_not_that_of_its_parent():
    child = "from engine.memory import most_resident; print(most_resident())"
    parent = (
        "import subprocess, sys; taken = bytearray(b'1') * 2**30; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    )
    ended = subprocess.run([sys.executable, "-c", parent, child], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.1 * GIB < int(ended.stdout) < 0.9 * GIB
