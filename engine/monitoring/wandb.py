"""Weights & Biases logging (`--wandb PROJECT`): the records of `log.txt`, in one run over all restarts."""

import argparse
import importlib.util
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..distributed.world import World
from ..errors import ConfigError
from ..files import replace_text

ID_FILE = "wandb_id.txt"  # in the output folder: resuming there continues the same wandb run


def check_wandb(args: argparse.Namespace) -> None:
    """Raise ConfigError if `--wandb` is given and cannot work."""
    if not args.wandb:
        return
    if not args.output_dir:
        raise ConfigError("--wandb needs --output_dir: the run's id is kept there, for when it is resumed")
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("--wandb: wandb is not installed: `pip install wandb`, or leave the flag out")


class WandbLog:
    """Sends records to a wandb run, which ignores steps that a resumed run repeats: they are the same."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log one record."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run, uploading what is left."""
        self.run.finish()


def start_wandb(args: argparse.Namespace, world: World) -> WandbLog | None:
    """Start or resume the wandb run on rank 0; None on other ranks and without `--wandb`.

    Raises:
        ConfigError: wandb fails: not logged in, no network, no such project.
    """
    if not args.wandb or args.dry_run or not world.is_main:
        return None
    import wandb  # optional dependency

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
