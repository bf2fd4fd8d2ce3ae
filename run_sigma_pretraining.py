"""Pre-train SIGMA or VideoMAE: `python run_sigma_pretraining.py --data_path train.csv --output_dir output/run`."""

import argparse
import logging
from contextlib import nullcontext

import numpy as np
import torch

from datasets.decoding.open import describe_decoder
from datasets.errors import AnnotationError, DecodeError, FlowError, LoaderError, ShardError
from datasets.lists.checks import check_files
from datasets.lists.read import read_list
from datasets.lists.video_list import VideoList
from datasets.loading.loaders import DevicePrefetcher, build_train_loader
from datasets.loading.workers import loader_errors
from datasets.masks.flow_guided import MotionGuide, flow_model
from datasets.masks.masks import MASKS
from datasets.masks.motion_vectors import has_motion_vectors
from datasets.pretraining import PretrainDataset
from datasets.transforms.presets import PretrainTransform
from engine import config
from engine.checkpointing.read_weights import read_weights
from engine.checkpointing.resume import is_finished
from engine.checks import check_options
from engine.compilation import compile_blocks
from engine.distributed.ddp import AMP_DTYPES, set_matmul_precision
from engine.distributed.world import (
    World,
    all_reduce_sum,
    distributed,
    main_process_first,
    on_main_process,
    use_deterministic_algorithms,
)
from engine.dry_run import rehearse, scratch_output
from engine.errors import ConfigError, bad_options, user_errors
from engine.monitoring.collapse import CollapseWatch
from engine.monitoring.metrics import log_table, setup_logging
from engine.pretraining import PretrainingForward
from engine.setup import build_trainer, making_model, place_model
from engine.training import fit
from models import ModelError, create_model
from models.analysis.figures import pretraining_pictures
from models.analysis.flops import pretraining_flops
from models.sigma import Sigma
from models.teachers import ImageTeacher, build_teacher, teacher_dim
from models.weights.load import load_pretraining, load_projection, native_state

logger = logging.getLogger(__name__)


def build_model(args: argparse.Namespace, world: World) -> Sigma:
    """The model of `--model` and its options, the same on every rank."""
    if args.model.lower().startswith("vit_"):
        raise ConfigError(f"--model {args.model} is a classifier: pre-training models are called pretrain_videomae_...")
    torch.manual_seed(args.seed)
    embedding_dim = args.decoder_num_classes
    if args.target_type.startswith("dino"):  # its features are compared as they are
        embedding_dim = teacher_dim(args.target_type, args.distillation_teacher or "dino_b")
        if args.decoder_num_classes not in (None, embedding_dim):
            raise ConfigError(f"--decoder_num_classes {args.decoder_num_classes}: the teacher gives {embedding_dim}")
    with making_model(args, world):
        model = create_model(
            args.model,
            target_type=args.target_type,
            loss_func=args.loss_func or ("L2" if args.target_type == "pixel" else "SWAV"),
            img_size=args.input_size,
            num_frames=args.num_frames,
            tubelet_size=args.tubelet_size,
            decoder_depth=args.decoder_depth,
            decoder_num_classes=embedding_dim,
            projection_dims=args.projection_dims,
            normalize_target=args.normalize_target,
            num_prototypes=args.num_prototypes,
            sinkhorn_eps=args.sinkhorn_eps,
            sinkhorn_iterations=args.sinkhorn_iterations,
            all_reduce=all_reduce_sum,
            drop_path_rate=args.drop_path,
            init_values=args.init_values,
            use_checkpoint=args.use_checkpoint,
            decoder_mask_ratio=args.decoder_mask_ratio,
        )
    assert isinstance(model, Sigma)
    load_start(args, model)
    place_model(args, world, model)
    return model


