"""Options that no run can use are refused before any work, with the flag's name and the remedy."""

import argparse
from collections.abc import Callable

from .errors import ConfigError
from .monitoring.wandb import check_wandb

# Flags, what each of their values must satisfy, and how to say so. A flag that a parser lacks, or that was not given,
# is passed over. NaN satisfies nothing.
_RULES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "batch_size update_freq epochs save_ckpt_freq print_freq num_frames input_size tubelet_size sampling_rate "
        "decoder_depth decoder_num_classes projection_dims num_prototypes sinkhorn_iterations nb_classes num_sample "
        "num_masks short_side_size test_num_segment test_num_crop recount pretrained_clip keep_ckpts",
        lambda value: value >= 1,
        "must be at least 1",
    ),
    (
        "num_workers seed warmup_epochs warmup_lr min_lr weight_decay weight_decay_end init_scale init_values mixup "
        "cutmix save_ckpt_steps decode_timeout nonfinite_limit stall_timeout profile",
        lambda value: value >= 0,
        "must be 0 or more",
    ),
    ("lr opt_eps sinkhorn_eps clip_grad", lambda value: value > 0, "must be positive"),
    ("momentum mask_ratio model_ema_decay", lambda value: 0 < value < 1, "must lie between 0 and 1"),
    ("seed", lambda value: value < 2**63, "must be below 2^63"),
    ("layer_decay", lambda value: 0 < value <= 1, "must be above 0 and at most 1 (1: no decay)"),
    (
        "opt_betas drop fc_drop_rate attn_drop_rate drop_path smoothing decoder_mask_ratio",
        lambda value: 0 <= value < 1,
        "must be at least 0 and below 1",
    ),
    (
        "min_crop_area reprob mixup_prob mixup_switch_prob max_bad_fraction cutmix_minmax",
        lambda value: 0 <= value <= 1,
        "must be between 0 and 1",
    ),
)


def check_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for values, and for combinations of values, that make no sense."""
    for flags, is_valid, words in _RULES:
        for flag in flags.split():
            given = getattr(args, flag, None)
            values = given if isinstance(given, list) else [] if given is None else [given]
            if not all(map(is_valid, values)):
                raise ConfigError(f"--{flag} {' '.join(map(str, values))}: {words}")
    if args.warmup_steps <= 0 and args.warmup_epochs >= args.epochs:
        raise ConfigError(
            f"--warmup_epochs {args.warmup_epochs} leaves nothing of --epochs {args.epochs}: choose fewer to warm up"
        )
    if args.profile and (args.dry_run or not args.output_dir):
        raise ConfigError(
            f"--profile {args.profile} goes into --output_dir and needs a real run: give the one, leave out --dry_run"
        )
    check_wandb(args)
    if args.zero_stage is not None and not args.enable_deepspeed:
        raise ConfigError(f"--zero_stage {args.zero_stage} is for --enable_deepspeed: give both or none")
    if args.enable_deepspeed and args.amp == "fp16":
        raise ConfigError("--amp fp16 is not for --enable_deepspeed: use --amp bf16 or none, or DDP")
    if "nb_classes" in args:
        _check_finetuning(args)
    else:
        _check_pretraining(args)


def _check_finetuning(args: argparse.Namespace) -> None:
    if args.model_ema and args.zero_stage == 3:
        raise ConfigError(
            "--model_ema averages whole weights, which no rank has in --zero_stage 3: choose stage 2, or leave it out"
        )
    if args.short_side_size < args.input_size:
        raise ConfigError(
            f"--short_side_size {args.short_side_size} is smaller than --input_size {args.input_size}: "
            "a crop would not fit; choose at least as much"
        )
    mixes = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    if mixes and not args.eval and args.batch_size * args.num_sample % 2:
        raise ConfigError(
            f"--batch_size {args.batch_size} x --num_sample {args.num_sample} is odd, and clips are mixed in pairs: "
            "choose an even --batch_size, or switch mixing off with --mixup 0 --cutmix 0"
        )


def _check_pretraining(args: argparse.Namespace) -> None:
    needs = (
        ("distillation_teacher", "target_type", ("dino_v1", "dino_v2")),
        ("teacher_weights", "target_type", ("dino_v1", "dino_v2")),
        ("mlp_preloading", "target_type", ("mlp",)),
        ("flow_weights", "mask_type", ("motion",)),
    )
    for flag, other, values in needs:
        if getattr(args, flag) and getattr(args, other) not in values:
            raise ConfigError(
                f"--{flag} {getattr(args, flag)} is for --{other} {' or '.join(values)}, not {getattr(args, other)}: "
                "leave one of them out"
            )
    if args.mask_type.startswith("motion") and args.num_frames < 2:
        raise ConfigError(f"--mask_type {args.mask_type}: --num_frames {args.num_frames} is a clip without motion")
    if args.mask_type == "motion_vectors" and args.decoder == "decord":
        raise ConfigError("--mask_type motion_vectors: decord does not give them; use --decoder pyav")
