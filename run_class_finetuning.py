"""Fine-tune, probe or test: `python run_class_finetuning.py --data_set custom --data_path lists --finetune FILE`."""

import argparse
import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.catalogue import DatasetSpec, get_dataset_spec
from datasets.classification import TrainDataset, ValDataset, ViewDataset
from datasets.decoding.open import describe_decoder
from datasets.errors import AnnotationError, DecodeError, LoaderError, ShardError
from datasets.lists.checks import check_labels
from datasets.lists.splits import choose_num_classes, describe_overlap, describe_part, read_parts
from datasets.lists.video_list import VideoList
from datasets.loading.loaders import DevicePrefetcher, build_eval_loader, build_train_loader
from datasets.loading.workers import loader_errors
from datasets.transforms.mixup import build_mixup
from datasets.transforms.presets import TrainTransform, ValTransform, ViewTransform
from engine import config
from engine.checkpointing.checkpoint import Ema
from engine.checkpointing.files import newest_valid
from engine.checkpointing.read_weights import read_weights
from engine.checkpointing.resume import is_finished
from engine.checks import check_options
from engine.compilation import compile_blocks
from engine.distributed.ddp import autocast, set_matmul_precision
from engine.distributed.world import World, distributed, on_main_process, use_deterministic_algorithms
from engine.dry_run import Passes, rehearse, rehearse_test, scratch_output
from engine.errors import ConfigError, bad_options, user_errors
from engine.evaluation import VideoPredictions, predict, predict_batches
from engine.finetuning import ClassificationForward
from engine.monitoring.metrics import log_table, replace_text, setup_logging
from engine.resilience.preemption import until_asked
from engine.resilience.watchdog import watchdog
from engine.setup import build_trainer, making_model, place_model
from engine.training import fit
from models import ModelError, create_model
from models.analysis.figures import clip_pictures
from models.analysis.flops import classifier_flops
from models.classifier import Classifier
from models.weights.load import LoadReport, load_encoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The lists of a run (None where the run does not need one), and what they mean."""

    row: DatasetSpec
    num_classes: int
    lists: dict[str, VideoList]
    class_names: list[str]


def read_lists(args: argparse.Namespace, world: World) -> Data:
    """Read and check the lists that this run needs; fills in the flags that the data set decides."""
    row = get_dataset_spec(args.data_set)
    args.sampling = args.sampling or row.sampler
    args.flip = row.flip if args.flip is None else args.flip
    args.sampling_rate = args.sampling_rate or row.sampling_rate
    args.test_num_segment = args.test_num_segment or row.test_num_segment
    args.test_num_crop = args.test_num_crop or row.test_num_crop
    names = (
        ["test"]
        if args.eval
        else ["train", "test"]
        if args.disable_eval_during_finetuning
        else ["train", "val", "test"]
    )
    folders = {
        name: Path(args.data_path if name == "train" else args.eval_data_path or args.data_path) for name in names
    }
    once = partial(on_main_process, world)
    options = {"root": args.data_root, "list_format": args.list_format, "once": once}
    if args.eval:
        options["names_of_weights"] = partial(names_of_weights, args)
    lists, missing = read_parts(folders, class_folder=Path(args.data_path), **options)
    counts = choose_num_classes(row, args.nb_classes, lists)
    for videos in lists.values():
        check_labels(videos, counts)
    named = next((videos.class_names for videos in lists.values() if videos.class_names), ())
    class_names = list(named) or [str(label) for label in range(counts)]
    facts = {name: describe_part(videos, row, part=name, num_missing=missing[name]) for name, videos in lists.items()}
    if overlap := once(lambda: describe_overlap(lists)):
        facts["overlap"] = overlap
    means = f"{args.sampling} sampling, stride {args.sampling_rate}, flip {'on' if args.flip else 'off'}, "
    views = f"{args.test_num_segment} clips x {args.test_num_crop} crops at test"
    with bad_options("--decoder"):
        args.decoder_used = describe_decoder(args.decoder)  # also for the run's record
    log_table("data", {"data set": f"{row.name}: {means}{views}", **facts, "decoder": args.decoder_used})
    return Data(row, counts, lists, class_names)


def weights_to_test(args: argparse.Namespace) -> tuple[str | Path, str]:
    """The file that `--eval` tests, and where in it the weights are.

    It is --resume, else the newest checkpoint in --output_dir, else --finetune: a training command tests its result.
    """
    newest = newest_valid(args.output_dir) if args.auto_resume and args.output_dir else None
    path = args.resume or newest or args.finetune
    if not path:
        raise ConfigError(
            "--eval: no weights; give --resume FILE, --finetune FILE or an --output_dir with a checkpoint"
        )
    # With --finetune beside it, --model_key tells of that file.
    return path, f"{args.model_key}|model" if args.finetune and path != args.finetune else args.model_key


def names_of_weights(args: argparse.Namespace) -> tuple[Sequence[str], Path]:
    """The names of the classes of the weights that `--eval` tests, and their file."""
    path, key = weights_to_test(args)
    return read_weights(path, model_key=key, trust=args.trust_checkpoint).class_names, Path(path)


def build_model(args: argparse.Namespace, world: World, data: Data) -> Classifier:
    """The classifier, with the weights it starts from, or is tested with; frozen for probing."""
    if args.model.lower().startswith("pretrain_"):
        raise ConfigError(f"--model {args.model} is for pre-training: classifiers are called vit_...")
    torch.manual_seed(args.seed)
    with making_model(args, world):
        model = create_model(
            args.model,
            num_classes=data.num_classes,
            img_size=args.input_size,
            num_frames=args.num_frames,
            tubelet_size=args.tubelet_size,
            fc_drop_rate=args.fc_drop_rate,
            drop_rate=args.drop,
            attn_drop_rate=args.attn_drop_rate,
            drop_path_rate=args.drop_path,
            init_values=args.init_values,
            init_scale=args.init_scale,
            use_mean_pooling=args.use_mean_pooling,
            use_checkpoint=args.use_checkpoint,
        )
    assert isinstance(model, Classifier)
    if not args.eval and args.finetune:
        load_weights(args, model, args.finetune, key=args.model_key)
    args.position_grid = list(model.position_grid)  # whoever loads the result has to know
    if args.linear_probing:
        model.freeze_backbone()
    if args.compile:
        compile_blocks(world.device, model.blocks)
    place_model(args, world, model)
    return model


def load_weights(
    args: argparse.Namespace, model: Classifier, path: str | Path, *, key: str, class_names: Sequence[str] = ()
) -> LoadReport:
    """What fits of a file's weights under `key`, in place; one whose classes are not `class_names` is refused."""
    weights = read_weights(path, model_key=key, trust=args.trust_checkpoint)
    pairs = zip(class_names, weights.class_names, strict=False)
    wrong = next((label for label, (here, there) in enumerate(pairs) if here != there), None)
    if wrong is not None and len(class_names) == len(weights.class_names):
        raise ConfigError(
            f"{path}: its class {wrong} is '{weights.class_names[wrong]}', that of the lists '{class_names[wrong]}'. "
            "Put the class names of the training into labels.txt in --data_path, in their order"
        )
    try:
        report = load_encoder(model, weights.tensors, trained_with=config.trained_with(args, weights.args))
    except ModelError as error:
        raise ConfigError(f"{path}: {error}") from error
    args.licence = weights.licence  # goes on with what is made of them
    logger.info("weights of %s (%s): %s", path, weights.kind, report.describe())
    if report.untrained:
        logger.warning("%d tensors of the encoder are not in %s: %s", len(report.untrained), path, report.untrained)
    return report


