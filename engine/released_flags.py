"""Flags of the released code that this code does not have: accepted where the value changes nothing, else explained.

The released code is github.com/QUVA-Lab/SIGMA at commit 9876f09 and github.com/MCG-NJU/VideoMAE at commit 14ef8d8. Most
of these flags are read by nothing there either.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_UNUSED = "nothing in the released code reads it"
_EXPERIMENT = "an experiment of the released code that is not in the paper; only its default is accepted"


@dataclass(frozen=True)
class ReleasedFlag:
    """A flag of the released code.

    Attributes:
        name: without dashes.
        meaning: why it changes nothing here.
        takes_value: False for a switch.
        accepted: the values that change nothing; None: any.
        instead: for other values: why not, and what to do.
    """

    name: str
    meaning: str
    takes_value: bool = True
    accepted: tuple[str, ...] | None = None
    instead: str = ""


_OF_BOTH = (
    ReleasedFlag("color_jitter", _UNUSED),
    ReleasedFlag(
        "imagenet_default_mean_and_std", "clips are always normalised with ImageNet's numbers", takes_value=False
    ),
    ReleasedFlag(
        "start_epoch",
        "a run counts its epochs itself",
        accepted=("0",),
        instead="the epoch is part of a checkpoint: use --resume FILE",
    ),
    ReleasedFlag("world_size", "torchrun or srun says how many processes there are"),
    ReleasedFlag(
        "dist_on_itp",
        "",
        takes_value=False,
        accepted=(),
        instead="Open MPI's variables are not read: start with torchrun or srun, or set RANK, WORLD_SIZE, LOCAL_RANK, "
        "MASTER_ADDR and MASTER_PORT",
    ),
    ReleasedFlag(
        "dist_url",
        "processes meet at MASTER_ADDR and MASTER_PORT",
        accepted=("env://",),
        instead="set MASTER_ADDR and MASTER_PORT, and leave the flag out",
    ),
)
PRETRAINING_FLAGS = (
    *_OF_BOTH,
    ReleasedFlag("train_interpolation", _UNUSED),
    ReleasedFlag("gray_scale_prob", _EXPERIMENT, accepted=("0", "0.0"), instead=_EXPERIMENT),
    ReleasedFlag("kwindow", _EXPERIMENT, accepted=("1",), instead=_EXPERIMENT),
    ReleasedFlag("memory_size", _EXPERIMENT, accepted=("0",), instead=_EXPERIMENT),
)
FINETUNING_FLAGS = (
    *_OF_BOTH,
    ReleasedFlag("crop_pct", _UNUSED),
    ReleasedFlag("resplit", _UNUSED, takes_value=False),
    ReleasedFlag(
        "model_prefix",
        "prefixes of tensor names are found without it",
        accepted=("",),
        instead="known prefixes are found without it: leave it out",
    ),
    ReleasedFlag(
        "num_segments",
        "a clip has --num_frames frames",
        accepted=("1",),
        instead="the number of frames of a clip is --num_frames alone",
    ),
    ReleasedFlag("save_ckpt", "checkpoints are written wherever there is an --output_dir", takes_value=False),
    ReleasedFlag(
        "no_save_ckpt",
        "",
        takes_value=False,
        accepted=(),
        instead="a run resumes from its checkpoints: leave out --output_dir to write nothing, or write few with "
        "--save_ckpt_freq",
    ),
    ReleasedFlag(
        "examples",
        "all videos of the list are used",
        accepted=("0",),
        instead="scripts/data/prepare.py --subset writes the paper's subsets as lists of their own",
    ),
)


class _Accept(argparse.Action):
    """Accepts a released flag, or ends with the reason why not."""

    def __init__(self, *args: Any, released: ReleasedFlag, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.released = released

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        accepted, given = self.released.accepted, "" if self.nargs == 0 else f" {values}"
        if accepted is not None and (self.nargs == 0 or values not in accepted):
            parser.error(f"--{self.released.name}{given}: {self.released.instead}")


def add_released_flags(parser: argparse.ArgumentParser, flags: Sequence[ReleasedFlag]) -> None:
    """Add a group of these flags: what they are given is checked, and goes nowhere."""
    group = parser.add_argument_group("flags of the released code, accepted without effect")
    for flag in flags:
        group.add_argument(
            f"--{flag.name}",
            action=_Accept,
            released=flag,
            dest=f"released_{flag.name}",
            nargs=None if flag.takes_value else 0,
            metavar="X" if flag.takes_value else None,
            default=argparse.SUPPRESS,
            help=_help(flag),
        )


def _help(flag: ReleasedFlag) -> str:
    if flag.accepted == ():
        return f"refused: {flag.instead} (default: off)"
    values = "" if flag.accepted is None or not flag.takes_value else f"only {flag.accepted[0] or repr('')}: "
    return f"{values}{flag.meaning} (default: not given)"
