"""Training state in one file: written atomically, read without running any code it might hold."""

import argparse
import logging
import os
import random
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from engine.checkpoint_files import find_damage, newest_valid, remove_older_steps, step_name
from engine.distributed import World, barrier, gather_objects
from engine.errors import CheckpointError

logger = logging.getLogger(__name__)

_REFUSED = re.compile(r"\bGLOBAL (\S+)")  # in what torch says of a pickle that needs more than tensors


class Ema(Protocol):
    """An average of a model's weights over the updates: `module` has them (timm's ModelEmaV3 is one)."""

    module: nn.Module

    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Take in the weights after an update."""


class Training(Protocol):
    """What has the weights and moments: a back end."""

    def training_state(self) -> dict[str, Any]:
        """`model`, `optimizer` and `scaler`; every rank must call it, the main process has the result."""

    def load_training_state(self, content: Mapping[str, Any]) -> None:
        """Put it back, in place, on every rank."""


@dataclass
class TrainState:
    """Where training stands: all that is needed to go on as if nothing had happened."""

    backend: Training
    ema: Ema | None = None
    epoch: int = -1  # the last one finished
    step: int = 0  # optimizer steps done
    best: float = 0.0  # best validation accuracy so far, in percent
    steps_per_epoch: int = 0
    total_batch: int = 0  # videos of an update, over all ranks
    unfinished: dict[str, Any] | None = None  # of the epoch after `epoch`, where it was cut off: see `Checkpointer`

    @property
    def step_in_epoch(self) -> int:
        """Optimizer steps done of the epoch after `epoch`."""
        return self.step - (self.epoch + 1) * self.steps_per_epoch


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
    """Writes checkpoints into the output folder.

    `checkpoint-E.pth` after epoch E, every `save_every` epochs and after the last. With `save_steps`, every so many
    optimizer steps `checkpoint-E-stepS.pth`, after S steps of epoch E, of which the newest two are kept. Where such a
    step is the last of its epoch it is step 0 of the next, unless there is a `checkpoint-E.pth` of it.
    """

    output_dir: str
    save_every: int
    world: World
    args: dict[str, Any]
    extra: dict[str, Any]
    save_steps: int = 0

    def after_epoch(self, state: TrainState, *, last: bool) -> None:
        """Save if it is due. Every rank must call this: each one's random state goes into the file."""
        if last or (state.epoch + 1) % self.save_every == 0:
            self._save(state, f"checkpoint-{state.epoch}.pth")
        elif self._is_due(state.step):
            self._save_for_now(state, step_name(state.epoch + 1, 0))

    def is_due_in_epoch(self, state: TrainState) -> bool:
        """True where `after_step` is to be called: never at the last step of an epoch, which is not done with then."""
        return bool(self.output_dir) and self._is_due(state.step) and state.step_in_epoch < state.steps_per_epoch

    def after_step(self, state: TrainState, *, sampler: Mapping[str, int], meter: Mapping[str, Any]) -> None:
        """Save inside an epoch. Every rank must call this.

        Args:
            sampler: state of the order of the samples, the same on all ranks.
            meter: sums of this rank, from which the epoch's means go on.
        """
        unfinished = {"step": state.step_in_epoch, "sampler": dict(sampler), "meters": gather_objects(dict(meter))}
        self._save_for_now(state, step_name(state.epoch + 1, state.step_in_epoch), unfinished=unfinished)

    def _is_due(self, step: int) -> bool:
        return self.save_steps > 0 and step % self.save_steps == 0

    def _save_for_now(self, state: TrainState, name: str, **extra: Any) -> None:
        """Save what the next such files replace."""
        path = self._save(state, name, **extra)
        if self.output_dir and self.world.is_main:
            remove_older_steps(path)

    def _save(self, state: TrainState, name: str, **extra: Any) -> Path:
        path = Path(self.output_dir) / name
        if self.output_dir:
            rng_by_rank = gather_objects(_rng_state(self.world.device))
            training = state.backend.training_state()
            if self.world.is_main:
                save(path, state, training=training, rng_by_rank=rng_by_rank, args=self.args, **self.extra, **extra)
            barrier()
        return path


