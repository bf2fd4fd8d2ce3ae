"""Judge frozen weights: `python run_probing.py --data_set UCF101 --data_path LISTS --finetune FILE --output_dir O`."""

import signal
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")  # `python -I` leaves it out
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datasets.classification import SHORT_SIDE
from datasets.errors import DATA_ERRORS
from datasets.lists.splits import LabelledData, read_labelled
from datasets.loading.workers import loader_errors
from datasets.probing import Sight
from datasets.transforms.presets import TrainTransform
from engine.distributed.ddp import set_matmul_precision
from engine.distributed.world import World, distributed, main_process_first, on_main_process
from engine.errors import ConfigError, as_config_error, user_errors
from engine.files import make_folder
from engine.flags import parse
from engine.monitoring.metrics import log_table, setup_logging
from engine.resilience.lock import WAYS_OUT, output_lock
from evaluation.probing.heads import ProbeError
from evaluation.probing.splits import refuse_overlap
from inference.load import Loaded, load, made
from models import ModelError
from models.registry import create_model
from programs.probing.job import Job
from programs.probing.on_clips import probe_attentive
from programs.probing.on_features import probe_linear, probe_nearest
from programs.probing.options import ProbingConfig
from programs.probing.results import make_records, write_predictions

PROBE_FUNCTIONS = {
    "linear": probe_linear,
    "pooler1": probe_attentive,
    "attentive4": probe_attentive,
    "knn": probe_nearest,
}


def read_lists(config: ProbingConfig, world: World) -> LabelledData:
    """The lists "train" and "test", checked against what is published and against each other."""
    data = read_labelled(
        config.lists,
        ("train", "test"),
        once=partial(on_main_process, world),
        in_turn=partial(main_process_first, world),
    )
    if not config.output.any_length:
        for part, listed in data.lists.items():
            check_length(config, part, listed)
    train, test = data.lists["train"], data.lists["test"]
    names = str(train.file), str(test.file)
    on_main_process(world, lambda: refuse_overlap(train.samples(), test.samples(), files=names))
    if config.probe == "knn":
        config.neighbours.check_bank(len(train), file=names[0])
    log_table("data", {"data set": config.lists.data_set, **data.described})
    return data


def check_length(config: ProbingConfig, part: str, listed: Any) -> None:
    """Raise ConfigError for a list that has not the published number of samples; own data have none."""
    name, published = config.lists.data_set, config.spec.published_size(part)
    if name in ("custom", "Synthetic") or len(listed) == published:
        return
    what = f"{published:,} samples" if published else "no published number of samples"
    raise ConfigError(
        f"{listed.file}: {len(listed):,} samples; the {part} list of {name} has {what}. Give the official list, or "
        "--any_length to take it as it is"
    )


def load_encoder(config: ProbingConfig, world: World) -> Loaded:
    """The encoder, frozen, on its device."""
    use, clip = config.encoder, config.clip
    if config.start.finetune:
        loaded = load(
            config.start.finetune,
            config.start,
            num_frames=clip.num_frames,
            input_size=clip.input_size,
            positions=use.positions,
            world=world,
        )
    else:
        torch.manual_seed(use.random_weights or 0)
        sizes = {"num_frames": clip.num_frames, "img_size": clip.input_size}
        loaded = made(create_model(use.model, num_classes=1, use_mean_pooling=False, **sizes), {})  # type: ignore[arg-type]
    if use.final_norm and not loaded.has_final_norm:
        raise ConfigError(f"{config.start.finetune}: its encoder has no final norm: give --no-final_norm")
    loaded.model.to(world.device)
    return loaded


def look_at(config: ProbingConfig, loaded: Loaded) -> Sight:
    """How samples become clips, with what data set and encoder say."""
    spec, size = config.spec, loaded.clip.input_size
    side = config.views.short_side_size
    side = side or (round(size * 256 / 224) if spec.images else max(size, SHORT_SIDE))
    clip = dataclasses.replace(config.clip, num_frames=loaded.clip.num_frames, input_size=size)
    views = dataclasses.replace(config.views, short_side_size=side)
    views.check_size(size)
    clip, views = views.for_data_set(clip, spec)
    area, widest = config.augmentation.min_crop_area, config.crops.crop_aspect
    assert area is not None and widest is not None

    def augment(size: int, flip: bool) -> TrainTransform:
        return TrainTransform(
            size,
            aa=config.augmentation.aa,
            flip=flip,
            erase_prob=config.augmentation.reprob,
            min_area=area,
            aspects=(1 / widest, widest),
        )

    with as_config_error():  # --aa
        augment(size, False)
    return Sight(spec, clip, views, augment, area, config.recipe.seed, config.loader.decoder)


def main(config: ProbingConfig, world: World) -> None:
    """From options to records."""
    if config.output.output_dir:
        make_folder("output_dir", config.output.output_dir, written=("console.txt",), replaced=("probe-*",))
    if config.output.cache_dir:
        make_folder("cache_dir", config.output.cache_dir)
    setup_logging(world, config.output.output_dir)
    data = read_lists(config, world)
    with as_config_error():
        loaded = load_encoder(config, world)
    job = Job(config, world, loaded, look_at(config, loaded), data)
    set_matmul_precision(world.device, job.amp)
    log_table(
        "plan",
        {
            "probe": config.probe,
            "weights": config.start.finetune or f"random, seed {config.encoder.random_weights}",
            "clips": job.sight.views.describe(job.sight.clip),
            "device": f"{world.size} x {world.device.type}, amp {job.amp}",
            "classes": str(data.num_classes),
        },
    )
    outcome = PROBE_FUNCTIONS[config.probe](job)
    if not world.is_main:
        return
    records = make_records(job, outcome)
    log_table("results", {record.metric: f"{record.value:.2f}" for record in records})
    if config.output.output_dir:
        for record in records:
            record.write(Path(config.output.output_dir))
        write_predictions(job, outcome, Path(config.output.output_dir))


if __name__ == "__main__":
    errors = (*DATA_ERRORS, ModelError, ProbeError)
    interrupted = "interrupted; the same command goes on with the features that are there"
    with user_errors(*errors, interrupted=interrupted):
        parsed = parse(ProbingConfig)
        with (
            distributed(parsed.output.device) as world,
            user_errors(*errors, interrupted=interrupted),
            loader_errors(),
            output_lock(parsed.output.output_dir, world, WAYS_OUT),
        ):
            main(parsed, world)
