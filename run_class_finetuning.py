"""Fine-tune, probe or test: `python run_class_finetuning.py --data_set custom --data_path lists --finetune FILE`."""

import signal
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # `python -I` leaves it out
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import copy
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.catalogue import get_dataset_spec
from datasets.class_balance import BalanceConfig
from datasets.classification import SHORT_SIDE, ViewConfig, build_datasets, build_loaders
from datasets.decoding.open import describe_decoder
from datasets.errors import DATA_ERRORS
from datasets.lists.splits import LabelledData, LabelledListConfig, read_labelled
from datasets.loading.loaders import LoaderConfig
from datasets.loading.workers import loader_errors
from datasets.sampling import ClipConfig
from datasets.transforms.mixup import MixupConfig, build_mixup
from datasets.transforms.presets import AugmentConfig
from engine.acceleration.compilation import compile_blocks, with_compilation
from engine.acceleration.cuda_graphs import capture_stacks
from engine.checkpointing.checkpoint import CheckpointConfig, Ema
from engine.checkpointing.read_weights import Weights, read_weights
from engine.checkpointing.resume import check_finished, finished_checkpoint
from engine.config import RunFacts, TrainingConfig
from engine.distributed.ddp import AMP_DTYPES, autocast
from engine.distributed.world import World, main_process_first, on_main_process
from engine.dry_run import evaluation_passes, rehearse, rehearse_test
from engine.errors import as_config_error
from engine.evaluation import Evaluator
from engine.finetuning import FinetuneConfig
from engine.memory import Need, check_memory
from engine.monitoring.metrics import log_table
from engine.optim import OptimConfig
from engine.record import log_test_plan
from engine.released_flags import FINETUNING_FLAGS
from engine.resilience.preemption import exit_on_preemption
from engine.resilience.watchdog import watchdog
from engine.results import RESULTS, TestedOn, is_tested
from engine.setup import Instruments, TrainingSet, build_trainer, model_init_context, place_model, prepare, run_script
from engine.tasks.regression import scale_of
from engine.tasks.table import TASKS, TaskInputs
from engine.tasks.task import Task
from engine.training import fit
from engine.weights import (
    best_weights,
    check_task,
    load_weights,
    names_of_weights,
    other_class,
    read_weights_once,
    weights_to_test,
)
from models import ModelError
from models.analysis.figures import clip_pictures
from models.analysis.flops import classifier_flops
from models.attention import describe_attention
from models.classifier import Classifier, HeadConfig
from models.registry import MODEL_HELP, build_classifier, input_size_for
from models.sizes import classifier_parts
from models.vit import EncoderConfig
from models.weights.load import LoadReport, head_pools, load_encoder, native_state
from sigma_video.options import OptionError, group, option, recorded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(TrainingConfig):
    """Fine-tune, linearly probe or test a video classifier. FINETUNE.md explains the flags."""

    released = FINETUNING_FLAGS

    optim: OptimConfig = group(
        "optimization", batch_size=64, epochs=30, lr=1e-3, min_lr=1e-6, warmup_epochs=5, opt_betas=(0.9, 0.999)
    )
    checkpoint: CheckpointConfig = group("checkpoints", save_ckpt_freq=100)
    task: FinetuneConfig = group("task")
    model: str = option("vit_base_patch16_224", MODEL_HELP, metavar="NAME")
    encoder: EncoderConfig = group("encoder", drop_path=0.1)
    head: HeadConfig = group("head")
    lists: LabelledListConfig = group("lists")
    clip: ClipConfig = group("clip", num_sample=2, input_size=None)  # None: see `completed`
    views: ViewConfig = group("views", short_side_size=None)
    augmentation: AugmentConfig = group("augmentation")
    mixing: MixupConfig = group("mixing")
    balance: BalanceConfig = group("classes of unequal size")
    loader: LoaderConfig = group("loading")

    def __post_init__(self) -> None:
        self.views.check_size(self.clip.input_size)
        self.check_task()
        if not self.task.eval:
            self.mixing_of_task().check_batch(self.optim.batch_size, self.clip.num_sample)
        self.task.check_run(zero_stage=self.run.zero_stage, weights=self.start.finetune or self.checkpoint.resume)

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all flags, with the sizes that the model's name says."""
        size = input_size_for(values["model"], values["input_size"], classifies=True)
        return {**values, "input_size": size, "short_side_size": values["short_side_size"] or max(size, SHORT_SIDE)}

    def ignored(self) -> dict[str, str]:
        found = super().ignored()
        if (self.views.sampling or get_dataset_spec(self.lists.data_set).sampler) == "uniform":
            found["sampling_rate"] = "uniform sampling takes its frames from the whole video"
        return found

    @property
    def trains(self) -> bool:
        return not self.task.eval

    def check_task(self) -> None:
        """Raise OptionError for options that do not fit the task."""
        task, flag = self.task, self.balance.flag
        if flag and not task.kind.has_classes:
            raise OptionError(f"{flag} needs one class for every video, which --task {task.task} has not: leave it out")
        if task.kind.labels == "value" and self.lists.nb_classes is not None:
            raise OptionError(
                f"--nb_classes {self.lists.nb_classes}: --task {task.task} has one number a video and no classes: "
                "leave it out"
            )
        if task.test_best and not self.run.output_dir:
            raise OptionError("--test_best tests checkpoint-best.pth in --output_dir: give one")
        if task.test_best and task.eval and self.checkpoint.resume:
            raise OptionError("--test_best and --resume both name the weights that --eval tests: give one of them")
        if task.test_best and self.run.stage == 3:
            raise OptionError("--test_best is not for --zero_stage 3: choose stage 2, or test the file with --eval")
        starts = self.start.finetune or self.checkpoint.resume or task.eval
        if task.freeze_blocks and not starts:
            raise OptionError(
                f"--freeze_blocks {task.freeze_blocks} without --finetune would keep random weights: give the weights "
                "to start from"
            )

    def mixing_of_task(self) -> MixupConfig:
        """How clips are mixed, with what is left to the task."""
        return self.mixing.for_task(self.task.task, has_classes=self.task.kind.has_classes)

    def resolved(self) -> "FinetuningConfig":
        """The options with what they leave to data set and task, without the back end of a run that does not train."""
        clip, views = self.views.for_data_set(self.clip, get_dataset_spec(self.lists.data_set))
        run = dataclasses.replace(self.run, enable_deepspeed=False, zero_stage=None) if self.task.eval else self.run
        return dataclasses.replace(self, clip=clip, views=views, run=run, mixing=self.mixing_of_task())


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
        facts.target_scale = scale_of(data.lists["train"].labels)
    with as_config_error("--decoder"):
        facts.decoder_used = describe_decoder(config.loader.decoder)
    clips = f"{config.lists.data_set}: {config.views.describe(config.clip)}"
    rows = {"data set": clips, **data.described, "decoder": facts.decoder_used, "workers": config.loader.describe()}
    log_table("data", rows)
    return data


