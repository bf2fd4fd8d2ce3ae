"""Fine-tune, probe or test: `python run_class_finetuning.py --data_set custom --data_path lists --finetune FILE`."""

import signal
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # `python -I` leaves it out
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import copy
import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from datasets.catalogue import get_dataset_spec
from datasets.classification import TrainDataset, build_datasets, build_loaders
from datasets.clip_check import check_clips
from datasets.decoding.open import describe_decoder
from datasets.errors import DATA_ERRORS
from datasets.lists.comparison import summarise
from datasets.lists.splits import LabelledData, read_labelled
from datasets.loading.workers import loader_errors
from datasets.transforms.mixup import build_mixup
from engine.acceleration.compilation import with_compilation
from engine.acceleration.cuda_graphs import capture_stacks
from engine.checkpointing.checkpoint import Ema
from engine.config import RunFacts
from engine.distributed.ddp import AMP_DTYPES, autocast
from engine.distributed.world import World, main_process_first, on_main_process
from engine.dry_run import evaluation_passes, rehearse, rehearse_test
from engine.errors import as_config_error
from engine.evaluation import Evaluator
from engine.finetuning import FinetuneConfig
from engine.monitoring.metrics import log_table
from engine.resilience.preemption import exit_on_preemption
from engine.resilience.watchdog import watchdog
from engine.results import RESULTS
from engine.setup import Instruments, TrainingSet, build_trainer, prepare, run_script
from engine.tasks.table import TASKS, TaskInputs
from engine.tasks.task import Task
from engine.training import fit
from engine.weights import (
    names_of_weights,
)
from models import ModelError
from models.analysis.figures import clip_pictures
from models.analysis.flops import classifier_flops
from models.attention import describe_attention
from models.classifier import Classifier
from programs.finetuning.lora import merge_checked
from programs.finetuning.memory_plan import plan
from programs.finetuning.model import build_model, find_tested, load_for_test, target_scale
from programs.finetuning.options import FinetuningConfig
from programs.finetuning.results import is_done, tested_on, trained_weights

logger = logging.getLogger(__name__)


def read_data(config: FinetuningConfig, world: World, facts: RunFacts) -> LabelledData:
    """The lists that this run needs, checked."""
    task = config.task
    find = partial(names_of_weights, config, world, find_tested(config))
    names: dict[str, Any] = {"names_of_weights": find} if task.eval else {}
    data = read_labelled(
        config.lists,
        task.parts(),
        once=partial(on_main_process, world),
        in_turn=partial(main_process_first, world),
        labels=task.kind.labels,
        chosen_on_val=task.test_best,
        **names,
    )
    if task.task == "regression" and not task.eval:
        facts.target_scale = target_scale(config, world, data.lists["train"].labels)
    with as_config_error("--decoder"):
        facts.decoder_used = describe_decoder(config.loader.decoder)
    clips = f"{config.lists.data_set}: {config.views.describe(config.clip)}"
    rows = {"data set": clips, **data.described, "decoder": facts.decoder_used, "workers": config.loader.describe()}
    log_table("data", rows)
    return data


def build_task(config: FinetuningConfig, data: LabelledData, facts: RunFacts) -> Task:
    """What the model learns, and how it is judged."""
    train = data.lists.get("train")
    return TASKS[config.task.task].build(
        TaskInputs(
            class_names=data.class_names,
            with_cumulative=get_dataset_spec(config.lists.data_set).metric == "mean_per_class",
            mixup=build_mixup(config.mixing, num_classes=data.num_classes),
            smoothing=config.mixing.smoothing or 0.0,
            class_weights=config.balance.weights(train.labels, data.class_names) if train else None,
            regression_loss=config.task.regression_loss,
            target_scale=facts.target_scale or (0.0, 1.0),
        )
    )


def build_evaluator(config: FinetuningConfig, world: World, data: LabelledData, task: Task) -> Evaluator:
    """What evaluates models on the lists, with a loader for each of them."""
    run, batch_size = config.run, config.optim.batch_size
    with as_config_error():  # --aa
        datasets = build_datasets(
            data.lists, config.clip, config.views, config.augmentation, seed=run.seed, decoder=config.loader.decoder
        )
    training = datasets.get("train")
    if isinstance(training, TrainDataset) and config.views.sampling != "uniform":
        on_main_process(world, lambda: check_clips(training, config.clip))
    return Evaluator(
        world,
        task=task,
        loaders=build_loaders(
            datasets,
            config.loader,
            batch_size=batch_size,
            num_views=config.views.num_views,
            seed=run.seed,
            rank=world.rank,
            world_size=world.size,
            device=world.device,
            balanced=config.balance.balanced_sampling,
        ),
        lists=data.lists,
        autocast=autocast(world.device, run.amp_on(world.device)),
        clips_at_once=batch_size,
        in_step=run.stage == 3,
        averages_on_cpu=config.task.model_ema_force_cpu,
        pooling=config.views.view_pooling or "mean",
    )


