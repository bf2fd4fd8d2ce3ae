"""Count repetitions: `python run_repetition_counting.py --data_root UCFRep --finetune FILE --output_dir FOLDER`."""

import csv
import dataclasses
import io
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.catalogue import get_dataset_spec
from datasets.decoding.open import describe_decoder
from datasets.errors import DATA_ERRORS
from datasets.loading.loaders import LoaderConfig, build_eval_loader, build_train_loader
from datasets.loading.workers import loader_errors
from engine.acceleration.compilation import compile_blocks, with_compilation
from engine.checkpointing.checkpoint import CheckpointConfig
from engine.checkpointing.download import hash_of_weights
from engine.checkpointing.read_weights import Weights
from engine.config import RunConfig, RunFacts, TrainingConfig
from engine.distributed.ddp import AMP_DTYPES, autocast
from engine.distributed.world import World, on_main_process
from engine.dry_run import Passes, rehearse, rehearse_test
from engine.errors import as_config_error
from engine.files import replace_text
from engine.memory import Need, check_memory
from engine.monitoring.metrics import log_table
from engine.optim import OptimConfig
from engine.record import code_commit, log_test_plan
from engine.resilience.preemption import exit_on_preemption
from engine.resilience.watchdog import watchdog
from engine.setup import Instruments, TrainingSet, build_trainer, prepare, run_script
from engine.training import fit
from engine.weights import load_weights, weights_to_test
from evaluation.records import Record
from evaluation.repetition.anchors import NUM_OUTPUTS
from evaluation.repetition.annotations import (
    RepetitionDataConfig,
    Repetitions,
    check_apart,
    check_frames,
    read_repetitions,
)
from evaluation.repetition.config import CountingConfig
from evaluation.repetition.counting import Counter, metrics, relative_errors
from evaluation.repetition.segments import SegmentDataset, SpanDataset, collate_segments
from evaluation.repetition.training import CountingTask, RepeatedBatches
from models import ModelError
from models.analysis.flops import classifier_flops
from models.attention import describe_attention
from models.classifier import Classifier, HeadConfig
from models.registry import MODEL_HELP, build_classifier, input_size_for
from models.sizes import classifier_parts
from models.vit import EncoderConfig
from models.weights.load import LoadReport, load_encoder
from sigma_video.options import OptionError, group, option, recorded

logger = logging.getLogger(__name__)

