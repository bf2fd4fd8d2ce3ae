"""Judge frozen weights: `python run_probing.py --data_set UCF101 --data_path LISTS --finetune FILE --output_dir O`."""

import dataclasses
import logging
import platform
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.catalogue import get_dataset_spec
from datasets.classification import SHORT_SIDE, ViewConfig
from datasets.errors import DATA_ERRORS
from datasets.lists.splits import LabelledData, LabelledListConfig, read_labelled
from datasets.loading.batch import Batch
from datasets.loading.loaders import LoaderConfig, build_train_loader
from datasets.loading.workers import loader_errors
from datasets.probing import Chosen, FirstEpoch, Sight, batches_of
from datasets.sampling import ClipConfig
from datasets.transforms.mixup import MixupConfig, build_mixup
from datasets.transforms.presets import AugmentConfig, TrainTransform
from engine.checkpointing.download import hash_of_weights, is_address
from engine.checkpointing.read_weights import StartConfig
from engine.distributed.collectives import all_reduce_sum, gather_objects, gather_to_main
from engine.distributed.ddp import AMP_DTYPES, autocast, check_amp, set_matmul_precision
from engine.distributed.world import (
    World,
    distributed,
    main_process_first,
    on_main_process,
    seed_everything,
)
from engine.errors import ConfigError, NonFiniteError, as_config_error, user_errors
from engine.flags import parse
from engine.monitoring.metrics import log_table, setup_logging
from engine.record import code_commit
from engine.tasks.scores import mean_per_class, top_k
from evaluation.probing.heads import ProbeError, build_head
from evaluation.probing.nearest import NeighbourConfig, classify_nearest
from evaluation.probing.recipes import ATTENTIVE, PROBES, Candidate, RecipeConfig, best_of, defaults_for, filled
from evaluation.probing.splits import hold_out, refuse_overlap
from evaluation.probing.training import (
    HeadTrainer,
    Step,
    accuracy,
    clip_probabilities,
    probabilities,
    train_on_clips,
    train_on_features,
)
from evaluation.records import Record
from inference.features import DTYPES, Plan, Row, extract
from inference.load import POSITIONS, Loaded, load, made
from models import ModelError
from models.registry import create_model
from sigma_video.options import AT_LEAST_ONE, NOT_NEGATIVE, OptionError, Options, Rule, group, option, recorded

logger = logging.getLogger(__name__)

_OF_TRAINING = ("epochs", "batch_size", "lrs", "weight_decays", "warmup_epochs", "min_lr", "holdout", "refit", "seed")
_OF_PIXELS = ("aa", "reprob", "crop_aspect", "mixup", "cutmix")
_OF_NEIGHBOURS = ("neighbours", "temperature")
_OF_CACHE = ("cache_dir", "rebuild_features", "feature_dtype")
WITHOUT_EFFECT = {  # flags by probe
    "linear": ("mixup", "cutmix", "dropout", "probe_heads", *_OF_NEIGHBOURS),
    "pooler1": ("train_fc_norm", *_OF_NEIGHBOURS, *_OF_CACHE),
    "attentive4": ("train_fc_norm", *_OF_NEIGHBOURS, *_OF_CACHE),
    "knn": (
        *("train_fc_norm", "dropout", "probe_heads", "num_sample", "min_crop_area", "smoothing", "flip"),
        *(*_OF_TRAINING, *_OF_PIXELS),
    ),
}


@dataclass(frozen=True, kw_only=True)
class EncoderUse(Options):
    """The encoder, and which of its tokens are used."""

    random_weights: int | None = option(
        None, "weights drawn by this seed, in place of --finetune", rule=NOT_NEGATIVE, metavar="SEED"
    )
    model: str = option("vit_base_patch16_224", "with --random_weights: name of the model", metavar="NAME")
    final_norm: bool | None = option(
        None, "tokens after the encoder's final norm; default: not for linear, as in fine-tuning", switch="pair"
    )
    positions: str = option(
        "rows",
        "of a clip with fewer frames than the weights were trained on: the first rows of their position table, or all "
        "of it resampled",
        choices=POSITIONS,
    )
    amp: str | None = option(None, "mixed precision; default: bf16 on a GPU, none on a CPU", choices=tuple(AMP_DTYPES))


