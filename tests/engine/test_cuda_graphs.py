"""`--cuda_graphs` is refused where it has no meaning; bench/gpu/run_checks.py has what it computes on a GPU."""

import pytest
import torch

from engine.acceleration.cuda_graphs import capture_stacks
from engine.distributed.world import World
from engine.errors import ConfigError
from engine.flags import parse
from models import create_model
from run_sigma_pretraining import PretrainingConfig
from sigma_video.options import OptionError

LISTED = ["--data_path", "train.csv", "--cuda_graphs"]


def capture(*flags, device="cuda", frozen=False):
    """What a run does with the blocks of a small classifier; nothing here reaches a GPU."""
    config = parse(PretrainingConfig, [*LISTED, *flags])
    model = create_model("vit_mini_patch8_32", num_frames=4, num_classes=3).requires_grad_(not frozen)
    world = World(rank=0, size=1, local_rank=0, device=torch.device(device))
    stacks = {"encoder": (model.blocks, model.num_tokens)}
    capture_stacks(config, world, stacks, clips=2, use_checkpoint=config.encoder.use_checkpoint)


def test_without_the_flag_nothing_is_captured():
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    capture_stacks(parse(PretrainingConfig, LISTED[:2]), world, {}, clips=2, use_checkpoint=True)


@pytest.mark.parametrize(
    ("flags", "options", "words"),
    [
        ((), {"device": "cpu"}, "needs a GPU"),
        (("--use_checkpoint",), {}, "--use_checkpoint"),
        ((), {"frozen": True}, "encoder has frozen"),
    ],
)
def test_blocks_that_cannot_be_captured(flags, options, words):
    with pytest.raises(ConfigError, match=f"--cuda_graphs.*{words}.*leave"):
        capture(*flags, **options)


def test_it_is_not_for_deepspeed():
    with pytest.raises(OptionError, match="--cuda_graphs is not for --enable_deepspeed"):
        capture("--enable_deepspeed")
