"""Command lines with VideoMAE's and SIGMA's flags, what follows from them, and the record of a run."""

import argparse
import json
import logging
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .distributed.ddp import AMP_DTYPES, check_amp
from .distributed.deepspeed import DEFAULT_STAGE, STAGES
from .distributed.world import World
from .errors import ConfigError
from .monitoring.metrics import log_table, replace_text
from .resilience.nonfinite import POLICIES
from .schedules import Schedule

logger = logging.getLogger(__name__)

LIST_FORMATS = (  # of datasets/lists/formats.py
    [
        "auto",
        "videomae",
        "csv",
        "kinetics",
        "ssv2",
        "ucf101",
        "hmdb51",
        "gym",
        "charades",
        "folder",
        "mmaction",
        "videomaev2",
        "jsonl",
    ]
)


def on_off(text: str) -> bool:
    """Value of a flag that the released scripts spell `--flag True`."""
    values = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r}: use True or False")
    return values[text.lower()]


def _run_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--output_dir", default="", help="checkpoints, log.txt, run.json; empty: nothing is written")
    group.add_argument("--log_dir", default=None, help="TensorBoard events")
    group.add_argument("--run_name", default="", help="subfolder of --log_dir for this run's events")
    group.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    group.add_argument("--amp", default=None, choices=list(AMP_DTYPES), help="default: bf16 on a GPU, none on a CPU")
    group.add_argument("--enable_deepspeed", action="store_true", help="train with DeepSpeed in the place of DDP")
    group.add_argument(
        "--zero_stage",
        type=int,
        default=None,
        choices=STAGES,
        help="what DeepSpeed shares out over the ranks: 0 nothing, 1 the optimizer's state (default), 2 the gradients "
        "too, 3 the weights too",
    )
    group.add_argument("--seed", default=0, type=int)
    group.add_argument("--resume", default="", metavar="FILE", help="go on from this checkpoint")
    group.add_argument(
        "--auto_resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the newest valid checkpoint in --output_dir",
    )
    group.add_argument("--no_auto_resume", action="store_false", dest="auto_resume", help=argparse.SUPPRESS)
    group.add_argument("--save_ckpt_freq", type=int, metavar="EPOCHS", help="save every so many epochs, and at the end")
    group.add_argument(
        "--save_ckpt_steps", type=int, default=0, metavar="STEPS", help="also save every so many updates; 0: do not"
    )
    group.add_argument(
        "--keep_ckpts",
        type=int,
        default=2,
        metavar="N",
        help="checkpoints inside epochs that are kept, the newest",
    )
    group.add_argument(
        "--on_nonfinite",
        default="stop",
        choices=POLICIES,
        help="when a loss or gradient is not finite: end the run; go on without that update; go back to the last "
        "checkpoint and pass the update over",
    )
    group.add_argument(
        "--nonfinite_limit", type=int, default=10, metavar="N", help="end the run at more such updates than this"
    )
    group.add_argument(
        "--stall_timeout",
        type=float,
        default=1200.0,
        metavar="SECONDS",
        help="end the run, with the stacks of all threads, when it makes no progress for so long; 0: never",
    )
    group.add_argument(
        "--deterministic", action="store_true", help="only algorithms that give the same bits every time; slower"
    )
    group.add_argument("--print_freq", type=int, default=10, metavar="STEPS", help="log every so many steps")
    group.add_argument("--wandb", default="", metavar="PROJECT", help="also log to this project of Weights & Biases")
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="do everything once, say what the run will need, and leave nothing behind",
    )
    group.add_argument(
        "--profile", type=int, default=0, metavar="N", help="write a profile of N steps to --output_dir/profile"
    )
    group.add_argument(
        "--trust_checkpoint",
        action="store_true",
        help="unpickle objects of checkpoint files too: they can run any code",
    )
    # torch.distributed.launch adds this; the rank itself comes from the environment.
    group.add_argument("--local-rank", "--local_rank", type=int, default=-1, help=argparse.SUPPRESS)


