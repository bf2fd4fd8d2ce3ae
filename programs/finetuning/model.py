"""The classifier of a run: its memory, its pooling, and the weights that it starts from or that are tested."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datasets.lists.comparison import log_doubts
from datasets.lists.splits import LabelledData
from engine.acceleration.compilation import compile_blocks
from engine.checkpointing.read_weights import Weights, read_weights
from engine.config import RunFacts, TrainingConfig
from engine.distributed.world import World, on_main_process
from engine.errors import as_config_error
from engine.memory import Need, check_memory
from engine.record import log_test_plan
from engine.setup import model_init_context, options_to_resume, place_model
from engine.tasks.regression import scale_of
from engine.weights import (
    best_weights,
    check_task,
    load_weights,
    other_class,
    read_weights_once,
    trained_task,
    weights_to_test,
)
from models.classifier import Classifier
from models.registry import build_classifier
from models.sizes import classifier_parts
from models.weights.load import LoadReport, head_pools, load_encoder, native_state

from .lora import add_adapters
from .options import FinetuningConfig

logger = logging.getLogger(__name__)


def needs(config: FinetuningConfig, world: World, num_classes: int) -> list[Need]:
    """Memory that the run takes at least, by the options that decide it."""
    task, clip, views, batch_size = config.task, config.clip, config.views, config.optim.batch_size
    trained = not (task.eval or task.linear_probing or task.lora_rank)
    head = dataclasses.replace(config.head, num_classes=num_classes)
    shown = f"--batch_size {batch_size}, --input_size {clip.input_size}, --num_frames {clip.num_frames}"
    clips = batch_size * (1 if task.eval or task.linear_probing else clip.num_sample)
    return [
        *(
            Need(part.flags, part.name, config.run.bytes_of(part.weights, part.table, world.size, trained=trained))
            for part in classifier_parts(config.model, config.encoder, head)
        ),
        Need(f"{shown}, --num_sample {clip.num_sample}", f"{clips} clips of a batch", clips * clip.bytes_per_clip),
        Need(
            f"{shown}, --test_num_segment {views.test_num_segment}, --test_num_crop {views.test_num_crop}",
            f"{views.num_views} views of a batch's videos",
            batch_size * views.num_views * clip.bytes_per_clip // 5,  # in host memory: one byte a value
        ),
    ]


def reads_first_token(path: str | Path, weights: Weights) -> bool:
    """Whether a file's head was trained on the first token."""
    with as_config_error(str(path)):
        return head_pools(native_state(weights.tensors)) is False


def choose_pooling(config: FinetuningConfig, world: World, weights: Weights | None) -> FinetuningConfig:
    """The options with the pooling that the head of the weights was trained on, where no flag says another.

    Args:
        weights: that training starts from, if any.
    """
    if config.head.use_mean_pooling is not None:
        return config
    path: str | Path = config.start.finetune
    first = weights is not None and reads_first_token(path, weights)
    if config.task.eval:
        path, key = find_tested(config)(config, world)
        trust = config.start.trust_checkpoint
        first = on_main_process(world, lambda: reads_first_token(path, read_weights(path, model_key=key, trust=trust)))
    if first:
        logger.info("%s: its head reads the first token, and so does the model, as by --use_cls", path)
    return dataclasses.replace(config, head=dataclasses.replace(config.head, use_mean_pooling=not first))


def build_model(
    config: FinetuningConfig, world: World, data: LabelledData, facts: RunFacts
) -> tuple[FinetuningConfig, Classifier]:
    """The classifier, with the weights it starts from, frozen for probing; and the options as these weights ask."""
    start, task = config.start, config.task
    check_memory(needs(config, world, data.num_classes), world.device)
    starts = bool(start.finetune) and not task.eval
    trust = start.trust_checkpoint
    weights = read_weights_once(start.finetune, world, model_key=start.model_key, trust=trust) if starts else None
    config = choose_pooling(config, world, weights)
    torch.manual_seed(config.run.seed)
    with model_init_context(config, world, loads=bool(start.finetune)):
        model = build_classifier(
            config.model, config.encoder, dataclasses.replace(config.head, num_classes=data.num_classes)
        )
    if weights is not None:
        loader = partial(load_to_train, model, config, data)
        facts.licence = load_weights(start.finetune, start, loader, world=world, weights=weights).licence
    facts.position_grid = list(model.position_grid)  # whoever loads the result has to know
    choose_trained(config, model)
    if config.run.compile:
        compile_blocks(model.blocks)
    place_model(config, world, model)
    return config, model


