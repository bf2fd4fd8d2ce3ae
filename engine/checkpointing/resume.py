"""Resuming: choose the checkpoint, check that it fits this run, report changed options, restore the state."""

import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..distributed.world import World, on_main_process
from ..errors import CheckpointError, NewerFormatError
from .adapters import split_states
from .checkpoint import STATE_KEYS, TrainState
from .files import epoch_name, newest_valid, valid_checkpoints
from .finite import find_nonfinite
from .io import read_checkpoint
from .random_state import set_random_state

logger = logging.getLogger(__name__)

# Options that define the model: a change is an error, because tensor shapes do not always reveal it.
_MODEL_OPTIONS = {
    "model",
    "target_type",
    "loss_func",
    "distillation_teacher",
    "center_teacher",
    "teacher_digest",
    "normalize_target",
    "num_frames",
    "input_size",
    "tubelet_size",
    "position_grid",
    "linear_probing",
    "freeze_blocks",
    "lora_rank",
    "task",
    "target_scale",
    "use_mean_pooling",
    "opt",
}
_IGNORED_OPTIONS = {
    "resume",
    "auto_resume",
    "local_rank",
    "output_dir",
    "log_dir",
    "run_name",
    "finetune",
    "licence",
    "teacher_used",
}


def finished_checkpoint(output_dir: str, epochs: int, world: World) -> Path | None:
    """The newest valid checkpoint if it is that of the last epoch. Found on rank 0, broadcast to all ranks."""

    def find() -> Path | None:
        newest = newest_valid(output_dir) if output_dir else None
        return newest if newest is not None and newest.name == epoch_name(epochs - 1) else None

    return on_main_process(world, find)


def check_finished(
    path: Path, world: World, *, options: Mapping[str, Any], fingerprint: str, trust: bool = False
) -> None:
    """Check that a finished run is the one that these options ask for; changed ones that do not define it are logged.

    Args:
        fingerprint: of this run's list of videos; "": unknown.

    Raises:
        CheckpointError: it has another model, or was trained on another list.
    """
    content = on_main_process(world, lambda: _record(path, read_checkpoint(path, trust=trust)))
    _compare_options(saved_options(content), options, path=path)
    made_with = content.get("fingerprint")
    if made_with and fingerprint and made_with != fingerprint:
        raise CheckpointError(
            f"{path}: this run is finished, on another list (fingerprint {made_with}, now {fingerprint}). To train on "
            "the list as it is now, choose another --output_dir or more --epochs"
        )