def _start_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("weights to start from")
    group.add_argument(
        "--finetune",
        default="",
        metavar="PATH",
        help="checkpoint or safetensors file, Hugging Face or DeepSpeed folder",
    )
    group.add_argument("--model_key", default="model|module", help="where the weights lie in a checkpoint file")
    group.add_argument(
        "--pretrained_clip",
        type=int,
        nargs=2,
        default=None,
        metavar=("FRAMES", "SIZE"),
        help="clip that these weights were trained on, where their file does not say; default: what the file says",
    )


def _data_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("data")
    group.add_argument("--data_root", default="", help="folder that the lists' relative paths start from")
    group.add_argument(
        "--list_format",
        default="auto",
        choices=LIST_FORMATS,
        help="of the lists; only mmaction (folder frames label) and videomaev2 (path start length) have to be named",
    )
    group.add_argument("--num_frames", type=int, default=16, help="frames of a clip")
    group.add_argument("--input_size", default=224, type=int, help="height and width of a clip")
    group.add_argument("--tubelet_size", type=int, default=2, help="frames of a tubelet")
    group.add_argument(
        "--decoder", default="auto", choices=["auto", "decord", "pyav", "torchcodec"], help="video decoder"
    )
    group.add_argument("--num_workers", default=10, type=int, help="loader processes per rank")
    group.add_argument(
        "--decode_timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="end the run, naming the video, when reading a clip takes longer; 0: wait for ever",
    )
    group.add_argument(
        "--gpu_prefetch", action="store_true", help="copy the next batch to the GPU on a stream of its own"
    )
    group.add_argument("--pin_mem", action=argparse.BooleanOptionalAction, default=True)
    group.add_argument("--no_pin_mem", action="store_false", dest="pin_mem", help=argparse.SUPPRESS)
    group.add_argument(
        "--max_bad_fraction",
        type=float,
        default=0.01,
        help="stop training when more of the videos than this cannot be decoded (three are always allowed)",
    )
    return group


def _optimizer_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    group.add_argument("--batch_size", type=int, help="clips per GPU and forward pass")
    group.add_argument("--update_freq", type=int, default=1, help="batches accumulated for one update")
    group.add_argument("--epochs", type=int)
    group.add_argument("--opt", default="adamw", choices=["adamw", "sgd"])
    group.add_argument("--opt_eps", default=1e-8, type=float)
    group.add_argument("--opt_betas", type=float, nargs=2, metavar="BETA")
    group.add_argument("--momentum", type=float, default=0.9, help="of --opt sgd")
    group.add_argument("--clip_grad", type=float, default=None, metavar="NORM")
    group.add_argument("--weight_decay", type=float, default=0.05)
    group.add_argument("--weight_decay_end", type=float, default=None, help="cosine from --weight_decay to this")
    group.add_argument("--lr", type=float, help="base learning rate: times total batch / 256")
    group.add_argument("--warmup_lr", type=float, default=0.0, help="base learning rate of the first step")
    group.add_argument("--min_lr", type=float, help="base learning rate the cosine goes to")
    group.add_argument("--warmup_epochs", type=int)
    group.add_argument("--warmup_steps", type=int, default=-1, help="takes the place of --warmup_epochs if > 0")
    group.add_argument("--use_checkpoint", action="store_true", help="recompute activations to save memory")
    group.add_argument("--compile", action="store_true", help="compile the transformer blocks (needs a C++ compiler)")


