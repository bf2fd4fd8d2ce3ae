"""Whether blocks are compiled: by flag, by default on a GPU, and what happens where torch cannot."""

import logging

import pytest
import torch
from processes import FINETUNE, gloo_world

from engine.acceleration.compilation import compiles_by_default, with_compilation
from engine.distributed.world import World
from engine.errors import ConfigError
from engine.flags import parse
from run_class_finetuning import FinetuningConfig
from sigma_video.options import OptionError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a machine on which torch cannot compile for a GPU")


@pytest.fixture
def config(data):
    def of(**flags):
        return parse(FinetuningConfig, data.flags(FINETUNE, **flags))

    return of


@pytest.mark.parametrize(
    ("device", "flags", "compiles"),
    [
        (CPU, {}, False),
        (CUDA, {}, True),
        (CUDA, {"deterministic": True}, False),
        (CUDA, {"enable_deepspeed": True}, False),
    ],
)
def test_the_default(device, flags, compiles, config):
    assert compiles_by_default(config(**flags).run, device) is compiles


@pytest.mark.parametrize("flags", [{}, {"no_compile": True}])
def test_what_is_decided_is_in_the_options(flags, config):
    given = config(**flags)
    decided = with_compilation(given, World(0, 1, 0, CPU))
    assert decided.run.compile is False
    assert decided.optim is given.optim


@without_gpu
def test_by_default_a_gpu_that_cannot_compile_trains_uncompiled(config, caplog):
    with caplog.at_level(logging.WARNING):
        decided = with_compilation(config(), World(0, 1, 0, CUDA))
    assert decided.run.compile is False
    (said,) = caplog.messages
    assert said.startswith("the transformer blocks are not compiled, so training is slower: torch cannot compile for")
    assert "install a C compiler" in said and "--no_compile" in said and "\n" not in said


@without_gpu
def test_no_compile_tries_nothing(config, caplog):
    assert with_compilation(config(no_compile=True), World(0, 1, 0, CUDA)).run.compile is False
    assert not caplog.messages


@without_gpu
def test_asked_for_and_impossible(config):
    with pytest.raises(ConfigError, match=r"--compile: torch cannot compile for cuda here \(.*or leave the flag out"):
        with_compilation(config(compile=True), World(0, 1, 0, CUDA))


def one_rank_cannot(world, argv):
    """Rank 1 stands for a node without what compiling needs."""
    import torch._inductor.config as settings

    if world.rank == 1:
        settings.cpp.cxx, settings.force_disable_caches = ("no-such-compiler",), True
    with pytest.raises(ConfigError) as caught:
        with_compilation(parse(FinetuningConfig, argv), world)
    return str(caught.value)


@pytest.mark.long
@pytest.mark.skipif(" " in torch.__file__, reason="torch cannot compile from a path with a blank")
def test_all_ranks_compile_or_none(data):
    said = gloo_world(one_rank_cannot, list(map(str, data.flags(FINETUNE, compile=True))), size=2)
    assert said[0] == said[1] and said[0].startswith("--compile: rank 1 of 2: torch cannot compile for cpu here")


def test_zero_stage_3_does_not_compile(config):
    with pytest.raises(OptionError, match="--compile is not for --zero_stage 3"):
        config(compile=True, enable_deepspeed=True, zero_stage=3)
