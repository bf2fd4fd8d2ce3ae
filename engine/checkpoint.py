"""Training state in one file: written atomically, read without running any code it might hold."""

import argparse
import logging
import os
import random
import re
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from engine.distributed import World, barrier, gather_objects
from engine.errors import CheckpointError

logger = logging.getLogger(__name__)

_REFUSED = re.compile(r"\bGLOBAL (\S+)")  # in what torch says of a pickle that needs more than tensors
_FILE = re.compile(r"checkpoint-(\d+)\.pth")


class Ema(Protocol):
    """An average of a model's weights over the updates: `module` has them (timm's ModelEmaV3 is one)."""

    module: nn.Module

    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Take in the weights after an update."""


@dataclass
class TrainState:
    """Where training stands: all that is needed to go on as if nothing had happened."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None = None
    epoch: int = -1  # the last one finished
    step: int = 0  # optimizer steps done
    best: float = 0.0  # best validation accuracy so far, in percent
    steps_per_epoch: int = 0


def _rng_state(device: torch.device) -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@dataclass(frozen=True)
class Checkpointer:
    """Writes `checkpoint-N.pth` into the output folder every `save_every` epochs, and after the last."""

    output_dir: str
    save_every: int
    world: World
    args: dict[str, Any]
    extra: dict[str, Any]

    def after_epoch(self, state: TrainState, *, last: bool) -> None:
        """Save if it is due. Every rank must call this: each one's random state goes into the file."""
        if not self.output_dir or not (last or (state.epoch + 1) % self.save_every == 0):
            return
        rng_by_rank = gather_objects(_rng_state(self.world.device))
        if self.world.is_main:
            path = Path(self.output_dir) / f"checkpoint-{state.epoch}.pth"
            save(path, state, rng_by_rank=rng_by_rank, args=self.args, **self.extra)
        barrier()


def save(path: Path, state: TrainState, *, rng_by_rank: list[Any], args: dict[str, Any], **extra: Any) -> None:
    """Write the state to `path`; a reader sees the old file or the whole new one, also after a crash.

    Keys: `model optimizer epoch scaler args step best rng`, `model_ema` if there is one, and `extra`.
    """
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "epoch": state.epoch,
        "scaler": state.scaler.state_dict(),
        "args": args,
        "step": state.step,
        "best": state.best,
        "steps_per_epoch": state.steps_per_epoch,
        "rng": rng_by_rank,
        **({"model_ema": state.ema.module.state_dict()} if state.ema else {}),
        **extra,
    }
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    logger.info("saved %s (epoch %d, step %d)", path, state.epoch, state.step)


