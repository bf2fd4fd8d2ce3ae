"""From options and a model to a trainer that stands where the last run left off."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from engine import checkpoint, config
from engine.backend import Backend
from engine.deepspeed_backend import DeepSpeedBackend, load_deepspeed, sharded_from_the_start
from engine.distributed import World, seed_everything
from engine.metrics import Meter, RunLog
from engine.optim import build_optimizer, parameter_groups
from engine.quarantine import Quarantine
from engine.training import Forward, Trainer, Watch


def making_model(args: argparse.Namespace, world: World) -> AbstractContextManager[Any]:
    """Around the making of the model: in ZeRO stage 3 no rank ever holds all of it, unless weights are loaded into it.

    Raises:
        ConfigError: `--enable_deepspeed` without DeepSpeed.
    """
    stage = config.zero_stage(args)
    if stage is not None:
        load_deepspeed(world)
    loads = args.finetune or getattr(args, "mlp_preloading", "")
    return sharded_from_the_start(world=world) if stage == 3 and not loads else nullcontext()


def place_model(args: argparse.Namespace, world: World, model: nn.Module) -> None:
    """Move the model to the device; in ZeRO stage 3 the back end does it, in shares."""
    if config.zero_stage(args) != 3:
        model.to(world.device)


def build_backend(
    args: argparse.Namespace, world: World, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Backend:
    """DDP, a single process, or DeepSpeed where `--enable_deepspeed` asks for it."""
    stage, amp = config.zero_stage(args), config.default_amp(args, world)
    if stage is None:
        return Backend(model, optimizer, world=world, amp=amp, clip_grad=args.clip_grad)
    return DeepSpeedBackend(model, optimizer, world=world, amp=amp, clip_grad=args.clip_grad, stage=stage)


def build_trainer(
    args: argparse.Namespace,
    world: World,
    model: nn.Module,
    forward: Forward,
    *,
    num_batches: int,
    num_videos: int,
    repeats: int = 1,
    layer_decay: float = 1.0,
    watch: Watch | None = None,
    ema: checkpoint.Ema | None = None,
    record: Mapping[str, Any],
    in_checkpoint: Mapping[str, Any],
) -> Trainer:
    """Optimizer, schedule, backend and logs for `model`, resumed if there is a checkpoint to resume from.

    Args:
        forward: what a batch's losses are.
        num_batches: of the loader of one rank.
        num_videos: in the list.
        repeats: clips per video in a batch.
        layer_decay: learning-rate factor from block to block.
        watch: looks at the outputs of log steps.
        ema: average of the weights, updated after every update.
        record: facts for the run's record, beside its options.
        in_checkpoint: entries that every checkpoint gets, beside the training state.
    """
    total_batch = args.batch_size * args.update_freq * world.size
    schedule = config.build_schedule(args, total_batch=total_batch, steps_per_epoch=num_batches // args.update_freq)
    optimizer = build_optimizer(
        parameter_groups(model, weight_decay=args.weight_decay, layer_decay=layer_decay),
        opt=args.opt,
        lr=schedule.lr,
        betas=_pair(args.opt_betas),
        eps=args.opt_eps,
        momentum=args.momentum,
    )
    seed_everything(args.seed, world.rank)
    backend = build_backend(args, world, model, optimizer)
    state = checkpoint.TrainState(backend, ema, steps_per_epoch=schedule.steps_per_epoch, total_batch=total_batch)
    checkpoint.resume(
        state,
        explicit=args.resume,
        auto=args.auto_resume,
        output_dir=args.output_dir,
        world=world,
        trust=args.trust_checkpoint,
        unchanged={name: getattr(args, name) for name in ("num_frames", "input_size", "position_grid")},
        fingerprint=in_checkpoint.get("fingerprint", ""),
        num_sample=repeats,
    )
    config.write_run_record(args, world, **record)
    config.log_plan(args, world, schedule, model, total_batch=total_batch, repeats=repeats)
    return Trainer(
        backend=backend,
        state=state,
        schedule=schedule,
        meter=Meter(
            prefix="train",
            log_every=args.print_freq,
            total_steps=schedule.total_steps,
            clips_per_step=total_batch * repeats,
        ),
        log=RunLog(args.output_dir, args.log_dir, world=world, resumed_step=state.step),
        quarantine=Quarantine(
            args.output_dir, num_videos=num_videos, max_bad_fraction=args.max_bad_fraction, world=world
        ),
        checkpointer=checkpoint.Checkpointer(
            args.output_dir, args.save_ckpt_freq, world, vars(args), dict(in_checkpoint), args.save_ckpt_steps
        ),
        forward=forward,
        update_freq=args.update_freq,
        watch=watch,
    )


def _pair(betas: Sequence[float]) -> tuple[float, float]:
    first, second = betas
    return first, second