def pretraining_parser() -> argparse.ArgumentParser:
    """Flags of run_sigma_pretraining.py."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Pre-train SIGMA (default) or VideoMAE (--target_type pixel)."
    )
    _run_flags(parser)
    _optimizer_flags(parser)
    data = _data_flags(parser)
    data.add_argument("--data_path", required=True, help="list file; with --data_path_csv: the videos' folder")
    data.add_argument("--data_path_csv", default="", help="list file")
    data.add_argument("--sampling_rate", type=int, default=2, help="every n-th frame")
    data.add_argument("--augmentation", default="multi_scale_crop", choices=["multi_scale_crop", "resize"])
    data.add_argument("--num_sample", type=int, default=1, help="crops and masks of each decoded clip")
    data.add_argument(
        "--mask_type",
        default="tube",
        choices=["tube", "random", "motion", "motion_vectors"],
        help="motion: guided by optical flow; motion_vectors: by the motion in H.264 files",
    )
    data.add_argument("--mask_ratio", default=0.9, type=float)
    data.add_argument(
        "--num_masks", type=int, default=1, help="masks of each crop, which share a pass of the image teacher"
    )
    data.add_argument(
        "--flow_weights", default="", metavar="FILE", help="RAFT-small's, for --mask_type motion; default: its hub's"
    )
    _start_flags(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="pretrain_videomae_base_patch16_224")
    model.add_argument("--decoder_depth", default=4, type=int)
    model.add_argument(
        "--decoder_mask_ratio", default=0.0, type=float, help="part of the masked tokens that is not decoded"
    )
    model.add_argument("--drop_path", type=float, default=0.0)
    model.add_argument("--init_values", type=float, default=0.0, help="of the blocks' layer scale; 0: none")
    model.add_argument(
        "--target_type",
        default="mlp",
        choices=["mlp", "pixel", "dino_v1", "dino_v2"],
        help="what the decoder predicts: the trained projection of pixels, pixels, features of a frozen image teacher",
    )
    model.add_argument(
        "--distillation_teacher",
        default=None,
        choices=["dino_s", "dino_b", "dino_l"],
        help="size of the teacher; default: dino_b",
    )
    model.add_argument("--teacher_weights", default="", metavar="FILE", help="the teacher's; default: from timm's hub")
    model.add_argument(
        "--mlp_preloading",
        default="",
        metavar="FILE",
        help="take the projection network from this pre-training checkpoint, and freeze it",
    )
    model.add_argument("--loss_func", default=None, choices=["SWAV", "L2"], help="default: L2 for pixel, else SWAV")
    model.add_argument("--num_prototypes", default=3000, type=int)
    model.add_argument("--sinkhorn_eps", default=0.05, type=float)
    model.add_argument("--sinkhorn_iterations", default=10, type=int)
    model.add_argument("--projection_dims", type=int, nargs="+", default=[1024, 1024, 512], help="hidden widths")
    model.add_argument(
        "--decoder_num_classes",
        type=int,
        default=None,
        help="embedding width; default 256 for mlp, the teacher's for dino",
    )
    model.add_argument(
        "--normalize_target",
        "--normlize_target",
        type=on_off,
        nargs="?",
        const=True,
        default=True,
        metavar="True|False",
        help="pixel targets standardised per tubelet",
    )
    parser.set_defaults(
        batch_size=16, epochs=800, save_ckpt_freq=50, lr=1.5e-4, min_lr=1e-5, warmup_epochs=40, opt_betas=[0.9, 0.95]
    )
    return parser


def finetuning_parser() -> argparse.ArgumentParser:
    """Flags of run_class_finetuning.py."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Fine-tune, linearly probe or test a video classifier."
    )
    _run_flags(parser)
    _optimizer_flags(parser)
    data = _data_flags(parser)
    data.add_argument("--data_path", required=True, help="folder with train.csv, val.csv and test.csv")
    data.add_argument("--eval_data_path", default=None, help="folder with val.csv and test.csv, if another")
    data.add_argument("--data_set", default="Kinetics-400", help="row of datasets/catalogue.py, or custom")
    data.add_argument("--nb_classes", default=None, type=int, help="default: what the data set or the list says")
    data.add_argument("--sampling_rate", type=int, default=None, help="every n-th frame; default: the data set's")
    data.add_argument("--sampling", default=None, choices=["dense", "uniform"], help="default: the data set's")
    data.add_argument("--flip", default=None, type=on_off, metavar="True|False", help="default: the data set's")
    data.add_argument("--num_sample", type=int, default=2, help="augmented views of each decoded training clip")
    data.add_argument("--short_side_size", type=int, default=224, help="videos are resized to this for testing")
    data.add_argument("--test_num_segment", type=int, default=None, help="clips per video; default: the data set's")
    data.add_argument("--test_num_crop", type=int, default=None, help="crops per clip; default: the data set's")
    data.add_argument("--dist_eval", action="store_true", help="implied: testing is always split over the ranks")
    _start_flags(parser)
    _classifier_flags(parser)
    _augmentation_flags(parser)
    task = parser.add_argument_group("task")
    task.add_argument("--model_ema", action="store_true", help="average the weights over the updates, test both")
    task.add_argument("--model_ema_decay", type=float, default=0.9999, help="part of the average kept in an update")
    task.add_argument("--model_ema_force_cpu", action="store_true", help="keep the average in host memory")
    task.add_argument("--linear_probing", action="store_true", help="train only fc_norm and head")
    task.add_argument("--eval", action="store_true", help="test only")
    task.add_argument("--disable_eval_during_finetuning", action="store_true", help="no validation after each epoch")
    parser.set_defaults(
        batch_size=64, epochs=30, save_ckpt_freq=100, lr=1e-3, min_lr=1e-6, warmup_epochs=5, opt_betas=[0.9, 0.999]
    )
    return parser


