"""Which weights a run starts from, and which it tests."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from .checkpointing.files import BEST, newest_valid
from .checkpointing.read_weights import StartConfig, Weights, read_weights
from .config import TrainingConfig
from .distributed.world import World, on_main_process
from .errors import ConfigError

logger = logging.getLogger(__name__)


class LoadReport(Protocol):
    """What loading weights into a model did."""

    @property
    def untrained(self) -> Sequence[str]:
        """Tensors of the encoder that keep their random values."""

    def describe(self) -> str:
        """One line for the log."""


def load_weights(
    path: str | Path,
    start: StartConfig,
    load: Callable[[Weights], LoadReport],
    *,
    world: World,
    key: str | None = None,
    class_names: Sequence[str] = (),
    weights: Weights | None = None,
) -> Weights:
    """Read a file's weights, and load them into a model by `load`; the log says what it did.

    Args:
        key: in place of `--model_key`.
        weights: of this file, if they have been read already.
        class_names: of the run's lists: a file whose classes are others is refused.

    Raises:
        ConfigError: `load` refused them, by a ValueError; or other classes.
        CheckpointError: the file cannot be read.
    """
    key = start.model_key if key is None else key
    weights = weights or read_weights_once(path, world, model_key=key, trust=start.trust_checkpoint)
    _check_class_names(weights, class_names, path)
    try:
        report = load(weights)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    logger.info("weights of %s (%s): %s", path, weights.kind, report.describe())
    if report.untrained:
        logger.warning("%d tensors of the encoder are not in %s: %s", len(report.untrained), path, report.untrained)
    return weights


def read_weights_once(path: str | Path, world: World, *, model_key: str, trust: bool) -> Weights:
    """`read_weights` on rank 0, which sends them to the others. Every rank must call it.

    Raises:
        CheckpointError: on all ranks; see `read_weights`.
    """
    return Weights(**on_main_process(world, lambda: vars(read_weights(path, model_key=model_key, trust=trust))))


def other_class(weights: Weights, class_names: Sequence[str]) -> int | None:
    """The first label that weights and lists, with names for as many classes, name differently; None: they agree."""
    if len(class_names) != len(weights.class_names):
        return None
    pairs = enumerate(zip(class_names, weights.class_names, strict=True))
    return next((label for label, (here, there) in pairs if here != there), None)


def _check_class_names(weights: Weights, class_names: Sequence[str], path: str | Path) -> None:
    wrong = other_class(weights, class_names)
    if wrong is not None:
        raise ConfigError(
            f"{path}: its class {wrong} is '{weights.class_names[wrong]}', that of the lists '{class_names[wrong]}'. "
            "Put the class names of the training into labels.txt in --data_path, in their order"
        )


def weights_to_test(config: TrainingConfig, world: World) -> tuple[str | Path, str]:
    """The file that `--eval` tests, and the key of the weights in it.

    It is --resume, else the newest checkpoint in --output_dir, else --finetune: a training command tests its result.

    Raises:
        ConfigError: there is none.
    """
    start, saving, output_dir = config.start, config.checkpoint, config.run.output_dir
    newest = on_main_process(world, lambda: newest_valid(output_dir) if saving.auto_resume and output_dir else None)
    path = saving.resume or newest or start.finetune
    if not path:
        raise ConfigError(
            "--eval: no weights; give --resume FILE, --finetune FILE or an --output_dir with a checkpoint"
        )
    # With --finetune beside it, --model_key tells of that file.
    return path, f"{start.model_key}|model" if start.finetune and path != start.finetune else start.model_key


def best_weights(config: TrainingConfig, world: World) -> tuple[Path, str]:
    """The file that `--test_best` tests, and the key of the weights in it. Every rank must call it.

    Raises:
        ConfigError: it is not there.
    """
    path = Path(config.run.output_dir) / BEST
    if not on_main_process(world, path.is_file):
        raise ConfigError(
            f"--test_best: {path} is not there: no epoch of a run in this folder has been validated, or none was "
            "better than the file of --resume; leave --test_best out, or name the weights with --eval --finetune"
        )
    return path, "model"


def trained_task(weights: Weights) -> str | None:
    """The task that weights were trained for; None where they do not say it."""
    # Before there was --task, and elsewhere, training with class labels was classification.
    made_for: str | None = weights.args.get("task", "classification" if "data_set" in weights.args else None)
    return made_for


def check_task(weights: Weights, task: str) -> list[float] | None:
    """Refuse weights that were trained for another task; returns the scale of their targets, if that task has one.

    Raises:
        ValueError: so they were; or the scale is not known.
    """
    made_for = trained_task(weights)
    if made_for is not None and made_for != task:
        raise ValueError(f"trained with --task {made_for}, not {task}: give --task {made_for}")
    scale = weights.args.get("target_scale")
    if task == "regression" and not scale:
        raise ValueError("does not say what its outputs stand for (target_scale): test a checkpoint of ours")
    return scale


def names_of_weights(
    config: TrainingConfig, world: World, find: Callable[[TrainingConfig, World], tuple[str | Path, str]]
) -> tuple[Sequence[str], Path]:
    """The names of the classes of the weights that `find` gives, and their file. Every rank must call it."""
    path, key = find(config, world)
    trust = config.start.trust_checkpoint
    names = on_main_process(world, lambda: read_weights(path, model_key=key, trust=trust).class_names)
    return names, Path(path)
