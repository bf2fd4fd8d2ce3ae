"""Folders that the real DeepSpeed wrote (golden/make_deepspeed.py) give the weights they were made with."""

import argparse
import logging
import os
import pathlib
import shutil
import sys

import pytest
import torch
from golden.make_deepspeed import ARGS, CASES, DTYPES, EPOCH, FROZEN, tiny_model

from engine.checkpointing.deepspeed_folder import read_deepspeed
from engine.errors import CheckpointError

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "deepspeed"
MODEL, SHARD = "mp_rank_00_model_states.pt", "zero_pp_rank_{}_mp_rank_00_{}_states.pt"


@pytest.fixture
def copy(tmp_path):
    """A copy of a case's folder that may be damaged: the tag's folder in it."""

    def make(case):
        shutil.copytree(GOLDEN / case, tmp_path / case)
        return tmp_path / case / "global_step1"

    return make


def rounded(tensor, dtype):
    return tensor.to(dtype).float() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_it_was_made_with(case):
    imported = set(sys.modules)
    stage, dtype, _ = CASES[case]
    tensors, found_stage, client_state = read_deepspeed(GOLDEN / case)
    model = tiny_model()
    truth = model.state_dict()
    trained = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    assert found_stage == stage
    assert set(tensors) == set(truth)
    for name, expected in truth.items():
        has_master = stage > 0 and name in trained
        expected = expected if has_master else rounded(expected, DTYPES[dtype])
        assert tensors[name].dtype == expected.dtype, name
        assert torch.equal(tensors[name], expected), name
    assert tensors["updates"].dtype == torch.int64 and tensors["twin.weight"].equal(tensors["head.weight"])
    assert FROZEN in tensors and FROZEN not in trained and not tensors[FROZEN].requires_grad
    assert client_state == {"epoch": EPOCH, "args": ARGS}
    assert "deepspeed" not in set(sys.modules) - imported


def test_masters_are_not_what_a_half_precision_model_holds():
    truth = tiny_model().state_dict()
    assert not torch.equal(truth["odd"], rounded(truth["odd"], torch.float16))


def test_tensors_do_not_share_memory():
    """Each can be saved by itself, without the vector of all of them."""
    for case in ("zero2_bf16", "zero3_fp32"):
        tensors, *_ = read_deepspeed(GOLDEN / case)
        assert all(tensor.untyped_storage().nbytes() <= tensor.nbytes + 16 for tensor in tensors.values())


@pytest.mark.parametrize(
    "path",
    ["zero0_fp32", "zero0_fp32/global_step1", f"zero0_fp32/global_step1/{MODEL}", f"zero1_fp32/global_step1/{MODEL}"],
)
def test_paths_that_are_taken(path):
    expected = tiny_model().state_dict()
    tensors, *_ = read_deepspeed(str(GOLDEN / path))
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_stage_3_file_stands_for_its_folder():
    tensors, stage, _ = read_deepspeed(GOLDEN / "zero3_bf16" / "global_step1" / SHARD.format(1, "model"))
    assert stage == 3 and torch.equal(tensors["twin.weight"], tiny_model().state_dict()["head.weight"])


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("zero1_fp32", MODEL),
        ("zero1_fp32", SHARD.format(0, "optim")),
        ("zero2_fp32", SHARD.format(1, "optim")),
        ("zero1_bf16", "bf16_" + SHARD.format(1, "optim")),
        ("zero3_fp32", SHARD.format(0, "model")),
        ("zero3_fp32", SHARD.format(1, "model")),
        ("zero3_fp32", SHARD.format(1, "optim")),
    ],
)
def test_missing_file(case, name, copy):
    folder = copy(case)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{folder}: .*{name.removeprefix('bf16_')}.* missing"):
        read_deepspeed(folder.parent)