DATA_SET = "UCFRep"
LIBRARIES = ("torch", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig(TrainingConfig):
    """Fine-tune an encoder to count repetitions, and test it on UCFRep. docs/severe.md explains the flags."""

    essential = ("data_root", "output_dir", "model", "finetune", "eval", "batch_size", "epochs", "lr", "num_workers")

    run: RunConfig = group("run", without=("enable_deepspeed", "zero_stage", "cuda_graphs"))
    optim: OptimConfig = group(
        "optimization", batch_size=32, epochs=100, lr=4e-4, min_lr=4e-4, warmup_epochs=0, opt_betas=(0.9, 0.999)
    )
    checkpoint: CheckpointConfig = group("checkpoints", save_ckpt_freq=100)
    data: RepetitionDataConfig = group("data")
    counting: CountingConfig = group("counting")
    model: str = option("vit_base_patch16_224", MODEL_HELP, metavar="NAME")
    encoder: EncoderConfig = group("encoder")
    head: HeadConfig = group("head", without=("use_mean_pooling",))
    loader: LoaderConfig = group("loading", without=("gpu_prefetch", "samples_per_epoch", "pin_mem"))

    def __post_init__(self) -> None:
        counting, steps = self.counting, self.checkpoint.save_ckpt_steps
        if not counting.eval and steps % counting.updates_per_batch:
            raise OptionError(
                f"--save_ckpt_steps {steps} has to be a multiple of --updates_per_batch {counting.updates_per_batch}: "
                "between these updates the hypotheses about a batch are in no checkpoint"
            )

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all flags, with the size that the model's name says."""
        return {**values, "input_size": input_size_for(values["model"], values["input_size"], classifies=True)}

    @property
    def trains(self) -> bool:
        return not self.counting.eval

    @property
    def heads(self) -> HeadConfig:
        """Of the network: the mean over tokens, and the outputs of both branches."""
        return dataclasses.replace(self.head, num_classes=NUM_OUTPUTS, use_mean_pooling=True)


Data = dict[str, Repetitions]


def read_data(config: RepetitionConfig) -> Data:
    """The videos of each part that is needed, all there and whole."""
    parts = ("val",) if config.counting.eval else ("train", "val")
    data = {part: read_repetitions(config.data, part) for part in parts}
    for repetitions in data.values():
        check_frames(repetitions)
    if "train" in data:
        check_apart(data["train"], data["val"])
    return data


def describe_part(repetitions: Repetitions, part: str) -> str:
    """Videos and counts, beside the published number."""
    counts, published = repetitions.counts, get_dataset_spec(DATA_SET).published_size(part)
    return f"{len(counts)} videos, {counts.min()} to {counts.max()} repetitions; the published list has {published}"


def show_data(config: RepetitionConfig, data: Data, facts: RunFacts) -> None:
    """Log what is trained and tested on."""
    with as_config_error("--decoder"):
        facts.decoder_used = describe_decoder(config.loader.decoder)
    parts = {part: describe_part(repetitions, part) for part, repetitions in data.items()}
    log_table("data", {**parts, "decoder": facts.decoder_used, "workers": config.loader.describe()})


def needs(config: RepetitionConfig, world: World) -> list[Need]:
    """Memory that the run takes at least, by the options that decide it."""
    counting, batch_size, size = config.counting, config.optim.batch_size, config.encoder.img_size
    trained, frame = not counting.eval, 3 * size**2
    return [
        *(
            Need(part.flags, part.name, config.run.bytes_of(part.weights, part.table, world.size, trained=trained))
            for part in classifier_parts(config.model, config.encoder, config.heads)
        ),
        Need(
            f"--batch_size {batch_size}, --num_frames {counting.num_frames}, --input_size {size}",
            f"{batch_size} clips of a batch",
            batch_size * 5 * counting.num_frames * frame,
        ),
    ]


def build_model(config: RepetitionConfig, world: World, facts: RunFacts) -> Classifier:
    """The network, with the encoder's weights that training starts from."""
    check_memory(needs(config, world), world.device)
    torch.manual_seed(config.run.seed)
    model = build_classifier(config.model, config.encoder, config.heads)
    start = config.start
    if start.finetune and not config.counting.eval:
        facts.licence = load_weights(start.finetune, start, partial(load, config, model), world=world).licence
    facts.position_grid = list(model.position_grid)
    if config.run.compile:
        compile_blocks(model.blocks)
    return model.to(world.device)


def load(config: RepetitionConfig, model: Classifier, weights: Weights, *, with_head: bool = False) -> LoadReport:
    """What fits of a file's weights, in place."""
    trained_with = config.start.trained_with(weights.args)
    return load_encoder(model, weights.tensors, trained_with=trained_with, with_head=with_head)


def load_for_test(config: RepetitionConfig, world: World, model: Classifier, facts: RunFacts) -> str:
    """Load the weights that `--eval` tests; returns what they were fine-tuned from, '' if they do not say."""
    path, key = weights_to_test(config, world)

    def load_all(weights: Weights) -> LoadReport:
        report = load(config, model, weights, with_head=True)
        if "updates_per_batch" not in weights.args or report.missing or report.mismatched:
            raise ValueError(f"not a checkpoint of run_repetition_counting.py, for --eval: {report.describe()}")
        return report

    weights = load_weights(path, config.start, load_all, world=world, key=key)
    facts.licence, facts.tested = weights.licence, {"": (str(path), key)}
    log_test_plan(config, world, task="test only: nothing is trained", model_name=config.model, tested=facts.tested)
    return str(weights.args.get("finetune") or "")


def loader_options(config: RepetitionConfig, world: World) -> dict[str, Any]:
    """Keyword arguments of both loaders. Pages are not locked: clips are made of a batch's frames in every update."""
    kwargs = config.loader.kwargs(rank=world.rank, world_size=world.size, device=world.device)
    return {**kwargs, "pin_memory": False}


def build_counter(config: RepetitionConfig, world: World, repetitions: Repetitions) -> Counter:
    """What counts the repetitions of the tested videos."""
    size = config.encoder.img_size
    dataset = SpanDataset(repetitions, size=size, decoder=config.loader.decoder)
    return Counter(
        world,
        loader=build_eval_loader(dataset, batch_size=1, **loader_options(config, world)),
        names=repetitions.names,
        num_frames=config.counting.num_frames,
        clips_at_once=config.optim.batch_size,
        autocast=autocast(world.device, config.run.amp_on(world.device)),
    )


def build_batches(config: RepetitionConfig, world: World, repetitions: Repetitions) -> RepeatedBatches:
    """The batches of training, each as often as updates are made on it."""
    counting = config.counting
    dataset = SegmentDataset(
        repetitions,
        segments_per_video=counting.segments_per_video,
        max_frames=counting.max_segment,
        redrawn=counting.segments == "every_epoch",
        size=config.encoder.img_size,
        flip=counting.flip,
        seed=config.run.seed,
        decoder=config.loader.decoder,
    )
    loader = build_train_loader(
        dataset,
        batch_size=config.optim.batch_size,
        seed=config.run.seed,
        collate=collate_segments,
        **loader_options(config, world),
    )
    return RepeatedBatches(loader, times=counting.updates_per_batch, group=config.optim.update_freq)


def instruments_of(config: RepetitionConfig, world: World, model: Classifier) -> Instruments:
    """What is shown of a training run."""
    counting = config.counting
    stacks = {"encoder": (model.blocks, model.num_tokens)}
    dtype = AMP_DTYPES[config.run.amp_on(world.device)]
    return Instruments(
        flops_per_clip=classifier_flops(model),
        task={
            "task": "fine-tuning: all weights are trained to count repetitions",
            "segments": f"{counting.segments_per_video} of each video, drawn {counting.segments.replace('_', ' ')}, at "
            f"most {counting.max_segment} frames; {counting.updates_per_batch} updates on each batch of them",
        },
        plan={"attention": describe_attention(stacks, device=world.device, dtype=dtype)},
    )


def train(
    config: RepetitionConfig, world: World, data: Data, model: Classifier, *, counter: Counter, facts: RunFacts
) -> float | None:
    """All epochs, from where a checkpoint in `--output_dir` left off; returns the lowest MAE of any epoch, if known."""
    counting, videos = config.counting, data["train"].videos
    batches = build_batches(config, world, data["train"])
    trainer = build_trainer(
        config,
        world,
        model_name=config.model,
        model=model,
        forward=CountingTask(
            num_frames=counting.num_frames, regression_mean=counting.regression_mean, seed=config.run.seed
        ),
        data=TrainingSet(
            videos.paths,
            num_batches=len(batches),
            fingerprint=videos.fingerprint,
            validated_on="" if counting.disable_eval_during_finetuning else data["val"].videos.fingerprint,
            described={part: describe_part(repetitions, part) for part, repetitions in data.items()},
        ),
        instruments=instruments_of(config, world, model),
        facts=facts,
        layer_decay=counting.layer_decay,
    )
    trainer = dataclasses.replace(trainer, updates_together=counting.updates_per_batch)

    def validate() -> dict[str, float]:
        return {f"val/{name}": value for name, value in metrics(counter(model), data["val"].counts).items()}

    validates = not counting.disable_eval_during_finetuning
    if config.run.dry_run:
        passes = passes_over(counter, model, config.optim.epochs * validates + 1)
        rehearse(trainer, batches, world=world, evaluations=[passes])
        return None
    fit(trainer, batches, validate=validate if validates else None)
    facts.tested = {} if trainer.state.file is None else {"": (str(trainer.state.file), "model")}
    return trainer.state.best if trainer.state.best >= 0 else None


def passes_over(counter: Counter, model: Classifier, number: int) -> Passes:
    """Passes over the tested videos, for a dry run."""
    return Passes("val", counter.loader, number, partial(counter.rehearse, model))


def make_records(
    config: RepetitionConfig,
    repetitions: Repetitions,
    values: Mapping[str, float],
    *,
    per_clip: Mapping[str, float],
    weights: str,
    pretrained: str,
) -> list[Record]:
    """A record for each value.

    Args:
        values: by metric.
        per_clip: of each video, its part of the MAE.
        weights: the file that was tested, '' where nothing is kept.
        pretrained: the file that these weights were fine-tuned from.
    """
    common: dict[str, Any] = {
        "task": "repetition",
        "clips": len(repetitions.names),
        "data_set": DATA_SET,
        "model": config.model,
        "checkpoint": weights,
        "checkpoint_sha256": hash_of_weights(weights),
        "list_file": str(repetitions.videos.file),
        "list_sha256": repetitions.sha256,
        "options": recorded(config),
        "seeds": [config.run.seed],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "commit": code_commit(),
        "probe": "finetune",
        "pretrained": pretrained,
    }
    return [
        Record(
            metric=metric, value=value, per_seed=[value], per_clip=dict(per_clip) if metric == "MAE" else {}, **common
        )
        for metric, value in values.items()
    ]


def write_counts(file: Path, repetitions: Repetitions, counted: np.ndarray) -> None:
    """`name,repetitions,counted` of every video."""
    text = io.StringIO()
    rows = zip(repetitions.names, repetitions.counts.tolist(), counted.tolist(), strict=True)
    csv.writer(text, lineterminator="\n").writerows([("name", "repetitions", "counted"), *rows])
    replace_text(file, text.getvalue())


def test(
    config: RepetitionConfig,
    model: Classifier,
    *,
    counter: Counter,
    repetitions: Repetitions,
    best: float | None,
    weights: str,
    pretrained: str,
) -> None:
    """Count, show the result and write it.

    Args:
        best: the lowest MAE of any epoch on these videos, if known.
    """
    counted, true = counter(model), repetitions.counts
    if not counter.world.is_main:
        return
    found = metrics(counted, true)
    if best is not None:
        found["MAE_best_epoch"] = best
    log_table("results", {metric: f"{value:.4f}" for metric, value in found.items()} | {"videos": str(len(true))})
    if config.run.output_dir:
        output = Path(config.run.output_dir)
        write_counts(output / "counts.csv", repetitions, counted)
        errors = dict(zip(repetitions.names, relative_errors(counted, true).tolist(), strict=True))
        for record in make_records(config, repetitions, found, per_clip=errors, weights=weights, pretrained=pretrained):
            record.write(output)


def main(config: RepetitionConfig, world: World) -> None:
    """One run, from the options to the records."""
    config = prepare(config, world)
    facts, pretrained, best = RunFacts(), config.start.finetune, None
    data = on_main_process(world, lambda: read_data(config))
    show_data(config, data, facts)
    config = with_compilation(config, world)
    with as_config_error():
        model = build_model(config, world, facts)
    counter = build_counter(config, world, data["val"])
    if config.counting.eval:
        pretrained = load_for_test(config, world, model, facts)
    else:
        best = train(config, world, data, model, counter=counter, facts=facts)
    if not config.run.dry_run:
        weights, _ = (facts.tested or {}).get("", ("", ""))
        with exit_on_preemption(world), watchdog(config.run.stall_timeout):
            test(
                config,
                model,
                counter=counter,
                repetitions=data["val"],
                best=best,
                weights=weights,
                pretrained=pretrained,
            )
    elif config.counting.eval:
        rehearse_test([passes_over(counter, model, 1)], world=world)


if __name__ == "__main__":
    run_script(RepetitionConfig, main, errors=(*DATA_ERRORS, ModelError), around=loader_errors)