def needs(config: FinetuningConfig, world: World, num_classes: int) -> list[Need]:
    """Memory that the run takes at least, by the options that decide it."""
    task, clip, views, batch_size = config.task, config.clip, config.views, config.optim.batch_size
    trained = not (task.eval or task.linear_probing)
    head = dataclasses.replace(config.head, num_classes=num_classes)
    shown = f"--batch_size {batch_size}, --input_size {clip.input_size}, --num_frames {clip.num_frames}"
    clips = batch_size * (clip.num_sample if trained else 1)
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
    if task.linear_probing:
        model.freeze_backbone()
    if task.freeze_blocks:
        with as_config_error("--freeze_blocks"):
            model.freeze_blocks(task.freeze_blocks)
    if config.run.compile:
        compile_blocks(model.blocks)
    place_model(config, world, model)
    return config, model


def load(model: Classifier, config: FinetuningConfig, weights: Weights, *, with_head: bool = True) -> LoadReport:
    """What fits of a file's weights, in place."""
    trained_with = config.start.trained_with(weights.args)
    return load_encoder(model, weights.tensors, trained_with=trained_with, with_head=with_head)


def load_to_train(model: Classifier, config: FinetuningConfig, data: LabelledData, weights: Weights) -> LoadReport:
    """What fits of the weights that training starts from; their head only for the same classes. The log says which."""
    other = other_class(weights, data.class_names) if data.is_named else None
    report = load(model, config, weights, with_head=other is None)
    if other is not None:
        names = weights.class_names[other], data.class_names[other]
        logger.warning("new head: class %d of the weights is %r, that of the lists %r", other, *names)
    elif report.has_head:
        known = "the same classes" if data.is_named and weights.class_names else "classes that not both name"
        logger.info("the head of the weights is kept: as many classes, %s", known)
    else:
        logger.info("new head: the weights have none for these %d classes", data.num_classes)
    return report


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
    facts.tested = {suffix: (str(path), its_key) for suffix, its_key in keys.items()}
    if config.task.eval:
        log_test_plan(config, world, task=config.task.describe(), model_name=config.model, tested=facts.tested)