@pytest.mark.parametrize("case", CASES)
def test_every_damaged_file_is_found(case, copy):
    folder = copy(case)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        flipped = bytearray(whole)
        place = whole.index(b"data.pkl") + 200  # in the first member: its checksum fails
        flipped[place] ^= 0x10
        for content in (bytes(flipped), whole[: len(whole) // 2], b""):
            file.write_bytes(content)
            with pytest.raises(CheckpointError, match=str(file)):
                read_deepspeed(folder)
        file.write_bytes(whole)
    read_deepspeed(folder)


@pytest.mark.parametrize("tag", ["global_step9", "", "../zero0_fp32/global_step1", "\xff"])
def test_latest_names_what_is_not_there(tag, copy):
    root = copy("zero1_fp32").parent
    (root / "latest").write_text(tag, encoding="latin1")
    with pytest.raises(CheckpointError, match=r"latest: names .*one that is there: global_step1"):
        read_deepspeed(root)


def test_not_a_deepspeed_folder(tmp_path, copy):
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        read_deepspeed(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="not a DeepSpeed checkpoint"):
        read_deepspeed(tmp_path)
    root = copy("zero1_fp32").parent
    (root / "latest").unlink()
    with pytest.raises(CheckpointError, match="give the path of one of its folders: global_step1"):
        read_deepspeed(root)


def shard(**changes):
    """What an optimizer file holds, as far as it is read."""
    state = {"zero_stage": 1, "partition_count": [2, 2], "single_partition_of_fp32_groups": [torch.zeros(4)] * 2}
    return {"optimizer_state_dict": {**state, **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition_count": [4, 4]}, r"rank_1_.*saved by 4 ranks in ZeRO stage 1, but zero_pp_rank_0_.* by 2"),
        ({"zero_stage": 2}, "in ZeRO stage 2, but .* in stage 1: files of two runs"),
        ({}, "do not form a consistent DeepSpeed checkpoint"),  # too few values
        (
            {"single_partition_of_fp32_groups": [torch.zeros(5000)] * 2},
            "do not form a consistent DeepSpeed checkpoint .*values saved",
        ),
        ({"single_partition_of_fp32_groups": [torch.zeros(4)]}, "do not form a consistent DeepSpeed checkpoint"),
        ({"single_partition_of_fp32_groups": [3, "x"]}, "do not form a consistent DeepSpeed checkpoint"),
        ({"partition_count": "many"}, "do not form a consistent DeepSpeed checkpoint"),
    ],
)
def test_file_of_another_run(changes, message, copy):
    folder = copy("zero1_fp32")
    torch.save(shard(**changes), folder / SHARD.format(1, "optim"))
    with pytest.raises(CheckpointError, match=message):
        read_deepspeed(folder)


def test_too_many_files(copy):
    folder = copy("zero2_fp32")
    shutil.copy(folder / SHARD.format(1, "optim"), folder / SHARD.format(2, "optim"))
    with pytest.raises(CheckpointError, match=r"zero_pp_rank_2_.*of another run.*saved by 2 ranks"):
        read_deepspeed(folder)
    (folder / SHARD.format(2, "optim")).rename(folder / ("bf16_" + SHARD.format(1, "optim")))
    with pytest.raises(CheckpointError, match="files of two runs"):
        read_deepspeed(folder)


def test_stages_mixed(copy):
    with_stage_3, folder = copy("zero3_fp32"), copy("zero1_fp32")
    shutil.copy(with_stage_3 / SHARD.format(0, "model"), folder)
    with pytest.raises(CheckpointError, match="files of two runs, of ZeRO stage 3 and not"):
        read_deepspeed(folder)
    (folder / SHARD.format(0, "model")).unlink()
    for rank in (0, 1):
        shutil.copy(with_stage_3 / SHARD.format(rank, "optim"), folder)
    with pytest.raises(CheckpointError, match=rf"{MODEL} is not of ZeRO stage 3"):
        read_deepspeed(folder)


@pytest.mark.parametrize(
    "name",
    ["mp_rank_01_model_states.pt", "layer_01-model_00-model_states.pt", "layer_0_expert_1_mp_rank_00_model_states.pt"],
)
def test_other_parallelism(name, copy):
    folder = copy("zero1_fp32")
    (folder / name).touch()
    with pytest.raises(CheckpointError, match=rf"{name}: saved with model, pipeline or expert parallelism"):
        read_deepspeed(folder)


class Note:
    """A class that no reader knows."""


class Harmful:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def with_client_state(file, **entries):
    content = torch.load(GOLDEN / "zero0_fp32" / "global_step1" / MODEL, weights_only=False)
    torch.save({**content, **entries}, file)


@pytest.mark.parametrize("case", ["zero0_fp32", "zero3_fp32"])
def test_nothing_in_a_file_is_executed(case, tmp_path, copy):
    folder = copy(case)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        torch.save({"module": {}, "optimizer_state_dict": {}, "epoch": Harmful(tmp_path / "harm")}, file)
        with pytest.raises(CheckpointError, match=rf"{file.name}: .*mkdir.*--trust_checkpoint"):
            read_deepspeed(folder)
        file.write_bytes(whole)
    assert not (tmp_path / "harm").exists()
    if case == "zero0_fp32":  # it would have worked
        torch.save({"module": {}, "epoch": Harmful(tmp_path / "harm")}, folder / MODEL)
        read_deepspeed(folder, trust=True)
        assert (tmp_path / "harm").exists()


def test_objects_only_with_trust(copy, caplog):
    folder = copy("zero0_fp32")
    with_client_state(folder / MODEL, ema=Note(), sizes=(4, [2.0]), args=argparse.Namespace(lr=1.0, device=Note()))
    with pytest.raises(CheckpointError, match=r"Note.*--trust_checkpoint"):
        read_deepspeed(folder)
    with caplog.at_level(logging.WARNING):
        tensors, _, client_state = read_deepspeed(folder, trust=True)
    assert torch.equal(tensors["odd"], tiny_model().state_dict()["odd"])
    assert client_state == {"epoch": EPOCH, "sizes": (4, [2.0]), "args": {"lr": 1.0}}
    assert "--trust_checkpoint" in caplog.text


def test_trust_runs_nothing_where_it_is_not_needed(caplog):
    with caplog.at_level(logging.WARNING):
        read_deepspeed(GOLDEN / "zero2_fp16", trust=True)
    assert not caplog.records