def _classifier_flags(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="vit_base_patch16_224")
    model.add_argument("--fc_drop_rate", type=float, default=0.0, help="dropout before the head")
    model.add_argument("--drop", type=float, default=0.0, help="dropout in the blocks")
    model.add_argument("--attn_drop_rate", type=float, default=0.0)
    model.add_argument("--drop_path", type=float, default=0.1, help="stochastic depth of the last block")
    model.add_argument("--layer_decay", type=float, default=0.75, help="learning-rate factor from block to block")
    model.add_argument("--init_values", type=float, default=0.0, help="of the blocks' layer scale; 0: none")
    model.add_argument("--init_scale", default=0.001, type=float, help="of the head's initial weights")
    model.add_argument("--use_mean_pooling", action="store_true", default=True, help="mean over tokens (default)")
    model.add_argument("--use_cls", action="store_false", dest="use_mean_pooling", help="the first token instead")


def _augmentation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("augmentation")
    group.add_argument("--aa", default="rand-m7-n4-mstd0.5-inc1", help="RandAugment; none: off")
    group.add_argument("--train_interpolation", default="bicubic", choices=["bicubic", "bilinear", "random"])
    group.add_argument("--smoothing", type=float, default=0.1, help="label smoothing")
    group.add_argument(
        "--finetuning_crops",
        type=on_off,
        default=True,
        metavar="True|False",
        help="crops of at least 25 %% of the area (SIGMA), else 8 %% (VideoMAE)",
    )
    group.add_argument("--min_crop_area", type=float, default=None, help="takes the place of --finetuning_crops")
    group.add_argument("--reprob", type=float, default=0.25, help="random erasing")
    group.add_argument("--remode", default="pixel", choices=["pixel", "rand", "const"])
    group.add_argument("--recount", type=int, default=1)
    group.add_argument("--mixup", type=float, default=0.8, help="alpha; 0: off")
    group.add_argument("--cutmix", type=float, default=1.0, help="alpha; 0: off")
    group.add_argument("--cutmix_minmax", type=float, nargs=2, default=None)
    group.add_argument("--mixup_prob", type=float, default=1.0)
    group.add_argument("--mixup_switch_prob", type=float, default=0.5)
    group.add_argument("--mixup_mode", default="batch", choices=["batch", "pair", "elem"])


def zero_stage(args: argparse.Namespace) -> int | None:
    """DeepSpeed's ZeRO stage; None where the run does not train with DeepSpeed."""
    if not args.enable_deepspeed or getattr(args, "eval", False):
        return None
    return DEFAULT_STAGE if args.zero_stage is None else args.zero_stage


def default_amp(args: argparse.Namespace, world: World) -> str:
    """`--amp`, or bf16 on a GPU and none on a CPU."""
    return check_amp(args.amp or ("bf16" if world.device.type == "cuda" else "none"), world.device)


def trained_with(args: argparse.Namespace, said: Mapping[str, Any]) -> dict[str, Any]:
    """Options that given weights were trained with: what their file says, or `--pretrained_clip` in its place."""
    if args.pretrained_clip is None:
        return dict(said)
    frames, size = args.pretrained_clip
    return {**said, "num_frames": frames, "input_size": size, "position_grid": None}


