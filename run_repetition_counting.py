"""Count repetitions: `python run_repetition_counting.py --data_root UCFRep --finetune FILE --output_dir FOLDER`."""

import signal
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # `python -I` leaves it out
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import dataclasses
from functools import partial
from pathlib import Path

from datasets.errors import DATA_ERRORS
from datasets.loading.workers import loader_errors
from engine.acceleration.compilation import with_compilation
from engine.config import RunFacts
from engine.distributed.ddp import AMP_DTYPES
from engine.distributed.world import World, on_main_process
from engine.dry_run import Passes, rehearse, rehearse_test
from engine.errors import as_config_error
from engine.monitoring.metrics import log_table
from engine.resilience.preemption import exit_on_preemption
from engine.resilience.watchdog import watchdog
from engine.setup import Instruments, TrainingSet, build_trainer, prepare, run_script
from engine.training import fit
from evaluation.repetition.annotations import Repetitions
from evaluation.repetition.counting import Counter, metrics, relative_errors
from evaluation.repetition.training import CountingTask
from models import ModelError
from models.analysis.flops import classifier_flops
from models.attention import describe_attention
from models.classifier import Classifier
from programs.repetition.data import Data, build_batches, build_counter, describe_part, read_data, show_data
from programs.repetition.model import build_model, load_for_test
from programs.repetition.options import RepetitionConfig
from programs.repetition.results import make_records, write_counts


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