def _record(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its run, without the tensors. Raises CheckpointError where they are not finite."""
    if bad := find_nonfinite({key: content[key] for key in STATE_KEYS if key in content}):
        raise CheckpointError(f"{path}: {bad} is not finite (NaN or Inf): this run has failed; remove the file")
    return {"args": saved_options(content), "fingerprint": content.get("fingerprint")}


def resume(
    state: TrainState,
    *,
    explicit: str,
    auto: bool,
    output_dir: str,
    world: World,
    trust: bool = False,
    options: Mapping[str, Any] | None = None,
    fingerprint: str = "",
    num_sample: int = 0,
) -> Path | None:
    """Resume from `explicit` if given, else, with `auto`, from the newest valid checkpoint in the output folder.

    Rank 0 chooses the file, reads and verifies it, and sends it to the others: storage is read once, no rank can have
    another file than the others, and damage is an error on all of them.

    Args:
        trust: see `read_checkpoint`.
        options: options of this run, compared with those in the file.
        fingerprint: of this run's list of videos; "": unknown.
        num_sample: clips per video of this run; 0: unknown.

    Returns:
        The file, or None if training starts from scratch.

    Raises:
        CheckpointError: the file does not fit; or training would start from scratch in a folder with checkpoints of
            another run, which a later resume would mistake for its own.
    """
    if not explicit and not auto and output_dir and (found := on_main_process(world, lambda: newest_valid(output_dir))):
        raise CheckpointError(
            f"--no_auto_resume: {found} belongs to an earlier run; choose another --output_dir or remove it"
        )
    reason = "given by --resume" if explicit else "newest valid checkpoint in --output_dir"
    path, content = on_main_process(world, lambda: _choose(explicit, output_dir if auto else "", trust=trust))
    if path is None:
        return None
    _compare_options(saved_options(content), options or {}, path=path)
    _check_samples(content, path=path, fingerprint=fingerprint, num_sample=num_sample)
    restore(state, content, world=world, path=path)
    state.file = path
    in_epoch = f" and {state.step_in_epoch} steps of the next" if state.step_in_epoch else ""
    logger.info("resumed from %s: %d epochs%s, %d steps done (%s)", path, state.epoch + 1, in_epoch, state.step, reason)
    return path


def options_of(explicit: str, *, auto: bool, output_dir: str, world: World, trust: bool) -> dict[str, Any]:
    """The options in the checkpoint that `resume` finds with these arguments; {} if training starts from scratch."""
    return on_main_process(world, lambda: saved_options(_choose(explicit, output_dir if auto else "", trust=trust)[1]))


def _choose(explicit: str, folder: str, *, trust: bool) -> tuple[Path | None, dict[str, Any]]:
    """The named file, else the newest in the folder whose state is finite, and its content; None if there is none.

    Raises:
        CheckpointError: the named file cannot be read, is not finite or of a later format; or so are all in the folder.
    """
    refused = ""
    for path in [Path(explicit)] if explicit else valid_checkpoints(folder) if folder else []:
        try:
            content = read_checkpoint(path, trust=trust)
        except NewerFormatError as error:
            refused = str(error)
        else:
            bad = find_nonfinite({key: content[key] for key in STATE_KEYS if key in content})
            if not bad:
                return path, content
            refused = f"{path}: {bad} is not finite (NaN or Inf): no run can resume from it"
        if not explicit:
            logger.warning("%s; trying the one before", refused)
    if refused:
        raise CheckpointError(f"{refused}. Choose another checkpoint, or another --output_dir")
    return None, {}


def saved_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """Options stored in a checkpoint; the released code stores a Namespace."""
    args = content.get("args")
    return dict(args) if isinstance(args, Mapping) else vars(args) if args is not None else {}


def _compare_options(before: Mapping[str, Any], now: Mapping[str, Any], *, path: Path) -> None:
    """Log which options have changed; options that only one side has are ignored.

    Raises:
        CheckpointError: a changed option defines the model.
    """
    changed = {
        name: (_plain(before[name]), _plain(now[name]))
        for name in sorted((before.keys() & now.keys()) - _IGNORED_OPTIONS)
        if _plain(before[name]) != _plain(now[name])
    }
    changed_model = [name for name in changed if name in _MODEL_OPTIONS and before[name] is not None]
    if changed_model:
        changes = "; ".join(f"{name} {changed[name][0]}, now {changed[name][1]}" for name in changed_model)
        raise CheckpointError(
            f"{path}: made with {changes}: give these as they were, or choose another --output_dir (--finetune starts "
            "from the weights of a file)"
        )
    if changed:
        width = max(map(len, changed))
        lines = [f"  {name:<{width}}  {old!r} -> {new!r}" for name, (old, new) in changed.items()]
        logger.warning("%s was made with other options:\n%s", path, "\n".join(lines))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_samples(content: Mapping[str, Any], *, path: Path, fingerprint: str, num_sample: int) -> None:
    """Inside an epoch a changed list or `--num_sample` is an error; at an epoch boundary a changed list only warns.

    Values that the file does not contain are assumed to be unchanged.

    Raises:
        CheckpointError: the rest of the epoch would have other samples.
    """
    in_epoch = _is_in_epoch(content)
    made_with = content.get("fingerprint")
    if made_with and fingerprint and made_with != fingerprint:
        other = f"made with another list, fingerprint {made_with}, now {fingerprint}"
        if in_epoch:
            raise CheckpointError(
                f"{path}: {other}: the rest of the epoch would have other videos. Use the list it was made with in "
                "--data_path, or resume from the end of an epoch with --resume"
            )
        logger.warning("%s: %s: training continues on the current list", path, other)
    before = saved_options(content).get("num_sample") or num_sample
    if in_epoch and num_sample and before != num_sample:
        raise CheckpointError(
            f"{path}: made inside an epoch with --num_sample {before}, now {num_sample}: the rest of the epoch would "
            f"have other batches. Keep --num_sample {before}, or resume from the end of an epoch with --resume"
        )


def _best(content: Mapping[str, Any], validated_on: str, *, path: Path) -> float:
    """The best accuracy so far, if it is of the list that is validated on now."""
    before = content.get("validated_on", validated_on)
    if before == validated_on:
        return content.get("best", -1.0)
    logger.warning(
        "%s: validated on another list, fingerprint %s, now %s: the best accuracy is looked for anew",
        path,
        before or "unknown",
        validated_on or "none",
    )
    return -1.0


def _is_in_epoch(content: Mapping[str, Any]) -> bool:
    return "sampler" in (content.get("unfinished") or {})


def restore(state: TrainState, content: dict[str, Any], *, world: World, path: Path) -> None:
    """Load a saved training state, in place.

    Raises:
        CheckpointError: not a training state, or of another model or optimizer.
    """
    total_batch = content.get("total_batch", state.total_batch)
    if _is_in_epoch(content) and total_batch != state.total_batch:
        raise CheckpointError(
            f"{path}: made inside an epoch with a total batch of {total_batch} videos, now {state.total_batch}: the "
            "rest of the epoch would have other batches. Keep --batch_size x --update_freq x ranks at "
            f"{total_batch}, or resume from the end of an epoch with --resume"
        )
    missing = [key for key in ("model", "optimizer", "epoch", "scaler", "step") if key not in content]
    if missing:
        raise CheckpointError(
            f"{path}: has no {', '.join(missing)}, so it is not a training state to resume; "
            "to start from its weights use --finetune"
        )
    if ("model_ema" in content) != (state.ema is not None):
        made, remedy = ("with", "add it") if "model_ema" in content else ("without", "remove it")
        raise CheckpointError(f"{path}: made {made} --model_ema; {remedy} to resume, or choose another --output_dir")
    steps_per_epoch = content.get("steps_per_epoch", state.steps_per_epoch)
    if steps_per_epoch != state.steps_per_epoch:
        raise CheckpointError(
            f"{path}: made with {steps_per_epoch} updates an epoch, now {state.steps_per_epoch}: the schedule "
            "would not continue where it stopped. Keep the list and the total batch (--batch_size x --update_freq x "
            "ranks), or start from scratch in another --output_dir"
        )
    try:
        content = split_states(content)
        state.backend.load_training_state(content)
        if state.ema is not None:
            state.ema.module.load_state_dict(content["model_ema"], strict=True)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: does not fit this model, optimizer and --amp (use the options it was made with, or "
            f"another --output_dir): {textwrap.shorten(str(error), 400)}"
        ) from error
    state.epoch, state.step = content["epoch"], content["step"]
    state.scaler_skips = content.get("scaler_skips", 0)
    state.best = _best(content, state.validated_on, path=path)
    state.unfinished = content.get("unfinished")
    rng: Sequence[dict[str, Any]] = content.get("rng", [])
    if world.rank < len(rng):
        set_random_state(rng[world.rank], world.device)