def choose_trained(config: FinetuningConfig, model: Classifier) -> None:
    """Freeze what the options do not train; low-rank adapters are what is trained instead."""
    if config.task.linear_probing:
        model.freeze_backbone()
    if config.task.freeze_blocks:
        with as_config_error("--freeze_blocks"):
            model.freeze_blocks(config.task.freeze_blocks)
    if config.task.lora_rank and not config.task.eval:
        add_adapters(model, config.task.lora_rank)


def load(model: Classifier, config: FinetuningConfig, weights: Weights, *, with_head: bool = True) -> LoadReport:
    """What fits of a file's weights, in place."""
    trained_with = config.start.trained_with(weights.args)
    return load_encoder(model, weights.tensors, trained_with=trained_with, with_head=with_head)


def load_to_train(model: Classifier, config: FinetuningConfig, data: LabelledData, weights: Weights) -> LoadReport:
    """What fits of the weights that training starts from; their head only for the same classes. The log says which."""
    other = other_class(weights, data.class_names) if data.is_named else None
    task = trained_task(weights) or config.task.task
    report = load(model, config, weights, with_head=other is None and task == config.task.task)
    if task != config.task.task:
        logger.info("new head: that of the weights was trained with --task %s", task)
    elif other is not None:
        names = weights.class_names[other], data.class_names[other]
        logger.warning("new head: class %d of the weights is %r, that of the lists %r", other, *names)
    elif report.has_head:
        known = "the same classes" if data.is_named and weights.class_names else "classes that not both name"
        shown = f"as many classes, {known}" if data.num_classes > 1 else "one output"
        logger.info("the head of the weights is kept: %s", shown)
    else:
        wanted = f"these {data.num_classes} classes" if data.num_classes > 1 else "one output"
        logger.info("new head: the weights have none for %s", wanted)
    return report


def target_scale(config: FinetuningConfig, world: World, values: Sequence[float]) -> list[float]:
    """Mean and deviation that outputs of `--task regression` stand for: of the run that is resumed, or of this list.

    Args:
        values: targets of the training list.
    """
    own = scale_of(values)
    before = options_to_resume(config, world).get("target_scale")
    if before and before != own:
        logger.warning(
            "--task regression: the checkpoint to resume from is of another list: its outputs keep the unit of the "
            "list they were trained on, mean %g and deviation %g (now %g and %g)",
            *before,
            *own,
        )
    return before or own


def find_tested(config: FinetuningConfig) -> Callable[[TrainingConfig, World], tuple[str | Path, str]]:
    """What finds the weights that are tested."""
    return best_weights if config.task.test_best else weights_to_test


def load_for_test(
    config: FinetuningConfig, world: World, data: LabelledData, models: dict[str, Any], facts: RunFacts
) -> None:
    """Load the weights that are tested into the models, by the suffix of their results: '_ema' is the average."""
    path, key = find_tested(config)(config, world)

    def load_all(tested: Classifier, weights: Weights) -> LoadReport:
        facts.target_scale = check_task(weights, config.task.task)
        report = load(tested, config, weights)
        if report.missing or report.mismatched:
            raise ValueError(
                f"not a checkpoint of this classifier with {data.num_classes} classes, for --eval (check "
                f"--nb_classes, or fine-tune it first): {report.describe()}"
            )
        return report

    names = data.class_names if data.is_named else ()
    keys = {suffix: "model_ema" if suffix else key for suffix in models}
    for suffix, tested in models.items():
        weights = load_weights(
            path, config.start, partial(load_all, tested), world=world, key=keys[suffix], class_names=names
        )
        facts.licence = weights.licence
        tested.to(world.device)
    if config.task.eval:
        log_doubts(weights.lists, data.lists["test"], path)
    facts.tested = {suffix: (str(path), its_key) for suffix, its_key in keys.items()}
    if config.task.eval:
        log_test_plan(config, world, task=config.task.describe(), model_name=config.model, tested=facts.tested)
