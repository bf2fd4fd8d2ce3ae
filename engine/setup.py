"""From options and a model to a trainer that stands where the last run left off."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from . import config
from .checkpointing.checkpoint import Checkpointer, Ema, TrainState
from .checkpointing.resume import resume
from .distributed.ddp import Backend
from .distributed.deepspeed import DeepSpeedBackend, load_deepspeed, zero3_init
from .distributed.launch import was_restarted
from .distributed.world import World, seed_everything
from .monitoring.device_peaks import model_flops
from .monitoring.metrics import Meter, RunLog
from .monitoring.monitor import FigureFn, build_monitor
from .monitoring.wandb import start_wandb
from .optim import build_optimizer, parameter_groups
from .resilience.bad_videos import BadVideoLog
from .resilience.nonfinite import NonFiniteGuard
from .resilience.preemption import PreemptionHandler
from .schedules import Schedule
from .training import DiagnosticsFn, ForwardFn, Trainer


def making_model(args: argparse.Namespace, world: World) -> AbstractContextManager[Any]:
    """Around the making of the model: in ZeRO stage 3 no rank ever holds all of it, unless weights are loaded into it.

    Raises:
        ConfigError: `--enable_deepspeed` without DeepSpeed.
    """
    stage = config.zero_stage(args)
    if stage is not None:
        load_deepspeed(world)
    loads = args.finetune or getattr(args, "mlp_preloading", "")
    return zero3_init(world=world) if stage == 3 and not loads else nullcontext()


def place_model(args: argparse.Namespace, world: World, model: nn.Module) -> None:
    """Move the model to the device; in ZeRO stage 3 the back end does it, in shares."""
    if config.zero_stage(args) != 3:
        model.to(world.device)


def build_backend(
    args: argparse.Namespace, world: World, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Backend:
    """DDP, a single process, or DeepSpeed where `--enable_deepspeed` asks for it."""
    stage, amp = config.zero_stage(args), config.default_amp(args, world)
    common = {"world": world, "amp": amp, "clip_grad": args.clip_grad, "stop_on_nonfinite": args.on_nonfinite != "skip"}
    if stage is None:
        return Backend(model, optimizer, **common)
    return DeepSpeedBackend(model, optimizer, **common, stage=stage)


def build_trainer(
    args: argparse.Namespace,
    world: World,
    model: nn.Module,
    forward: ForwardFn,
    *,
    num_batches: int,
    videos: Sequence[Any],
    repeats: int = 1,
    layer_decay: float = 1.0,
    diagnostics_fn: DiagnosticsFn | None = None,
    figure_fn: FigureFn | None = None,
    flops_per_clip: float,
    ema: Ema | None = None,
    record: Mapping[str, Any],
    in_checkpoint: Mapping[str, Any],
) -> Trainer:
    """Optimizer, schedule, backend and logs for `model`, resumed if there is a checkpoint to resume from.

    Args:
        forward: what a batch's losses are.
        num_batches: of the loader of one rank.
        videos: paths of the list.
        repeats: clips per video in a batch.
        layer_decay: learning-rate factor from block to block.
        diagnostics_fn: looks at the outputs of log steps.
        figure_fn: makes TensorBoard's pictures.
        flops_per_clip: operations of a training step, for one clip.
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
    state = TrainState(backend, ema, steps_per_epoch=schedule.steps_per_epoch, total_batch=total_batch)
    resume_from = _resumer(args, world, state, fingerprint=in_checkpoint.get("fingerprint", ""), num_sample=repeats)
    # A command that was started again goes on from what it has saved itself; --resume was for its first start.
    if not (args.resume and was_restarted(os.environ) and resume_from("", True)):
        resume_from(args.resume, args.auto_resume)
    config.write_run_record(args, world, **record)
    config.log_plan(args, world, schedule, model, total_batch=total_batch, repeats=repeats)
    resumed_step = state.step - ("validate" in (state.unfinished or {}))  # its line is there, or will be
    log = RunLog(args.output_dir, args.log_dir, world=world, resumed_step=resumed_step, sink=start_wandb(args, world))
    return Trainer(
        backend=backend,
        state=state,
        schedule=schedule,
        meter=_build_meter(args, world, schedule, clips_per_step=total_batch * repeats, flops_per_clip=flops_per_clip),
        log=log,
        bad_videos=BadVideoLog(
            args.output_dir, num_videos=len(videos), max_bad_fraction=args.max_bad_fraction, world=world
        ),
        checkpointer=_checkpointer(args, world, in_checkpoint),
        guard=NonFiniteGuard(
            args.on_nonfinite, limit=args.nonfinite_limit, output_dir=args.output_dir, world=world, paths=videos
        ),
        preemption=PreemptionHandler(world),
        forward=forward,
        update_freq=args.update_freq,
        restore=lambda: resume_from("", True) or bool(args.resume and resume_from(args.resume, True)),
        stall_timeout=args.stall_timeout,
        diagnostics_fn=diagnostics_fn,
        monitor=build_monitor(args, world, backend, schedule, log, first_step=state.step, figure_fn=figure_fn),
    )


def _build_meter(
    args: argparse.Namespace, world: World, schedule: Schedule, *, clips_per_step: int, flops_per_clip: float
) -> Meter:
    return Meter(
        prefix="train",
        log_every=args.print_freq,
        total_steps=schedule.total_steps,
        clips_per_step=clips_per_step,
        flops=model_flops(flops_per_clip, world=world, amp=config.default_amp(args, world)),
    )


def _resumer(
    args: argparse.Namespace, world: World, state: TrainState, *, fingerprint: str, num_sample: int
) -> Callable[[str, bool], bool]:
    """(file that is named, look for one in the output folder) -> whether `state` now is that of a checkpoint."""

    def resume_from(explicit: str, auto: bool) -> bool:
        path = resume(
            state,
            explicit=explicit,
            auto=auto,
            output_dir=args.output_dir,
            world=world,
            trust=args.trust_checkpoint,
            options=vars(args),
            fingerprint=fingerprint,
            num_sample=num_sample,
        )
        return path is not None

    return resume_from


def _checkpointer(args: argparse.Namespace, world: World, in_checkpoint: Mapping[str, Any]) -> Checkpointer:
    return Checkpointer(
        args.output_dir,
        args.save_ckpt_freq,
        world,
        vars(args),
        dict(in_checkpoint),
        save_steps=args.save_ckpt_steps,
        keep=args.keep_ckpts,
    )


def _pair(betas: Sequence[float]) -> tuple[float, float]:
    first, second = betas
    return first, second