def build_task(config: FinetuningConfig, data: LabelledData, facts: RunFacts) -> Task:
    """What the model learns, and how it is judged."""
    train = data.lists.get("train")
    return TASKS[config.task.task].build(
        TaskInputs(
            class_names=data.class_names,
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
        facts.tested = trained_weights(task, trainer.state.file)
    return models


def trained_weights(task: FinetuneConfig, file: Path | None) -> dict[str, tuple[str, str]]:
    """File and key of what training leaves in a checkpoint, by the suffix of its results."""
    keys = {"": "model"} | ({"_ema": "model_ema"} if task.model_ema else {})
    return {} if file is None else {suffix: (str(file), key) for suffix, key in keys.items()}


def tested_on(config: FinetuningConfig, world: World, data: LabelledData, facts: RunFacts) -> TestedOn:
    """What the results of the test depend on, besides the weights."""
    listed, decoder = data.lists["test"], (facts.decoder_used or "").partition(" ")[0]
    options = recorded(config.clip) | recorded(config.views)
    names = ("num_frames", "sampling_rate", "fps", "input_size", "sampling", "short_side_size")
    settings = {name: options[name] for name in (*names, "test_num_segment", "test_num_crop")}
    settings |= {"task": config.task.task, "amp": config.run.amp_on(world.device)}
    return TestedOn(str(listed.file), listed.fingerprint, {**settings, "decoder": decoder, "data_root": listed.root})


def is_done(config: FinetuningConfig, world: World, data: LabelledData, facts: RunFacts) -> bool:
    """Whether training and test of this command are done already. Every rank must call it.

    Raises:
        CheckpointError: the run in the folder is finished, but is another one.
    """
    run, saving = config.run, config.checkpoint
    if config.task.eval or saving.resume or not saving.auto_resume:
        return False
    finished = finished_checkpoint(run.output_dir, config.optim.epochs, world)
    if finished is None:
        return False
    options = facts.beside(config)
    if config.head.use_mean_pooling is None:  # not decided yet: the weights that training starts from say which
        del options["use_mean_pooling"]
    check_finished(
        finished,
        world,
        options=options,
        fingerprint=data.lists["train"].fingerprint,
        trust=config.start.trust_checkpoint,
    )
    on = tested_on(config, world, data, facts)
    tested = Path(best_weights(config, world)[0]) if config.task.test_best else finished
    weights = trained_weights(config.task, tested)
    return on_main_process(world, lambda: is_tested(run.output_dir, on.origin(weights)))


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
    run_script(FinetuningConfig, main, errors=(*DATA_ERRORS, ModelError), around=loader_errors)