def build_schedule(args: argparse.Namespace, *, total_batch: int, steps_per_epoch: int) -> Schedule:
    """The run's schedule; learning rates scale with total batch / 256 (arXiv 1706.02677).

    Raises:
        ConfigError: too few clips for one update an epoch, or a warm-up longer than the run.
    """
    if steps_per_epoch < 1:
        raise ConfigError(f"--update_freq {args.update_freq}: the data has fewer batches than that; choose fewer")
    if args.warmup_steps >= args.epochs * steps_per_epoch:
        raise ConfigError(f"--warmup_steps {args.warmup_steps}: the run has {args.epochs * steps_per_epoch} steps")
    scale = total_batch / 256
    return Schedule(
        lr=args.lr * scale,
        min_lr=args.min_lr * scale,
        warmup_lr=args.warmup_lr * scale,
        weight_decay=args.weight_decay,
        weight_decay_end=args.weight_decay if args.weight_decay_end is None else args.weight_decay_end,
        epochs=args.epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=args.warmup_epochs,
        warmup_steps=args.warmup_steps,
    )


def prepare_output(args: argparse.Namespace, world: World) -> None:
    """Make the output folders, on every rank: another machine may not share them. Raises ConfigError if it cannot."""
    if args.log_dir and args.run_name:
        args.log_dir = str(Path(args.log_dir) / args.run_name)
    for flag in ("output_dir", "log_dir"):
        folder = getattr(args, flag)
        if folder:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass  # being able to make a file is all that is asked
            except OSError as error:
                raise ConfigError(f"--{flag} {folder}: cannot be written to ({error.strerror})") from error


def write_run_record(args: argparse.Namespace, world: World, **facts: Any) -> None:
    """`run.json` in the output folder: options, code, versions, machine and `facts`. Earlier records are kept in it."""
    if not args.output_dir or not world.is_main:
        return
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "args": vars(args),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else platform.processor() or "cpu",
        "world_size": world.size,
        **facts,
    }
    path = Path(args.output_dir) / "run.json"
    try:
        earlier = json.loads(path.read_text()) if path.exists() else []
    except json.JSONDecodeError:
        logger.warning("%s: not readable, a new one takes its place", path)
        earlier = []
    replace_text(path, json.dumps([*earlier, record], indent=1, default=str) + "\n")


def log_plan(
    args: argparse.Namespace,
    world: World,
    schedule: Schedule,
    model: torch.nn.Module,
    *,
    total_batch: int,
    repeats: int,
) -> None:
    """Print what will be trained: sizes, batches, steps, base and effective learning rate."""
    clips = "" if repeats == 1 else f" videos, {repeats} clips of each (--num_sample): {total_batch * repeats} clips"
    # In ZeRO stage 3 a parameter is empty outside a forward pass; DeepSpeed notes how large it is.
    trainable = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
    log_table(
        "plan",
        {
            "model": f"{args.model}, {trainable / 1e6:.2f} M trainable parameters",
            "device": f"{world.size} x {world.device.type}, amp {default_amp(args, world)}"
            + ("" if (stage := zero_stage(args)) is None else f", DeepSpeed ZeRO stage {stage}"),
            "total batch": f"{total_batch} = {args.batch_size} x accumulation {args.update_freq} x ranks {world.size}"
            + clips,
            "learning rate": f"{schedule.lr:.3g} = base {args.lr:g} x {total_batch} / 256, to {schedule.min_lr:.3g}",
            "steps": f"{schedule.total_steps} = {schedule.epochs} epochs x {schedule.steps_per_epoch}, "
            f"warm-up {schedule.warmup}",
        },
    )


def _commit() -> str:
    """Commit of this code, `+` behind it if files were changed; '' outside a checkout, as when it is installed."""
    try:
        root = Path(__file__).resolve().parents[1]
        run = ["git", "-C", str(root)]
        # site-packages may lie inside another repository, which does not track this file
        subprocess.run([*run, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True, timeout=10)
        commit = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        dirty = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("no commit to record: %s", error)
        return ""
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")
