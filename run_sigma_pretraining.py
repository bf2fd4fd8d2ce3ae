"""Pre-train SIGMA or VideoMAE: `python run_sigma_pretraining.py --data_path train.csv --output_dir output/run`."""

import argparse

import numpy as np
import torch

from datasets.annotations import AnnotationError, VideoList, check_files, read_list
from datasets.decoding import DecodeError, resolve_decoder
from datasets.loaders import build_train_loader
from datasets.masking import MASKS
from datasets.pretraining import PretrainDataset
from datasets.transforms import PretrainTransform
from engine import config
from engine.checks import check_options
from engine.distributed import World, all_reduce_sum, distributed
from engine.errors import ConfigError, bad_options, user_errors
from engine.metrics import log_table, setup_logging
from engine.pretraining import pretraining_forward
from engine.setup import build_trainer
from engine.training import fit
from models import ModelError, create_model
from models.sigma import Sigma


def build_model(args: argparse.Namespace, world: World) -> Sigma:
    """The model of `--model` and its options, the same on every rank."""
    if args.model.lower().startswith("vit_"):
        raise ConfigError(f"--model {args.model} is a classifier: pre-training models are called pretrain_videomae_...")
    torch.manual_seed(args.seed)
    loss_func = args.loss_func or ("L2" if args.target_type == "pixel" else "SWAV")
    model = create_model(
        args.model,
        target_type=args.target_type,
        loss_func=loss_func,
        img_size=args.input_size,
        num_frames=args.num_frames,
        tubelet_size=args.tubelet_size,
        decoder_depth=args.decoder_depth,
        decoder_num_classes=args.decoder_num_classes,
        projection_dims=args.projection_dims,
        normalize_target=args.normalize_target,
        num_prototypes=args.num_prototypes,
        sinkhorn_eps=args.sinkhorn_eps,
        sinkhorn_iterations=args.sinkhorn_iterations,
        all_reduce=all_reduce_sum,
        drop_path_rate=args.drop_path,
        use_checkpoint=args.use_checkpoint,
    )
    assert isinstance(model, Sigma)
    return model.to(world.device)


def build_data(args: argparse.Namespace, model: Sigma) -> tuple[VideoList, PretrainDataset]:
    """The list, checked, and the data set over it."""
    mask_fn = MASKS[args.mask_type]
    with bad_options("--mask_ratio"):
        mask = mask_fn(model.encoder.grid, args.mask_ratio, np.random.default_rng(0))
    with bad_options("--decoder"):
        resolve_decoder(args.decoder)
    root = args.data_root or (args.data_path if args.data_path_csv else "")
    videos = read_list(args.data_path_csv or args.data_path, root=root)
    missing = check_files(videos)
    dataset = PretrainDataset(
        videos,
        transform=PretrainTransform(args.input_size, args.augmentation),
        mask_fn=mask_fn,
        grid=model.encoder.grid,
        mask_ratio=args.mask_ratio,
        num_frames=args.num_frames,
        sampling_rate=args.sampling_rate,
        seed=args.seed,
        decoder=args.decoder,
    )
    log_table(
        "data",
        {
            "list": videos.describe(),
            "missing files": len(missing),
            "clip": f"{args.num_frames} frames at stride {args.sampling_rate}, {args.input_size}x{args.input_size}",
            "mask": f"{args.mask_type}, {mask.sum()} of {mask.size} tokens masked",
        },
    )
    return videos, dataset


def main(args: argparse.Namespace, world: World) -> None:
    check_options(args)
    config.prepare_output(args, world)
    setup_logging(world, args.output_dir)
    model = build_model(args, world)
    videos, dataset = build_data(args, model)
    loader = build_train_loader(
        dataset,
        batch_size=args.batch_size,
        rank=world.rank,
        world_size=world.size,
        seed=args.seed,
        num_workers=args.num_workers,
        pin_memory=args.pin_mem and world.device.type == "cuda",
    )
    trainer = build_trainer(
        args,
        world,
        model,
        pretraining_forward,
        num_batches=len(loader),
        num_videos=len(videos),
        record={"data": videos.describe(), "fingerprint": videos.fingerprint},
        in_checkpoint={"fingerprint": videos.fingerprint},
    )
    fit(trainer, loader)


if __name__ == "__main__":
    user_mistakes = (AnnotationError, DecodeError, ModelError)
    with user_errors(*user_mistakes):
        arguments = config.pretraining_parser().parse_args()
        with distributed(arguments.device) as this_world, user_errors(*user_mistakes):
            main(arguments, this_world)