def load_start(args: argparse.Namespace, model: Sigma) -> None:
    """The weights that training starts from, in place: `--finetune`'s, and `--mlp_preloading`'s projection, frozen."""
    for path, part in ((args.finetune, "model"), (args.mlp_preloading, "projection")):
        if not path:
            continue
        weights = read_weights(path, model_key=args.model_key, trust=args.trust_checkpoint)
        try:
            if part == "model":
                said = config.trained_with(args, weights.args)
                report = load_pretraining(model, weights.tensors, trained_with=said)
                args.licence = weights.licence  # goes on with what is made of them
            else:
                report = load_projection(model, weights.tensors)
                model.freeze_projection()
        except ModelError as error:
            raise ConfigError(f"{path}: {error}") from error
        logger.info("%s from %s (%s): %s", part, path, weights.kind, report.describe())
        if report.untrained:
            logger.warning("%d tensors of the encoder are not in %s: %s", len(report.untrained), path, report.untrained)
    args.position_grid = list(model.encoder.position_grid)
    if args.target_type == "mlp" and args.loss_func == "L2" and not args.mlp_preloading:
        logger.warning(
            "--target_type mlp --loss_func L2: prediction and projection can agree on a constant, and will: this is "
            "the paper's collapsing baseline. Use --loss_func SWAV to train SIGMA"
        )


def build_target_network(args: argparse.Namespace, world: World, model: Sigma) -> ImageTeacher | None:
    """The frozen image teacher of `--target_type dino_...`."""
    if not args.target_type.startswith("dino"):
        return None
    state = read_network(args, args.teacher_weights) if args.teacher_weights else None
    try:
        teacher = build_teacher(
            args.target_type,
            args.distillation_teacher or "dino_b",
            img_size=args.input_size,
            tubelet=model.encoder.tubelet,
            grid=model.encoder.grid,
            dtype=torch.float32 if config.default_amp(args, world) == "none" else AMP_DTYPES["bf16"],
            weights=state,
        )
    except ModelError as error:
        raise ConfigError(f"{args.teacher_weights}: {error}" if args.teacher_weights else str(error)) from error
    return teacher.to(world.device)


def build_guide(args: argparse.Namespace, world: World, model: Sigma) -> MotionGuide | None:
    """What `--mask_type motion` follows: optical flow."""
    if args.mask_type != "motion":
        return None
    state = None
    if args.flow_weights:
        state = native_state(read_network(args, args.flow_weights))
    return MotionGuide(flow_model(state), model.encoder.grid).to(world.device)


def read_network(args: argparse.Namespace, path: str) -> dict[str, torch.Tensor]:
    """Tensors of a frozen network's file; its makers keep them under one of these keys, or under none."""
    return read_weights(path, model_key="teacher|model|module|state_dict", trust=args.trust_checkpoint).tensors


