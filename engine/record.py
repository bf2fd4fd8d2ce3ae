"""What is kept and shown of a run before its first step: `run.json`, and the plan on the console."""

import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import RunConfig, TrainingConfig
from .distributed.world import World
from .files import replace_text, without_nan
from .monitoring.metrics import log_table
from .optim import num_parameters, num_trainable
from .schedules import Schedule

logger = logging.getLogger(__name__)


def write_run_record(output_dir: str, world: World, args: Mapping[str, Any], **facts: Any) -> None:
    """`run.json` in the output folder: options, code, versions, machine and `facts`. Earlier records are kept in it."""
    if not output_dir or not world.is_main:
        return
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "args": dict(args),
        "commit": code_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else platform.processor() or "cpu",
        "world_size": world.size,
        **facts,
    }
    path = Path(output_dir) / "run.json"
    try:
        earlier = json.loads(path.read_bytes()) if path.exists() else []
    except ValueError:
        earlier = None
    if not isinstance(earlier, list):
        logger.warning("%s: not readable, a new one takes its place", path)
        earlier = []
    replace_text(path, json.dumps(without_nan([*earlier, record]), indent=1, default=str) + "\n")


def log_plan(
    config: TrainingConfig,
    world: World,
    *,
    schedule: Schedule,
    name: str,
    model: torch.nn.Module,
    repeats: int,
    task: Mapping[str, str],
    rows: Mapping[str, str],
) -> None:
    """Show what will be trained: `task` first, sizes, `rows`, then batches, steps, base and effective learning rate."""
    run, optim = config.run, config.optim
    total_batch = optim.total_batch(world.size)
    clips = "" if repeats == 1 else f" videos, {repeats} clips of each (--num_sample): {total_batch * repeats} clips"
    log_table(
        "plan",
        {
            **task,
            "model": f"{name}, {_count(num_trainable(model))} trainable parameters{_of_all(model)}",
            "device": f"{world.size} x {world.device.type}, amp {run.amp_on(world.device)}"
            + ("" if run.stage is None else f", DeepSpeed ZeRO stage {run.stage}"),
            **rows,
            "total batch": f"{total_batch} = {optim.batch_size} x accumulation {optim.update_freq} x ranks {world.size}"
            + clips,
            "learning rate": f"{schedule.lr:.3g} = base {optim.lr:g} x {total_batch} / 256, to {schedule.min_lr:.3g}",
            "steps": f"{schedule.total_steps} = {schedule.epochs} epochs x {schedule.steps_per_epoch}, "
            f"warm-up {schedule.warmup}",
        },
    )


def log_test_plan(
    config: TrainingConfig, world: World, *, task: str, model_name: str, tested: Mapping[str, Sequence[str]]
) -> None:
    """Show what a run that only tests will do.

    Args:
        tested: suffix of the results -> file of the weights and their key in it.
    """
    files = ", ".join(f"{path} ({key})" for path, key in tested.values())
    device = f"{world.size} x {world.device.type}, amp {config.run.amp_on(world.device)}"
    log_table("plan", {"task": task, "weights": files, "model": model_name, "device": device})


def describe_start(config: TrainingConfig, resumed: Path | None, step: int) -> str:
    """The weights that training starts from, in words.

    Args:
        resumed: the checkpoint that the run continues, if it does.
        step: updates done.
    """
    given = config.start.finetune
    if resumed is not None:
        return f"resumed from {resumed} after {step} steps" + (f"; {given} is not used" if given else "")
    return f"of {given}" if given else f"random: from scratch (--seed {config.run.seed})"


def _of_all(model: torch.nn.Module) -> str:
    trained, of_all = num_trainable(model), num_parameters(model)
    return "" if trained == of_all else f" of {_count(of_all)}"


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number:,}"


def computed_by(run: RunConfig, device: torch.device, *, resumed: bool) -> dict[str, str]:
    """Rows of the plan on what decides speed and the last bits of the results."""
    blocks = "compiled" if run.compile else "not compiled"
    rows = {"blocks": f"{blocks}, replayed as CUDA graphs" if run.cuda_graphs else blocks}
    if device.type == "cuda":
        rows["cuDNN"] = f"{torch.backends.cudnn.version()}, CUDA {torch.version.cuda}"
        if resumed and not run.deterministic:
            rows["resumed"] = "equals an uninterrupted run up to rounding; the same bits need --deterministic in both"
    return rows


def code_commit() -> str:
    """Commit of this code, `+` behind it if files were changed; '' outside a checkout, as when it is installed."""
    try:
        root = Path(__file__).resolve().parents[1]
        run = ["git", "-C", str(root)]
        # site-packages may lie inside another repository, which does not track this file
        subprocess.run([*run, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True, timeout=10)
        commit = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        dirty = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("no commit to record: %s", error)
        return ""
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")