def load_for_test(args: argparse.Namespace, world: World, data: Data, model: Classifier) -> dict[str, nn.Module]:
    """The models that `--eval` tests, by the suffix of their results.

    With --model_ema the average in the file of the weights is tested as well, under '_ema'.
    """
    path, key = weights_to_test(args)
    models = {"": (model, key)}
    if args.model_ema:
        models["_ema"] = copy.deepcopy(model), "model_ema"
    named = any(videos.class_names for videos in data.lists.values())
    for tested, its_key in models.values():
        report = load_weights(args, tested, path, key=its_key, class_names=data.class_names if named else ())
        if report.missing or report.mismatched:
            raise ConfigError(
                f"--eval: {path} is not a checkpoint of this classifier with {model.head.out_features} classes (check "
                f"--nb_classes, or fine-tune it first): {report.describe()}"
            )
    args.tested = {suffix: [str(path), key] for suffix, (_, key) in models.items()}
    return {suffix: tested.to(world.device) for suffix, (tested, _) in models.items()}


def build_loaders(args: argparse.Namespace, world: World, data: Data) -> dict[str, Any]:
    """A loader for each list."""
    sampling = {
        "sampler": args.sampling,
        "num_frames": args.num_frames,
        "sampling_rate": args.sampling_rate,
        "decoder": args.decoder,
    }
    placing = {
        "rank": world.rank,
        "world_size": world.size,
        "num_workers": args.num_workers,
        "pin_memory": args.pin_mem and world.device.type == "cuda",
        "decode_timeout": args.decode_timeout,
    }
    loaders: dict[str, Any] = {}
    if "train" in data.lists:
        with bad_options():  # --aa
            transform = TrainTransform(
                args.input_size,
                aa=args.aa,
                flip=args.flip,
                erase_prob=args.reprob,
                erase_mode=args.remode,
                erase_count=args.recount,
                min_area=(0.25 if args.finetuning_crops else 0.08)
                if args.min_crop_area is None
                else args.min_crop_area,
                interpolation=args.train_interpolation,
            )
        train = TrainDataset(
            data.lists["train"], transform=transform, num_repeats=args.num_sample, seed=args.seed, **sampling
        )
        loaders["train"] = build_train_loader(train, batch_size=args.batch_size, seed=args.seed, **placing)
    if "val" in data.lists:
        val = ValDataset(data.lists["val"], transform=ValTransform(args.input_size, args.short_side_size), **sampling)
        loaders["val"] = build_eval_loader(val, batch_size=args.batch_size, **placing)
    view = ViewTransform(args.input_size, args.short_side_size, args.test_num_crop)
    test = ViewDataset(data.lists["test"], transform=view, num_clips=args.test_num_segment, **sampling)
    num_views = args.test_num_segment * args.test_num_crop
    loaders["test"] = build_eval_loader(test, batch_size=max(args.batch_size // num_views, 1), **placing)
    return loaders


def train(
    args: argparse.Namespace, world: World, data: Data, model: Classifier, loaders: Mapping[str, Any]
) -> dict[str, nn.Module]:
    """All epochs, from where a checkpoint in `--output_dir` left off if there is one.

    Returns:
        The trained model under '' and, with `--model_ema`, the average of its weights under '_ema'.
    """
    with bad_options():  # --cutmix_minmax
        mixup = build_mixup(
            mixup=args.mixup,
            cutmix=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
            smoothing=args.smoothing,
            num_classes=data.num_classes,
        )
    ema = build_ema(args, model)
    trainer = build_trainer(
        args,
        world,
        model,
        ClassificationForward(mixup, args.smoothing),
        num_batches=len(loaders["train"]),
        videos=data.lists["train"].paths,
        repeats=args.num_sample,
        layer_decay=1.0 if args.linear_probing else args.layer_decay,
        draw=lambda batch, out: (clip_pictures(batch.clip, frame_step=args.tubelet_size), {}),
        flops_per_clip=classifier_flops(model),
        ema=ema,
        record={"class_names": data.class_names, **{name: lst.describe() for name, lst in data.lists.items()}},
        in_checkpoint={"class_names": data.class_names, "fingerprint": data.lists["train"].fingerprint},
    )
    models: dict[str, nn.Module] = {"": model} | ({"_ema": ema.module} if ema else {})
    validate = (lambda: evaluate(args, world, data, models, loaders, "val")[0]) if "val" in loaders else None
    batches = DevicePrefetcher(loaders["train"], world.device) if args.gpu_prefetch else loaders["train"]
    if args.dry_run:
        rehearse(trainer, batches, world=world, evaluations=passes(args, world, models, loaders))
    else:
        fit(trainer, batches, validate=validate)
    return models


def build_ema(args: argparse.Namespace, model: Classifier) -> Ema | None:
    """The average of the weights that `--model_ema` asks for."""
    if not args.model_ema:
        return None
    from timm.utils import ModelEmaV3  # among the imports above it would come before sigma_video.compat

    device = torch.device("cpu") if args.model_ema_force_cpu else None
    return ModelEmaV3(model, decay=args.model_ema_decay, device=device)


def evaluate(
    args: argparse.Namespace,
    world: World,
    data: Data,
    models: Mapping[str, nn.Module],
    loaders: Mapping[str, Any],
    name: str,
) -> tuple[dict[str, float], dict[str, VideoPredictions]]:
    """Metrics, with names that begin with `name` and the model's suffix, and every video's predictions by suffix."""
    metrics: dict[str, float] = {}
    predictions = {}
    for suffix, model in models.items():
        found = predict(
            model.to(world.device),  # an average that is kept in host memory comes along
            loaders[name],
            world=world,
            num_videos=len(data.lists[name]),
            **evaluation_options(args, world),
        )
        if suffix and args.model_ema_force_cpu:
            model.to("cpu")
        metrics |= found.metrics(name + suffix)
        predictions[suffix] = found
    return metrics, predictions


def evaluation_options(args: argparse.Namespace, world: World) -> dict[str, Any]:
    """How the forward passes of every evaluation are made."""
    return {
        "autocast": autocast(world.device, config.default_amp(args, world)),
        "clips_at_once": args.batch_size,
        "in_step": config.zero_stage(args) == 3,
    }


def passes(
    args: argparse.Namespace, world: World, models: Mapping[str, nn.Module], loaders: Mapping[str, Any]
) -> list[Passes]:
    """What a run evaluates besides its training, for the dry run."""

    def evaluate_batches(batches: Sequence[Any]) -> None:
        for model in models.values():
            model.to(world.device).eval()
            for _ in predict_batches(model, batches, device=world.device, **evaluation_options(args, world)):
                continue

    times = {"val": args.epochs, "test": 1}
    return [Passes(name, loaders[name], times[name], evaluate_batches) for name in times if name in loaders]


def test(
    args: argparse.Namespace, world: World, data: Data, models: Mapping[str, nn.Module], loaders: Mapping[str, Any]
) -> None:
    """Test the models as they are; print the results and write them with every video's probabilities."""
    metrics, by_model = evaluate(args, world, data, models, loaders, "test")
    views_are = f"{args.test_num_segment} clips x {args.test_num_crop} crops"
    result: dict[str, Any] = {**metrics, "views_are": views_are}
    if args.eval:
        result["weights"] = args.tested
    for suffix, predictions in by_model.items():
        result |= {"videos": len(predictions.labels), "views": predictions.num_views}
        logger.info(
            "test%s: top-1 %.2f  top-5 %.2f  mean per class %.2f  (%d videos, %d views each: %s)",
            suffix,
            *(metrics[f"test{suffix}/{what}"] for what in ("top1", "top5", "mean_per_class")),
            result["videos"],
            result["views"],
            views_are,
        )
        if args.output_dir and world.is_main:
            predictions.save(Path(args.output_dir) / f"test{suffix}_predictions.npz")
    if args.output_dir and world.is_main:
        replace_text(Path(args.output_dir) / "test.json", json.dumps(result, indent=1) + "\n")


def is_tested(args: argparse.Namespace, world: World) -> bool:
    """Whether this very command has nothing left to do."""
    fresh = args.eval or args.resume or not args.auto_resume
    return not fresh and is_finished(args.output_dir, args.epochs, world, results="test.json")


def main(args: argparse.Namespace, world: World) -> None:
    check_options(args)
    config.prepare_output(args, world)
    setup_logging(world, args.output_dir)
    set_matmul_precision(world.device, config.default_amp(args, world))
    if args.deterministic:
        use_deterministic_algorithms()
    if is_tested(args, world):
        logger.info("finished already: all %d epochs are done, and %s/test.json is there", args.epochs, args.output_dir)
        return
    data = read_lists(args, world)
    model = build_model(args, world, data)
    loaders = build_loaders(args, world, data)
    models = load_for_test(args, world, data, model) if args.eval else train(args, world, data, model, loaders)
    if not args.dry_run:
        with until_asked(world), watchdog(args.stall_timeout):
            test(args, world, data, models, loaders)
    elif args.eval:
        rehearse_test(passes(args, world, models, loaders), world=world)


if __name__ == "__main__":
    user_mistakes = (AnnotationError, DecodeError, LoaderError, ModelError, ShardError)
    with user_errors(*user_mistakes):
        arguments = config.finetuning_parser().parse_args()
        with (
            distributed(arguments.device) as this_world,
            user_errors(*user_mistakes),
            loader_errors(),
            scratch_output(arguments, this_world),
        ):
            main(arguments, this_world)