def read(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """The content of a checkpoint file, tensors in host memory.

    Only tensors and plain types are unpickled, unless the user says with `trust` (`--trust_checkpoint`) that any code
    which the file holds may run.

    Raises:
        CheckpointError: missing, damaged, or holding objects without `trust`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path}: may not be read by this user")
    if damage := find_damage(path):
        raise CheckpointError(f"{path}: {damage}")
    if trust:
        logger.warning("%s: --trust_checkpoint: whatever code this file holds is run", path)
    try:
        # argparse.Namespace holds plain values; the released checkpoints keep their options in one.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many types on a file that is not a checkpoint
        raise CheckpointError(f"{path}: {_unreadable(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    return content


def _unreadable(error: Exception) -> str:
    """Why `torch.load` failed, and what can be done if it is for an object that the file holds."""
    if refused := _REFUSED.search(str(error)):
        return (
            f"holds an object of type {refused[1]}, which can run code when it is read. If you trust whoever made the "
            "file: --trust_checkpoint"
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"cannot be read as a checkpoint of tensors and plain values: {reason}"


def find_damage(path: Path) -> str:
    """What is wrong with a checkpoint's archive, '' if nothing is. Finds flipped bytes too: every member has a CRC."""
    if path.stat().st_size == 0:
        return "the file is empty"
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            legacy = file.read(2) == b"\x80\x02"  # torch's format before 1.6: no archive, nothing to verify
        return "" if legacy else "not a checkpoint, or cut off"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"damaged ({error})"
    return f"damaged: {broken} fails its checksum" if broken else ""


def newest_valid(output_dir: str | Path) -> Path | None:
    """The `checkpoint-N.pth` with the largest N that is whole; damaged ones are reported and passed over."""
    found = [(int(m[1]), p) for p in Path(output_dir).glob("checkpoint-*.pth") if (m := _FILE.fullmatch(p.name))]
    for _, path in sorted(found, reverse=True):
        damage = find_damage(path)
        if not damage:
            return path
        logger.warning("%s: %s; trying the one before", path, damage)
    return None


def resume(
    state: TrainState,
    *,
    explicit: str,
    auto: bool,
    output_dir: str,
    world: World,
    trust: bool = False,
    unchanged: Mapping[str, Any] | None = None,
) -> Path | None:
    """Go on from `explicit` if given, else, with `auto`, from the newest valid checkpoint of the output folder.

    The main process chooses, and all ranks read the file that it chose.

    Args:
        trust: see `read`.
        unchanged: options that must have in the file, if it knows them, the values given here: no tensor's shape would
            tell that they changed.

    Returns:
        The file, or None where training starts anew.

    Raises:
        CheckpointError: the file does not do; or training would start anew among the checkpoints of another run, the
            highest-numbered of which would later be taken for this one's.
    """
    path = Path(explicit) if explicit else None
    if path is None and output_dir:
        found = gather_objects(newest_valid(output_dir) if world.is_main else None)[0]
        if found and not auto:
            raise CheckpointError(
                f"--no_auto_resume: {found} belongs to an earlier run; choose another --output_dir or remove it"
            )
        path = found
    if path is None:
        return None
    content = read(path, trust=trust)
    for name, value in (unchanged or {}).items():
        before = _option(content, name, value)
        if before != value:
            raise CheckpointError(
                f"{path}: made with {name} {before}, now {value}: keep --num_frames, --input_size, --finetune and "
                "--pretrained_clip, or choose another --output_dir"
            )
    restore(state, content, world=world, path=path)
    logger.info("resumed from %s: %d epochs, %d steps done", path, state.epoch + 1, state.step)
    return path


def _option(content: Mapping[str, Any], name: str, default: Any) -> Any:
    args = content.get("args")
    value = args.get(name) if isinstance(args, Mapping) else getattr(args, name, None)
    return default if value is None else value


def restore(state: TrainState, content: dict[str, Any], *, world: World, path: Path) -> None:
    """Put a saved state back, in place.

    Raises:
        CheckpointError: not a training state, or one of another model or optimizer.
    """
    missing = [key for key in ("model", "optimizer", "epoch", "scaler", "step") if key not in content]
    if missing:
        raise CheckpointError(
            f"{path}: no {', '.join(missing)} in it, so it is not a training state to resume; "
            "to start from its weights use --finetune"
        )
    try:
        state.model.load_state_dict(content["model"], strict=True)
        # What was given on this command line stands in the fresh groups; only the moments come from the file.
        groups = state.optimizer.state_dict()["param_groups"]
        saved = content["optimizer"]
        if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
            raise ValueError("the parameters are grouped in another way")
        state.optimizer.load_state_dict({**saved, "param_groups": groups})
        state.scaler.load_state_dict(content["scaler"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: does not fit this model, optimizer and --amp (use the options it was made with, or "
            f"another --output_dir): {textwrap.shorten(str(error), 400)}"
        ) from error
    if ("model_ema" in content) != (state.ema is not None):
        made, remedy = ("with", "give it") if "model_ema" in content else ("without", "leave it out")
        raise CheckpointError(f"{path}: made {made} --model_ema; {remedy} to go on, or choose another --output_dir")
    if state.ema is not None:
        state.ema.module.load_state_dict(content["model_ema"], strict=True)
    steps_per_epoch = content.get("steps_per_epoch", state.steps_per_epoch)
    if steps_per_epoch != state.steps_per_epoch:
        raise CheckpointError(
            f"{path}: made with {steps_per_epoch} updates an epoch, now {state.steps_per_epoch}: the schedule "
            "would not go on where it stood. Keep the list and the total batch (--batch_size x --update_freq x ranks), "
            "or start anew in another --output_dir"
        )
    state.epoch, state.step = content["epoch"], content["step"]
    state.best = content.get("best", 0.0)
    rng = content.get("rng", [])
    if world.rank < len(rng):
        _set_rng_state(rng[world.rank], world.device)
