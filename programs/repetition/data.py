"""The videos of UCFRep: read, checked and shown, and the loaders of training and test."""

from typing import Any

from datasets.catalogue import get_dataset_spec
from datasets.decoding.open import describe_decoder
from datasets.loading.loaders import build_eval_loader, build_train_loader
from engine.config import RunFacts
from engine.distributed.ddp import autocast
from engine.distributed.world import World
from engine.errors import as_config_error
from engine.monitoring.metrics import log_table
from evaluation.repetition.annotations import Repetitions, check_apart, check_frames, read_repetitions
from evaluation.repetition.counting import Counter
from evaluation.repetition.segments import SegmentDataset, SpanDataset, collate_segments
from evaluation.repetition.training import RepeatedBatches

from .options import RepetitionConfig

DATA_SET = "UCFRep"
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
