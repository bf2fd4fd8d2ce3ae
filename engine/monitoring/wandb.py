"""Weights & Biases logging (`--wandb PROJECT`): the records of `log.txt`, in one run over all restarts."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..distributed.world import World
from ..errors import ConfigError
from ..files import replace_text

ID_FILE = "wandb_id.txt"  # in the output folder: resuming there continues the same wandb run


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


def start_wandb(
    project: str, world: World, *, output_dir: str, run_name: str, options: Mapping[str, Any]
) -> WandbLog | None:
    """Start or resume the wandb run on rank 0; None on other ranks and without a project.

    Raises:
        ConfigError: wandb fails: not logged in, no network, no such project.
    """
    if not project or not world.is_main:
        return None
    import wandb  # optional dependency

    file = Path(output_dir) / ID_FILE
    if not file.exists():
        replace_text(file, uuid.uuid4().hex[:12] + "\n")
    try:
        run = wandb.init(
            project=project,
            id=file.read_text().strip(),
            resume="allow",
            name=run_name or None,
            dir=output_dir,
            config=dict(options),
            settings=wandb.Settings(console="off"),  # the console is in console.txt already
        )
    except wandb.errors.Error as error:
        raise ConfigError(f"--wandb {project}: {error} (without a network: WANDB_MODE=offline)") from error
    return WandbLog(run)
