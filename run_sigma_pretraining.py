"""Pre-train SIGMA or VideoMAE: `python run_sigma_pretraining.py --data_path train.csv --output_dir output/run`."""

import signal
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # `python -I` leaves it out
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import logging

from datasets.clip_check import check_clips
from datasets.decoding.open import describe_decoder
from datasets.errors import DATA_ERRORS
from datasets.lists.checks import check_files
from datasets.lists.comparison import summarise
from datasets.lists.video_list import VideoList
from datasets.loading.loaders import build_train_loader
from datasets.loading.workers import loader_errors
from datasets.masks.motion_vectors import check_motion_vectors
from datasets.pretraining import PretrainDataset
from datasets.transforms.presets import PretrainTransform
from engine.acceleration.compilation import with_compilation
from engine.checkpointing.resume import check_finished, finished_checkpoint
from engine.config import RunFacts
from engine.distributed.world import World, main_process_first, on_main_process
from engine.dry_run import rehearse
from engine.errors import as_config_error
from engine.monitoring.collapse import CollapseDetector
from engine.monitoring.metrics import log_table
from engine.pretraining import PretrainingForward
from engine.setup import (
    Instruments,
    TrainingSet,
    build_trainer,
    prepare,
    run_script,
)
from engine.training import fit
from models import ModelError
from models.analysis.figures import pretraining_pictures
from models.analysis.flops import pretraining_flops
from models.methods import describe_method
from models.sigma import Sigma
from programs.pretraining.memory_plan import plan
from programs.pretraining.networks import build_guide, build_model, build_target_network, compile_and_capture, plan_of
from programs.pretraining.online_probe import build_online_probe, describe_probe
from programs.pretraining.options import PretrainingConfig
from sigma_video.options import recorded

logger = logging.getLogger(__name__)


def build_data(
    config: PretrainingConfig, world: World, model: Sigma, facts: RunFacts
) -> tuple[VideoList, PretrainDataset]:
    """The list, checked, and the data set over it."""
    with as_config_error("--decoder"):
        facts.decoder_used = describe_decoder(config.loader.decoder)
    with as_config_error("--mask_ratio"):
        config.masks.num_masked(model.encoder.grid)
    videos = main_process_first(world, config.lists.read)
    missing = on_main_process(world, lambda: check_files(videos, at_most=50_000))
    if config.masks.mask_type == "motion_vectors":
        on_main_process(world, lambda: check_motion_vectors(videos))
    dataset = PretrainDataset(
        videos,
        config.clip,
        config.masks,
        transform=PretrainTransform(config.clip.input_size, config.augmentation.augmentation),
        grid=model.encoder.grid,
        seed=config.run.seed,
        decoder=config.loader.decoder,
    )
    on_main_process(world, lambda: check_clips(dataset, config.clip))
    log_table(
        "data",
        {
            "list": "\n      ".join([videos.describe(), *videos.describe_lines()]),
            "missing files": len(missing),
            "decoder": facts.decoder_used,
            "workers": config.loader.describe(),
            "clip": config.clip.describe(),
            "mask": f"{config.masks.mask_type}, {dataset.num_masked} of {model.encoder.num_tokens} tokens masked",
        },
    )
    return videos, dataset


def is_done(config: PretrainingConfig, world: World) -> bool:
    """Whether the training of this command is done already. Every rank must call it.

    Raises:
        CheckpointError: the run in the folder is finished, but is another one.
    """
    run, saving = config.run, config.checkpoint
    resumes = saving.auto_resume and not saving.resume
    finished = finished_checkpoint(run.output_dir, config.optim.epochs, world) if resumes else None
    if finished is None:
        return False
    fingerprint = ""
    try:
        fingerprint = main_process_first(world, config.lists.read).fingerprint
    except DATA_ERRORS as error:  # the data of a finished run may have gone
        logger.warning("%s: not compared with the list of the finished run", error)
    trust = config.start.trust_checkpoint
    check_finished(finished, world, options=recorded(config), fingerprint=fingerprint, trust=trust)
    return True


def collapse_detector(config: PretrainingConfig, world: World, model: Sigma, *, held_steps: int) -> CollapseDetector:
    """What warns of features that are all alike, or ends the run."""
    return CollapseDetector(
        None if model.prototypes is None else config.objective.num_prototypes,
        check_cosine=config.targets.target_type != "pixel",
        log_warnings=world.is_main,
        stops=config.probe.stop_when_collapsed,
        held_steps=held_steps,
    )


def main(config: PretrainingConfig, world: World) -> None:
    """One run, from the options to the last checkpoint."""
    config = prepare(config.resolved(), world)
    run, optim, masks = config.run, config.optim, config.masks
    if is_done(config, world):
        logger.info("training is finished already: all %d epochs are done", optim.epochs)
        return
    config = with_compilation(config, world)
    facts = RunFacts()
    model = build_model(config, world, facts)
    videos, dataset = build_data(config, world, model, facts)
    loader = build_train_loader(
        dataset,
        batch_size=optim.batch_size,
        seed=run.seed,
        order=config.loader.order(len(dataset), seed=run.seed),
        **config.loader.kwargs(rank=world.rank, world_size=world.size, device=world.device),
    )
    held_steps = config.targets.freeze_projection_epochs * (len(loader) // optim.update_freq)
    probe = build_online_probe(config, world, lambda: model)
    teacher, guide = build_target_network(config, world, model, facts), build_guide(config, world, model)
    compile_and_capture(config, world, model, teacher=teacher, num_masked=dataset.num_masked)
    trainer = build_trainer(
        config,
        world,
        model_name=config.model,
        model=model,
        forward=PretrainingForward(teacher=teacher, guide=guide),
        data=TrainingSet(
            videos.paths,
            num_batches=len(loader),
            fingerprint=videos.fingerprint,
            repeats=config.clip.num_sample,
            described={"data": videos.describe(), "fingerprint": videos.fingerprint},
            lists={"train": summarise(videos)},
        ),
        instruments=Instruments(
            task={"task": "pre-training", **describe_method(config.targets, config.objective, epochs=optim.epochs)},
            flops_per_clip=pretraining_flops(
                model, num_masked=dataset.num_masked, num_masks=masks.num_masks, teacher=teacher
            ),
            diagnostics=collapse_detector(config, world, model, held_steps=held_steps),
            figure_fn=lambda batch, out: pretraining_pictures(
                model, batch.clip.repeat_interleave(masks.num_masks, dim=0), out
            ),
            plan=plan_of(config, world, model, num_masked=dataset.num_masked, teacher=teacher, facts=facts)
            | describe_probe(probe, config.probe.every),
        ),
        facts=facts,
        held_steps={"head.": held_steps},
    )
    batches = config.loader.prefetched(loader, world.device)
    if run.dry_run:
        rehearse(trainer, batches, world=world)
    else:
        if probe is not None:
            probe.begin(trainer.state.step)
        fit(trainer, batches, validate=probe, every=config.probe.every)


if __name__ == "__main__":
    run_script(PretrainingConfig, main, errors=(*DATA_ERRORS, ModelError), around=loader_errors, plan=plan)
