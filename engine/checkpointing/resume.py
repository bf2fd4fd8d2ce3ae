"""Going on from a checkpoint: which one, whether it fits this run, what has changed since."""

import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..distributed.world import World, gather_objects
from ..errors import CheckpointError
from .checkpoint import TrainState
from .files import epoch_name, newest_valid
from .io import read_checkpoint
from .random_state import set_random_state

logger = logging.getLogger(__name__)

# No tensor's shape would tell that these have changed, and the model would be another one.
_MODEL_OPTIONS = {
    "model",
    "target_type",
    "loss_func",
    "distillation_teacher",
    "normalize_target",
    "num_frames",
    "input_size",
    "tubelet_size",
    "position_grid",
    "linear_probing",
    "use_mean_pooling",
    "opt",
}
_IGNORED_OPTIONS = {"resume", "auto_resume", "local_rank", "output_dir", "log_dir", "run_name", "finetune", "licence"}


def is_finished(output_dir: str, epochs: int, world: World, *, results: str = "") -> bool:
    """Whether the newest whole checkpoint is that of the last epoch; the main process looks, all ranks are told.

    Args:
        results: a file that must be in the folder too; "": none.
    """
    finished = False
    if output_dir and world.is_main and (Path(output_dir) / results).exists():
        newest = newest_valid(output_dir)
        finished = newest is not None and newest.name == epoch_name(epochs - 1)
    return bool(gather_objects(finished)[0])


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
    """Go on from `explicit` if given, else, with `auto`, from the newest valid checkpoint of the output folder.

    The main process chooses, and all ranks read the file that it chose.

    Args:
        trust: see `read_checkpoint`.
        options: of this run, to compare with those in the file.
        fingerprint: of the list that is trained on now; "": not known.
        num_sample: clips of each video now; 0: not known.

    Returns:
        The file, or None where training starts anew.

    Raises:
        CheckpointError: the file does not do; or training would start anew among the checkpoints of another run, the
            highest-numbered of which would later be taken for this one's.
    """
    path, why = (Path(explicit), "--resume names it") if explicit else (None, "")
    if path is None and output_dir:
        found = gather_objects(newest_valid(output_dir) if world.is_main else None)[0]
        if found and not auto:
            raise CheckpointError(
                f"--no_auto_resume: {found} belongs to an earlier run; choose another --output_dir or remove it"
            )
        path, why = found, "the newest whole checkpoint there"
    if path is None:
        return None
    content = read_checkpoint(path, trust=trust)
    _compare_options(saved_options(content), options or {}, path=path)
    _check_samples(content, path=path, fingerprint=fingerprint, num_sample=num_sample)
    restore(state, content, world=world, path=path)
    inside = f" and {state.step_in_epoch} steps of the next" if state.step_in_epoch else ""
    logger.info("resumed from %s: %d epochs%s, %d steps done (%s)", path, state.epoch + 1, inside, state.step, why)
    return path


def saved_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a checkpoint was made with; those of the released code are in a Namespace."""
    args = content.get("args")
    return dict(args) if isinstance(args, Mapping) else vars(args) if args is not None else {}


def _compare_options(before: Mapping[str, Any], now: Mapping[str, Any], *, path: Path) -> None:
    """Show which options have changed; what only one side knows is passed over.

    Raises:
        CheckpointError: one of them makes it another model.
    """
    changed = {
        name: (_plain(before[name]), _plain(now[name]))
        for name in sorted((before.keys() & now.keys()) - _IGNORED_OPTIONS)
        if _plain(before[name]) != _plain(now[name])
    }
    fixed = [name for name in changed if name in _MODEL_OPTIONS and before[name] is not None]
    if fixed:
        told = "; ".join(f"{name} {changed[name][0]}, now {changed[name][1]}" for name in fixed)
        raise CheckpointError(
            f"{path}: made with {told}: give these as they were, or choose another --output_dir (--finetune starts "
            "from the weights of a file)"
        )
    if changed:
        width = max(map(len, changed))
        lines = [f"  {name:<{width}}  {old!r} -> {new!r}" for name, (old, new) in changed.items()]
        logger.warning("%s was made with other options:\n%s", path, "\n".join(lines))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_samples(content: Mapping[str, Any], *, path: Path, fingerprint: str, num_sample: int) -> None:
    """Inside an epoch the samples must be those that it began with; at its end another list is only worth a warning.

    What a file does not say is taken to be as it is now.

    Raises:
        CheckpointError: the rest of the epoch would be made of other samples.
    """
    inside = _is_inside_epoch(content)
    made_with = content.get("fingerprint")
    if made_with and fingerprint and made_with != fingerprint:
        other = f"made with another list, fingerprint {made_with}, now {fingerprint}"
        if inside:
            raise CheckpointError(
                f"{path}: {other}: the rest of the epoch would have other videos than it began with. Give the list in "
                "--data_path that it was made with, or go on from the end of an epoch with --resume"
            )
        logger.warning("%s: %s: from here on it is trained on this one", path, other)
    before = saved_options(content).get("num_sample") or num_sample
    if inside and num_sample and before != num_sample:
        raise CheckpointError(
            f"{path}: made inside an epoch with --num_sample {before}, now {num_sample}: the rest of the epoch would "
            f"have other batches. Keep --num_sample {before}, or go on from the end of an epoch with --resume"
        )


def _is_inside_epoch(content: Mapping[str, Any]) -> bool:
    return "sampler" in (content.get("unfinished") or {})


def restore(state: TrainState, content: dict[str, Any], *, world: World, path: Path) -> None:
    """Put a saved state back, in place.

    Raises:
        CheckpointError: not a training state, or one of another model or optimizer.
    """
    total_batch = content.get("total_batch", state.total_batch)
    if _is_inside_epoch(content) and total_batch != state.total_batch:
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
    if ("model_ema" in content) != (state.ema is not None):
        made, remedy = ("with", "give it") if "model_ema" in content else ("without", "leave it out")
        raise CheckpointError(f"{path}: made {made} --model_ema; {remedy} to go on, or choose another --output_dir")
    steps_per_epoch = content.get("steps_per_epoch", state.steps_per_epoch)
    if steps_per_epoch != state.steps_per_epoch:
        raise CheckpointError(
            f"{path}: made with {steps_per_epoch} updates an epoch, now {state.steps_per_epoch}: the schedule "
            "would not go on where it stood. Keep the list and the total batch (--batch_size x --update_freq x ranks), "
            "or start anew in another --output_dir"
        )
    try:
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
    state.best = content.get("best", -1.0)
    state.unfinished = content.get("unfinished")
    rng: Sequence[dict[str, Any]] = content.get("rng", [])
    if world.rank < len(rng):
        set_random_state(rng[world.rank], world.device)
