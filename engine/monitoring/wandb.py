"""Weights & Biases, if asked for with `--wandb PROJECT`: what `log.txt` has, in one run over all restarts."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..distributed.world import World
from ..errors import ConfigError
from .metrics import replace_text

ID_FILE = "wandb_id.txt"  # in the output folder: a run that is resumed there goes on in the same run


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


def start_wandb(
    project: str, world: World, *, output_dir: str, run_name: str, options: Mapping[str, Any]
) -> WandbLog | None:
    """The run in a project, begun or resumed, on the main process; None on the others and without a project.

    Raises:
        ConfigError: wandb refuses: no account on this machine, no network, no such project.
    """
    if not project or not world.is_main:
        return None
    import wandb  # only who asks for it needs it

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
