"""Weights & Biases, if asked for with `--wandb PROJECT`: what `log.txt` has, in one run over all restarts."""

import argparse
import importlib.util
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..distributed.world import World
from ..errors import ConfigError
from ..files import replace_text

ID_FILE = "wandb_id.txt"  # in the output folder: a run that is resumed there goes on in the same run


def check_wandb(args: argparse.Namespace) -> None:
    """Raise ConfigError if `--wandb` is asked for and cannot be."""
    if not args.wandb:
        return
    if not args.output_dir:
        raise ConfigError("--wandb needs --output_dir: the run's id is kept there, for when it is resumed")
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("--wandb: wandb is not installed: `pip install wandb`, or leave the flag out")


class WandbLog:
    """Takes the records of a run. Steps that a resumed run does again are ignored there, as they are the same."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One record."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


def start_wandb(args: argparse.Namespace, world: World) -> WandbLog | None:
    """The run of `--wandb`, begun or gone on with, on the main process; None on the others and without the flag.

    Raises:
        ConfigError: wandb refuses: no account on this machine, no network, no such project.
    """
    if not args.wandb or args.dry_run or not world.is_main:
        return None
    import wandb  # only who asks for it needs it

    file = Path(args.output_dir) / ID_FILE
    if not file.exists():
        replace_text(file, uuid.uuid4().hex[:12] + "\n")
    try:
        run = wandb.init(
            project=args.wandb,
            id=file.read_text().strip(),
            resume="allow",
            name=args.run_name or None,
            dir=args.output_dir,
            config=vars(args),
            settings=wandb.Settings(console="off"),  # the console is in console.txt already
        )
    except wandb.errors.Error as error:
        raise ConfigError(f"--wandb {args.wandb}: {error} (without a network: WANDB_MODE=offline)") from error
    return WandbLog(run)