def build_ema(task: FinetuneConfig, model: Classifier) -> Ema | None:
    """The average of the weights that `--model_ema` asks for."""
    if not task.model_ema:
        return None
    from timm.utils import ModelEmaV3  # among the imports above it would come before sigma_video.compat

    device = torch.device("cpu") if task.model_ema_force_cpu else None
    return ModelEmaV3(model, decay=task.model_ema_decay, device=device)


def instruments_of(config: FinetuningConfig, world: World, data: LabelledData, model: Classifier) -> Instruments:
    """What is shown of a training run."""
    task, n = config.task, config.task.freeze_blocks
    frozen = {"frozen": f"patch embedding, {n} of {len(model.blocks)} blocks"} if n else {}
    stacks = {"encoder": (model.blocks, model.num_tokens)}
    dtype = AMP_DTYPES[config.run.amp_on(world.device)]
    targets = {
        "class": f"{data.num_classes} classes, {config.mixing.describe()}",
        "classes": f"any number of {data.num_classes} classes for each video",
        "value": "a number for each video",
    }
    return Instruments(
        flops_per_clip=classifier_flops(model),
        figure_fn=lambda batch, out: (clip_pictures(batch.clip, frame_step=config.encoder.tubelet_size), {}),
        task={
            "task": task.describe(),
            "targets": targets[task.kind.labels],
            "clips": config.augmentation.describe(),
        },
        plan={**frozen, "attention": describe_attention(stacks, device=world.device, dtype=dtype)},
    )


def train(
    config: FinetuningConfig,
    world: World,
    data: LabelledData,
    model: Classifier,
    *,
    evaluator: Evaluator,
    facts: RunFacts,
) -> dict[str, nn.Module]:
    """All epochs, from where a checkpoint in `--output_dir` left off if there is one.

    Returns:
        The trained model under '' and, with `--model_ema`, the average of its weights under '_ema'.
    """
    task, loaders, videos = config.task, evaluator.loaders, data.lists["train"]
    ema = build_ema(task, model)
    stacks = {"encoder": (model.blocks, model.num_tokens)}
    clips = config.optim.batch_size * config.clip.num_sample
    capture_stacks(config, world, stacks, clips=clips, use_checkpoint=config.encoder.use_checkpoint)
    trainer = build_trainer(
        config,
        world,
        model_name=config.model,
        model=model,
        forward=evaluator.task,
        data=TrainingSet(
            videos.paths,
            num_batches=len(loaders["train"]),
            fingerprint=videos.fingerprint,
            validated_on=data.lists["val"].fingerprint if "val" in data.lists else "",
            repeats=config.clip.num_sample,
            described={name: listed.describe() for name, listed in data.lists.items()},
            class_names=data.class_names,
            lists={part: summarise(listed) for part, listed in data.lists.items()},
        ),
        instruments=instruments_of(config, world, data, model),
        facts=facts,
        layer_decay=task.layer_decay,  # without effect on a probe: the head has the full rate
        ema=ema,
    )
    models: dict[str, nn.Module] = {"": model} | ({"_ema": ema.module} if ema else {})
    batches = config.loader.prefetched(loaders["train"], world.device)
    if config.run.dry_run:
        numbers = {"val": config.optim.epochs, "test": 1}
        rehearse(trainer, batches, world=world, evaluations=evaluation_passes(evaluator, models, numbers))
    else:
        validate = (lambda: evaluator.evaluate(models, "val")[0]) if "val" in loaders else None
        fit(trainer, batches, validate=validate)
        if task.lora_rank:
            merge_checked(models, loaders["test"], clips=config.optim.batch_size)
        facts.tested = trained_weights(task, trainer.state.file)
    return models


def main(config: FinetuningConfig, world: World) -> None:
    """One run, from the options to the results of the test."""
    config = prepare(config.resolved(), world)
    run, task, epochs = config.run, config.task, config.optim.epochs
    facts = RunFacts()
    data = read_data(config, world, facts)
    if is_done(config, world, data, facts):
        logger.info("finished already: all %d epochs are done, %s/%s is of them", epochs, run.output_dir, RESULTS)
        return
    config = with_compilation(config, world)
    config, model = build_model(config, world, data, facts)
    models: dict[str, nn.Module] = {"": model}
    if task.eval:
        models |= {"_ema": copy.deepcopy(model)} if task.model_ema else {}
        load_for_test(config, world, data, models, facts)
    evaluator = build_evaluator(config, world, data, build_task(config, data, facts))
    if not task.eval:
        models = train(config, world, data, model, evaluator=evaluator, facts=facts)
    if task.test_best and not task.eval and not run.dry_run:
        load_for_test(config, world, data, models, facts)
    if not run.dry_run:
        on, weights = tested_on(config, world, data, facts), facts.tested or {}
        with exit_on_preemption(world), watchdog(run.stall_timeout):
            evaluator.test(
                models,
                output_dir=run.output_dir,
                views_are=config.views.describe_test(),
                origin=lambda: on.origin(weights),
            )
    elif task.eval:
        rehearse_test(evaluation_passes(evaluator, models, {"test": 1}), world=world)


if __name__ == "__main__":
    run_script(FinetuningConfig, main, errors=(*DATA_ERRORS, ModelError), around=loader_errors, plan=plan)