def save(
    path: Path,
    state: TrainState,
    *,
    training: Mapping[str, Any],
    rng_by_rank: list[Any],
    args: dict[str, Any],
    **extra: Any,
) -> None:
    """Write the state to `path`; a reader sees the old file or the whole new one, also after a crash.

    Keys: `model optimizer scaler` of `training`, `epoch args step best steps_per_epoch total_batch rng`, `model_ema` if
    there is one, and `extra`, which has `unfinished` inside an epoch.
    """
    content = {
        "model": training["model"],
        "optimizer": training["optimizer"],
        "epoch": state.epoch,
        "scaler": training["scaler"],
        "args": args,
        "step": state.step,
        "best": state.best,
        "steps_per_epoch": state.steps_per_epoch,
        "total_batch": state.total_batch,
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
    _sync_folder(path.parent)
    logger.info("saved %s (epoch %d, step %d)", path, state.epoch, state.step)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, as `os.fsync` has a file's content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems know no such thing
        logger.debug("%s: %s", folder, error)
    finally:
        os.close(descriptor)


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


def resume(
    state: TrainState,
    *,
    explicit: str,
    auto: bool,
    output_dir: str,
    world: World,
    trust: bool = False,
    unchanged: Mapping[str, Any] | None = None,
    fingerprint: str = "",
    num_sample: int = 0,
) -> Path | None:
    """Go on from `explicit` if given, else, with `auto`, from the newest valid checkpoint of the output folder.

    The main process chooses, and all ranks read the file that it chose.

    Args:
        trust: see `read`.
        unchanged: options that must have in the file, if it knows them, the values given here: no tensor's shape would
            tell that they changed.
        fingerprint: of the list that is trained on now; "": not known.
        num_sample: clips of each video now; 0: not known.

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
    _check_samples(content, path=path, fingerprint=fingerprint, num_sample=num_sample)
    restore(state, content, world=world, path=path)
    inside = f" and {state.step_in_epoch} steps of the next" if state.unfinished else ""
    logger.info("resumed from %s: %d epochs%s, %d steps done", path, state.epoch + 1, inside, state.step)
    return path


def _check_samples(content: Mapping[str, Any], *, path: Path, fingerprint: str, num_sample: int) -> None:
    """Inside an epoch the samples must be those that it began with; at its end another list is only worth a warning.

    What a file does not say is taken to be as it is now.

    Raises:
        CheckpointError: the rest of the epoch would be made of other samples.
    """
    inside = "unfinished" in content
    made_with = content.get("fingerprint")
    if made_with and fingerprint and made_with != fingerprint:
        other = f"made with another list, fingerprint {made_with}, now {fingerprint}"
        if inside:
            raise CheckpointError(
                f"{path}: {other}: the rest of the epoch would have other videos than it began with. Give the list in "
                "--data_path that it was made with, or go on from the end of an epoch with --resume"
            )
        logger.warning("%s: %s: from here on it is trained on this one", path, other)
    before = _option(content, "num_sample", num_sample)
    if inside and num_sample and before != num_sample:
        raise CheckpointError(
            f"{path}: made inside an epoch with --num_sample {before}, now {num_sample}: the rest of the epoch would "
            f"have other batches. Keep --num_sample {before}, or go on from the end of an epoch with --resume"
        )


def _option(content: Mapping[str, Any], name: str, default: Any) -> Any:
    args = content.get("args")
    value = args.get(name) if isinstance(args, Mapping) else getattr(args, name, None)
    return default if value is None else value


def restore(state: TrainState, content: dict[str, Any], *, world: World, path: Path) -> None:
    """Put a saved state back, in place.

    Raises:
        CheckpointError: not a training state, or one of another model or optimizer.
    """
    total_batch = content.get("total_batch", state.total_batch)
    if "unfinished" in content and total_batch != state.total_batch:
        raise CheckpointError(
            f"{path}: made inside an epoch with a total batch of {total_batch} videos, now {state.total_batch}: the "
            "rest of the epoch would be cut into other batches. Keep --batch_size x --update_freq x ranks at "
            f"{total_batch}, or go on from the end of an epoch with --resume"
        )
    missing = [key for key in ("model", "optimizer", "epoch", "scaler", "step") if key not in content]
    if missing:
        raise CheckpointError(
            f"{path}: no {', '.join(missing)} in it, so it is not a training state to resume; "
            "to start from its weights use --finetune"
        )
    try:
        state.backend.load_training_state(content)
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
    state.unfinished = content.get("unfinished")
    rng = content.get("rng", [])
    if world.rank < len(rng):
        _set_rng_state(rng[world.rank], world.device)