@dataclass(frozen=True, kw_only=True)
class CropConfig(Options):
    """What AugmentConfig has no option for."""

    crop_aspect: float | None = option(
        None,
        "widest random crop of a training clip, width over height; default: 2 (pooler1), 4/3",
        rule=Rule(lambda aspect: aspect >= 1, "must be at least 1"),
    )


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Options):
    """Where features and results go."""

    output_dir: str = option("", "gets the results, one JSON record a number, and the features", metavar="FOLDER")
    cache_dir: str = option("", "folder of the features; default: features in --output_dir", metavar="FOLDER")
    rebuild_features: bool = option(False, "make features anew, whatever the folder holds")
    feature_dtype: str = option("float32", "type in which features are kept", choices=DTYPES)
    forward_batch: int = option(32, "samples that the encoder takes at a time, with all their views", rule=AT_LEAST_ONE)
    any_length: bool = option(
        False, "take lists that have not the published number of samples; records and tables show the number"
    )
    device: str = option("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))


@dataclass(frozen=True, kw_only=True)
class ProbingConfig:
    """Judge a frozen encoder by a small classifier on its features. docs/probing.md explains the flags."""

    probe: str = option(
        "linear",
        "linear: on pooled features; pooler1: one cross-attention; attentive4: four blocks; knn: nearest neighbours",
        choices=PROBES,
    )
    encoder: EncoderUse = group("encoder")
    start: StartConfig = group("weights")
    lists: LabelledListConfig = group("lists")
    clip: ClipConfig = group("clip", num_frames=None, input_size=None, num_sample=None)  # None: see `completed`
    views: ViewConfig = group("views", short_side_size=None)
    recipe: RecipeConfig = group("training of heads")
    augmentation: AugmentConfig = group(
        "augmentation",
        without=("finetuning_crops", "train_interpolation", "remode", "recount"),
        aa=None,
        reprob=None,
    )
    crops: CropConfig = group("augmentation")
    mixing: MixupConfig = group("mixing", without=("cutmix_minmax", "mixup_prob", "mixup_switch_prob", "mixup_mode"))
    neighbours: NeighbourConfig = group("nearest neighbours")
    loader: LoaderConfig = group("loading", without=("gpu_prefetch", "samples_per_epoch"))
    output: OutputConfig = group("output")

    def __post_init__(self) -> None:
        if bool(self.start.finetune) == (self.encoder.random_weights is not None):
            raise OptionError("give either --finetune FILE or --random_weights SEED: the weights that are judged")
        if not (self.output.output_dir or self.output.cache_dir or self.is_attentive):
            raise OptionError("--output_dir FOLDER is needed: features and results are written there")
        trains = self.probe != "knn"
        if trains and len(self.recipe.candidates) > 1 and not 0 < self.recipe.holdout < 1:
            raise OptionError(
                f"--holdout {self.recipe.holdout:g} leaves nothing to choose one of {len(self.recipe.candidates)} "
                "heads on: give a part between 0 and 1, or a single value of --lrs and --weight_decays"
            )
        if self.is_attentive and self.recipe.batch_size * (self.clip.num_sample or 1) % 2 and self.mixing.is_on:  # type: ignore[operator]
            raise OptionError("--batch_size is odd, and clips are mixed in pairs: choose an even one")

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values of all flags, with what the probe decides."""
        spec = get_dataset_spec(values["data_set"])
        return filled(values, defaults_for(values["probe"], spec.name, epochs=values["epochs"]))

    def noted(self, given: Collection[str]) -> "ProbingConfig":
        """The same options. Raises OptionError for flags on the command line that have no effect for the probe."""
        useless = [name for name in WITHOUT_EFFECT[self.probe] if name in given]
        if self.spec.images:
            useless += [name for name in ("aa", "reprob", "crop_aspect", "sampling", "fps") if name in given]
        if self.start.finetune and "model" in given:
            raise OptionError(f"--model {self.encoder.model}: the file of --finetune says its model: leave it out")
        if useless:
            raise OptionError(f"--{useless[0]} has no effect with --probe {self.probe}: leave it out")
        return self

    @property
    def is_attentive(self) -> bool:
        """Whether the probe reads tokens, which are not kept."""
        return self.probe in ATTENTIVE

    @property
    def spec(self) -> Any:
        """The data set."""
        return get_dataset_spec(self.lists.data_set)


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


@dataclass(frozen=True)
class Job:
    """A probe with all that it needs."""

    config: ProbingConfig
    world: World
    loaded: Loaded
    sight: Sight
    data: LabelledData

    @property
    def recipe(self) -> RecipeConfig:
        return self.config.recipe

    @cached_property
    def amp(self) -> str:
        """A key of AMP_DTYPES."""
        device = self.world.device
        return check_amp(self.config.encoder.amp or ("bf16" if device.type == "cuda" else "none"), device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass."""
        return autocast(self.world.device, self.amp)

    def labels(self, part: str) -> np.ndarray:
        """Of a list's samples."""
        return np.asarray(list(self.data.lists[part].labels), dtype=np.int64)

    def loader_kwargs(self, *, alone: bool) -> dict[str, Any]:
        """Of a loader; `alone`: what it is given is this rank's own share."""
        rank, size = (0, 1) if alone else (self.world.rank, self.world.size)
        return self.config.loader.kwargs(rank=rank, world_size=size, device=self.world.device)

    def build_heads(self, number: int) -> list[nn.Module]:
        """Heads that start alike."""
        recipe, heads = self.recipe, []
        for _ in range(number):
            torch.manual_seed(recipe.seed)
            head = build_head(
                self.config.probe,
                self.loaded.model.embed_dim,
                self.data.num_classes,
                num_heads=recipe.probe_heads or 1,
                dropout=recipe.dropout or 0.0,
                trains_norm=recipe.train_fc_norm,
            )
            heads.append(head.to(self.world.device))
        return heads


# ------------------------------------------------------------------------------------------------- features


def features(job: Job, part: str) -> np.ndarray:
    """Pooled features of a list (V, G, D), from the cache or into it."""
    config, videos = job.config, job.data.lists[part]
    augmented = part == "train" and config.probe != "knn"
    views = {"clips": 1, "crops": 1} if part == "train" else {}
    dataset: Any = FirstEpoch(job.sight.train(videos)) if augmented else job.sight.test(videos, **views)
    clip, seen = job.sight.clip, job.sight.views
    number = clip.num_sample if augmented else 1 if views else seen.num_views
    final_norm = bool(config.encoder.final_norm)
    shown = f"augmented{number}" if augmented else "1x1" if views else f"{seen.test_num_segment}x{seen.test_num_crop}"
    name = f"{config.lists.data_set}-{part}-{shown}" + ("-normed" if final_norm else "")
    root = Path(config.output.cache_dir or Path(config.output.output_dir) / "features")

    def encode(clips: torch.Tensor) -> torch.Tensor:
        with job.autocast():
            return job.loaded.pooled(clips, final_norm=final_norm)

    plan = Plan(
        root / name,
        key={
            "checkpoint": job.loaded.digest,
            "list": {"fingerprint": videos.fingerprint, "data_set": config.lists.data_set},
            "views": views_key(job, augmented=augmented, shown=shown),
            "encoding": {"pooling": "mean", "final_norm": final_norm, "amp": job.amp},
        },
        rows=[Row(path, span, label) for (path, span), label in zip(videos.samples(), videos.labels, strict=True)],
        views=number,
        width=job.loaded.model.embed_dim,
        batch=max(config.output.forward_batch // number, 1),
        dtype=config.output.feature_dtype,
    )
    batches = batches_of(dataset, batch_size=plan.batch, **job.loader_kwargs(alone=True))
    found = extract(plan, job.world, batches=batches, encode=encode, rebuild=config.output.rebuild_features)
    assert found is not None  # of all shards
    return found


def views_key(job: Job, *, augmented: bool, shown: str) -> dict[str, Any]:
    """What decides which pixels of a sample are seen."""
    clip, views, config = job.sight.clip, job.sight.views, job.config
    names = ("num_frames", "sampling_rate", "fps", "input_size", "sampling", "short_side_size")
    options = recorded(clip) | recorded(views)
    key = {name: options[name] for name in names} | {"shown": shown, "images": job.sight.spec.images}
    if augmented:
        drawn = recorded(config.augmentation) | recorded(config.crops)
        key |= {name: drawn[name] for name in ("aa", "reprob", "min_crop_area", "crop_aspect")}
        key |= {"flip": views.flip, "seed": config.recipe.seed}
    return key


# ------------------------------------------------------------------------------------------------- the probes


@dataclass(frozen=True)
class Outcome:
    """Probabilities, or votes, (V, K) of the test samples by what the metrics' names end in; on rank 0.

    Attributes:
        chosen: what was found out: the head that was taken, the accuracies that it was chosen by.
    """

    scores: dict[str, np.ndarray]
    chosen: dict[str, Any]


def probe_nearest(job: Job) -> Outcome:
    """Nearest neighbours of the test samples among the training samples."""
    options, world = job.config.neighbours, job.world
    bank, queries = features(job, "train"), features(job, "test")
    votes = classify_nearest(
        queries,
        bank,
        job.labels("train"),
        device=world.device,
        rank=world.rank,
        size=world.size,
        neighbours=options.neighbours,
        temperature=options.temperature,
        num_classes=job.data.num_classes,
    )
    shares = gather_to_main(votes)
    by_k = {k: {place: row for share in shares for place, row in share[k].items()} for k in options.neighbours}
    scores = {f"_k{k}": rows_of(found) for k, found in by_k.items()} if world.is_main else {}
    return Outcome(scores, {})


def rows_of(found: dict[int, np.ndarray]) -> np.ndarray:
    """Rows in the order of their places."""
    return np.stack([found[place] for place in sorted(found)])


def describe_choice(candidates: Sequence[Candidate], scores: Sequence[float]) -> dict[str, Any]:
    """What a sweep found, for log and record."""
    best = candidates[best_of(scores)]
    rows = {candidate.describe(): f"{score:.2f}" for candidate, score in zip(candidates, scores, strict=True)}
    log_table("top-1 on the held-out training samples", {**rows, "chosen": best.describe()})
    tried = [{**dataclasses.asdict(c), "holdout_top1": s} for c, s in zip(candidates, scores, strict=True)]
    return {"chosen_lr": best.lr, "chosen_weight_decay": best.weight_decay, "tried": tried}


def probe_linear(job: Job) -> Outcome:
    """Linear heads on cached features: the sweep, the choice, the test."""
    recipe, world = job.recipe, job.world
    cached, labels = features(job, "train"), job.labels("train")
    everything = np.arange(len(labels))
    smoothing = job.config.mixing.smoothing or 0.0

    def fit(candidates: Sequence[Candidate], places: np.ndarray) -> list[nn.Module]:
        heads = job.build_heads(len(candidates))
        train_on_features(
            heads,
            candidates,
            recipe,
            features=cached,
            labels=labels,
            places=places,
            smoothing=smoothing,
            device=world.device,
        )
        return heads

    candidates, chosen, places = recipe.candidates, {}, everything
    best = candidates[0]
    if len(candidates) > 1:
        fitted, held = hold_out(labels.tolist(), recipe.holdout, recipe.seed)
        own = candidates[world.rank :: world.size]  # a head each is trained whole on one rank
        found = {
            candidate: accuracy(probabilities(head, cached, held, device=world.device), labels[held])
            for candidate, head in zip(own, fit(own, fitted) if own else (), strict=True)
        }
        merged = {candidate: score for share in gather_objects(found) for candidate, score in share.items()}
        scores = [merged[candidate] for candidate in candidates]
        best, chosen = candidates[best_of(scores)], describe_choice(candidates, scores)
        places = everything if recipe.refit else fitted
    (head,) = fit([best], places)  # on every rank, with the same result
    test = features(job, "test")
    return Outcome({"": probabilities(head, test, np.arange(len(test)), device=world.device)}, chosen)


def probe_attentive(job: Job) -> Outcome:
    """Attentive heads on tokens, which the encoder gives anew for each augmented clip: too many to be kept."""
    recipe, labels = job.recipe, job.labels("train")
    candidates, chosen, everything = recipe.candidates, {}, np.arange(len(labels))
    if len(candidates) > 1:
        fitted, held = hold_out(labels.tolist(), recipe.holdout, recipe.seed)
        heads = fit_on_clips(job, candidates, fitted)
        correct = np.zeros(len(candidates))
        for places, found in test_on_clips(job, heads, "train", held):
            correct += [float((part.argmax(axis=1) == labels[places]).sum()) for part in found]
        scores = (100 * np.sum(gather_objects(correct), axis=0) / len(held)).tolist()
        best, chosen = best_of(scores), describe_choice(candidates, scores)
        head = fit_on_clips(job, [candidates[best]], everything)[0] if recipe.refit else heads[best]
    else:
        (head,) = fit_on_clips(job, candidates, everything)
    every = range(len(job.data.lists["test"]))
    own = {
        p: row
        for places, (rows,) in test_on_clips(job, [head], "test", every)
        for p, row in zip(places, rows, strict=True)
    }
    merged = {place: row for share in gather_to_main(own) for place, row in share.items()}
    return Outcome({"": rows_of(merged)} if job.world.is_main else {}, chosen)


def encode_tokens(job: Job, clips: torch.Tensor) -> torch.Tensor:
    """(B, N, D), without a graph."""
    with torch.no_grad(), job.autocast():
        return job.loaded.tokens(clips, final_norm=bool(job.config.encoder.final_norm))


def fit_on_clips(job: Job, candidates: Sequence[Candidate], places: np.ndarray) -> list[nn.Module]:
    """Heads, trained on augmented clips of some training samples by all ranks together."""
    recipe, world, sight = job.recipe, job.world, job.sight
    assert recipe.batch_size
    if recipe.batch_size % world.size or recipe.batch_size > len(places):
        raise ConfigError(
            f"--batch_size {recipe.batch_size} is that of all ranks: it has to be a multiple of their number "
            f"{world.size}, and at most the {len(places)} samples that are trained on"
        )
    loader = build_train_loader(
        Chosen(sight.train(job.data.lists["train"]), places.tolist()),
        batch_size=recipe.batch_size // world.size,
        seed=recipe.seed,
        **job.loader_kwargs(alone=False),
    )
    heads = job.build_heads(len(candidates))
    trainer = HeadTrainer(
        heads,
        candidates,
        recipe,
        steps_per_epoch=len(loader),
        smoothing=job.config.mixing.smoothing or 0.0,
        autocast=job.autocast(),
    )
    seed_everything(recipe.seed, world.rank)  # dropout and mixing
    mix = build_mixup(job.config.mixing, num_classes=job.data.num_classes)

    def parts(batch: Batch) -> Step:
        for path, reason, *_ in batch.failures:
            logger.warning("%s: %s; another sample took its place", path, reason)
        batch = batch.to(world.device)
        clips, targets = batch.clip, batch.label
        assert targets is not None
        if clips.shape[2] == 1:
            clips = clips.expand(-1, -1, job.loaded.clip.num_frames, -1, -1)
        if mix is not None:
            clips, targets = mix(clips.clone(), targets)
        for some, their in zip(*(x.split(job.config.output.forward_batch) for x in (clips, targets)), strict=True):
            yield encode_tokens(job, some), their

    def steps(epoch: int) -> Iterator[Step]:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return (parts(batch) for batch in loader)

    train_on_clips(
        trainer,
        steps,
        total=recipe.batch_size * sight.clip.num_sample,
        reduce=all_reduce_sum if world.size > 1 else None,
        log=lambda epoch, loss: logger.info("epoch %d of %d: loss %.4f", epoch + 1, recipe.epochs, loss * world.size),
    )
    return heads


def test_on_clips(
    job: Job, heads: Sequence[nn.Module], part: str, places: Sequence[int] | np.ndarray
) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Of this rank's batches the places and, by head, probabilities; training samples are seen in one view."""
    videos = job.data.lists[part]
    dataset = job.sight.test(videos) if part == "test" else job.sight.test(videos, clips=1, crops=1)
    number = job.sight.views.num_views if part == "test" else 1
    size = max(job.config.output.forward_batch // number, 1)
    own = [int(place) for place in places[job.world.rank :: job.world.size]]

    def tokens() -> Iterable[tuple[torch.Tensor, Any]]:
        for batch in batches_of(dataset, batch_size=size, **job.loader_kwargs(alone=True))(own) if own else ():
            found = encode_tokens(job, batch.to(job.world.device).clip)
            yield found.unflatten(0, (-1, batch.views)), batch.index.tolist()

    yield from clip_probabilities(heads, tokens(), job.autocast())


PROBE_FUNCTIONS = {
    "linear": probe_linear,
    "pooler1": probe_attentive,
    "attentive4": probe_attentive,
    "knn": probe_nearest,
}


# ------------------------------------------------------------------------------------------------- results


def make_records(job: Job, outcome: Outcome) -> list[Record]:
    """A record of the data set's own metric for each set of scores; the others are in its options."""
    config, test, views = job.config, job.data.lists["test"], job.sight.views
    weights, labels, metric = config.start.finetune, job.labels("test"), job.sight.spec.metric
    seen = recorded(job.sight.clip) | recorded(views)  # with what data set and encoder say
    options = {**recorded(config), **seen, "amp": job.amp, "train_samples": len(job.data.lists["train"])}
    names = ("torch", "torchvision", "numpy", "av")
    common: dict[str, Any] = {
        "task": f"probe-{config.probe}-{config.lists.data_set}",
        "probe": config.probe,
        "views": f"{views.test_num_segment}x{views.test_num_crop}",
        "clips": len(test),
        "per_clip": {},
        "data_set": config.lists.data_set,
        "model": str(job.loaded.args.get("model") or "") if weights else config.encoder.model,
        "checkpoint": weights,
        "checkpoint_sha256": hash_of_weights(weights) if is_address(weights) or Path(weights).exists() else "",
        "list_file": str(test.file),
        "list_sha256": test.fingerprint,
        "seeds": (config.recipe.seed,),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "commit": code_commit(),
    }
    records = []
    for ending, scores in outcome.scores.items():
        if not np.isfinite(scores).all():
            raise NonFiniteError("the predictions are NaN or Inf: choose smaller --lrs, or --amp none")
        values = {"top1": top_k(scores, labels, 1), "top5": top_k(scores, labels, 5)}
        values["mean_per_class"] = mean_per_class(scores, labels)
        own: Any = {"value": values[metric], "per_seed": (values[metric],)}
        all_options = options | outcome.chosen | {"all_metrics": values}
        records.append(Record(metric=metric + ending, options=all_options, **own, **common))
    return records


def write_predictions(job: Job, outcome: Outcome, folder: Path) -> None:
    """`predictions.npz` for the probe: the class of every test sample, and its label."""
    found = {f"predicted{ending}": scores.argmax(axis=1) for ending, scores in outcome.scores.items()}
    stem = f"probe-{job.config.probe}-{job.config.lists.data_set}"
    np.savez_compressed(folder / f"{stem}-predictions.npz", labels=job.labels("test"), **found)


def main(config: ProbingConfig, world: World) -> None:
    """From options to records."""
    for folder in filter(None, (config.output.output_dir, config.output.cache_dir)):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another") from error
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
    with user_errors(*errors):
        parsed = parse(ProbingConfig)
        with distributed(parsed.output.device) as world, user_errors(*errors), loader_errors():
            main(parsed, world)