def check_motion_vectors(videos: VideoList) -> None:
    """Raise ConfigError if none of 32 videos, from all over the list, holds motion vectors; warn if some do not."""
    step = max(len(videos) // 32, 1)
    probed, without = 0, []
    for path in videos.paths[::step][:32]:
        try:
            without += [] if has_motion_vectors(path) else [path]
            probed += 1
        except DecodeError as error:
            logger.warning("%s", error)  # training leaves it out, and counts it
    if len(without) == probed:
        raise ConfigError(
            f"--mask_type motion_vectors: the videos of the list hold none, for example {videos.paths[0]}. H.264, "
            "MPEG-4 and MPEG-2 files do: re-encode them, or use --mask_type motion"
        )
    if without:
        logger.warning(
            "%d of %d videos probed hold no motion vectors and get tube masks, for example %s",
            len(without), probed, without[0],
        )  # fmt: skip


def build_data(args: argparse.Namespace, world: World, model: Sigma) -> tuple[VideoList, PretrainDataset]:
    """The list, checked, and the data set over it."""
    mask_fn = MASKS[args.mask_type]
    with bad_options("--mask_ratio"):
        mask = mask_fn(model.encoder.grid, args.mask_ratio, np.random.default_rng(0))
    with bad_options("--decoder"):
        args.decoder_used = describe_decoder(args.decoder)  # also for the run's record
    root = args.data_root or (args.data_path if args.data_path_csv else "")
    videos = read_list(args.data_path_csv or args.data_path, root=root, list_format=args.list_format)
    missing = on_main_process(world, lambda: check_files(videos, at_most=50_000))
    if args.mask_type == "motion_vectors":
        check_motion_vectors(videos)
    dataset = PretrainDataset(
        videos,
        transform=PretrainTransform(args.input_size, args.augmentation),
        mask_fn=mask_fn,
        grid=model.encoder.grid,
        mask_ratio=args.mask_ratio,
        num_repeats=args.num_sample,
        num_masks=args.num_masks,
        motion=args.mask_type == "motion_vectors",
        num_frames=args.num_frames,
        sampling_rate=args.sampling_rate,
        seed=args.seed,
        decoder=args.decoder,
    )
    log_table(
        "data",
        {
            "list": "\n      ".join([videos.describe(), *videos.describe_lines()]),
            "missing files": len(missing),
            "decoder": args.decoder_used,
            "clip": f"{args.num_frames} frames at stride {args.sampling_rate}, {args.input_size}x{args.input_size}",
            "mask": f"{args.mask_type}, {mask.sum()} of {mask.size} tokens masked",
        },
    )
    return videos, dataset


def main(args: argparse.Namespace, world: World) -> None:
    check_options(args)
    config.prepare_output(args, world)
    setup_logging(world, args.output_dir)
    set_matmul_precision(world.device, config.default_amp(args, world))
    if args.deterministic:
        use_deterministic_algorithms()
    if args.auto_resume and not args.resume and is_finished(args.output_dir, args.epochs, world):
        logger.info("training is finished already: all %d epochs are done", args.epochs)
        return
    model = build_model(args, world)
    videos, dataset = build_data(args, world, model)
    loader = build_train_loader(
        dataset,
        batch_size=args.batch_size,
        rank=world.rank,
        world_size=world.size,
        seed=args.seed,
        num_workers=args.num_workers,
        pin_memory=args.pin_mem and world.device.type == "cuda",
        decode_timeout=args.decode_timeout,
    )
    downloads = (args.target_type.startswith("dino") and not args.teacher_weights) or (
        args.mask_type == "motion" and not args.flow_weights
    )
    with main_process_first(world) if downloads else nullcontext():
        teacher, guide = build_target_network(args, world, model), build_guide(args, world, model)
    if args.compile:
        stacks = [model.encoder.blocks, model.decoder.blocks] + ([teacher.network.blocks] if teacher else [])
        compile_blocks(world.device, *stacks)
    base_mask = dataset.mask_fn(dataset.grid, dataset.mask_ratio, np.random.default_rng(0))
    trainer = build_trainer(
        args,
        world,
        model,
        PretrainingForward(teacher=teacher, guide=guide),
        num_batches=len(loader),
        videos=videos.paths,
        repeats=args.num_sample,
        watch=CollapseWatch(
            None if model.prototypes is None else args.num_prototypes,
            speaks=world.is_main,
            watch_cosine=args.target_type != "pixel",
        ),
        draw=lambda batch, out: pretraining_pictures(model, batch.clip.repeat_interleave(args.num_masks, dim=0), out),
        flops_per_clip=pretraining_flops(
            model, num_masked=int(base_mask.sum()), num_masks=args.num_masks, teacher=teacher
        ),
        record={"data": videos.describe(), "fingerprint": videos.fingerprint},
        in_checkpoint={"fingerprint": videos.fingerprint},
    )
    batches = DevicePrefetcher(loader, world.device) if args.gpu_prefetch else loader
    if args.dry_run:
        rehearse(trainer, batches, world=world)
    else:
        fit(trainer, batches)


if __name__ == "__main__":
    user_mistakes = (AnnotationError, DecodeError, FlowError, LoaderError, ModelError, ShardError)
    with user_errors(*user_mistakes):
        arguments = config.pretraining_parser().parse_args()
        with (
            distributed(arguments.device) as this_world,
            user_errors(*user_mistakes),
            loader_errors(),
            scratch_output(arguments, this_world),
        ):
            main(arguments, this_world)
