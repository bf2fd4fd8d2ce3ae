"""From options and a model to a trainer that stands where the last run left off."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .checkpointing.checkpoint import Checkpointer, Ema, TrainState
from .checkpointing.finite import find_nonfinite
from .checkpointing.resume import options_of, resume
from .config import RunConfig, RunFacts, TrainingConfig
from .distributed.ddp import Backend, set_matmul_precision
from .distributed.deepspeed import DeepSpeedBackend, load_deepspeed, zero3_init
from .distributed.launch import was_restarted
from .distributed.world import World, distributed, seed_everything, use_deterministic_algorithms
from .dry_run import scratch_output
from .errors import user_errors
from .flags import parse
from .log_steps import Diagnostics
from .monitoring.console import ProgressBar
from .monitoring.device_peaks import model_flops
from .monitoring.metrics import Meter, RunLog, setup_logging
from .monitoring.monitor import FigureFn, TrainingMonitor, build_profiler
from .monitoring.wandb import start_wandb
from .record import computed_by, describe_start, log_plan, write_run_record
from .resilience.bad_videos import BadVideoLog
from .resilience.lock import output_lock
from .resilience.nonfinite import NonFiniteGuard
from .resilience.preemption import PreemptionHandler
from .training import ForwardFn, Trainer

R = TypeVar("R", bound=TrainingConfig)
T = TypeVar("T")
logger = logging.getLogger(__name__)

_INTERRUPTED = "interrupted; the same command resumes from the last checkpoint"


def run_script(
    cls: type[R],
    main: Callable[[R, World], None],
    *,
    errors: tuple[type[Exception], ...],
    around: Callable[[], AbstractContextManager[Any]],
    plan: Callable[[R], None] | None = None,
) -> None:
    """The `__main__` of an entry script: parse the command line, join the ranks, run.

    Args:
        cls: configuration of the script.
        errors: besides the engine's own, those that are shown as one line, with exit code 2.
        around: entered around `main`, once the ranks are joined.
        plan: what `--memory_plan` does in the place of all that.
    """
    with user_errors(*errors, interrupted=_INTERRUPTED):
        config = parse(cls)
        if plan is not None and config.run.memory_plan is not None:
            plan(config)
            return
        with (
            distributed(config.run.device) as world,
            user_errors(*errors, interrupted=_INTERRUPTED),
            around(),
            scratch_output(config.run, world) as run,
            output_lock(run.output_dir, world),
        ):
            main(dataclasses.replace(config, run=run), world)


def prepare(config: R, world: World) -> R:
    """Make the folders, set up logging and the precision of matrix products; returns the options with these folders.

    Raises:
        ConfigError: a folder cannot be written to, or the device cannot train in `--amp`.
    """
    run = config.run.with_folders()
    setup_logging(world, run.output_dir)
    set_matmul_precision(world.device, run.amp_on(world.device))
    if run.deterministic:
        use_deterministic_algorithms()
    if world.is_main:
        for note in config.notes:
            logger.warning("%s", note)
    return dataclasses.replace(config, run=run)


@dataclass(frozen=True)
class TrainingSet:
    """What a trainer has to know of the data.

    Attributes:
        videos: paths of the list.
        num_batches: of the loader of one rank.
        fingerprint: of the list.
        validated_on: fingerprint of the list for validation; "": there is none.
        repeats: clips per video in a batch.
        described: for the run's record: what is known of each list.
        class_names: of the labels, if there are any.
        lists: what checkpoints keep of each list, by part: see `datasets.lists.comparison.summarise`.
    """

    videos: Sequence[Any]
    num_batches: int
    fingerprint: str
    validated_on: str = ""
    repeats: int = 1
    described: Mapping[str, Any] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    lists: Mapping[str, Any] = field(default_factory=dict)

    def in_checkpoint(self) -> dict[str, Any]:
        """Entries that every checkpoint gets, beside the training state."""
        return {**self._names(), "fingerprint": self.fingerprint, "lists": dict(self.lists)}

    def in_record(self) -> dict[str, Any]:
        """Entries of `run.json`."""
        return {**self._names(), **self.described}

    def _names(self) -> dict[str, Any]:
        return {} if self.class_names is None else {"class_names": list(self.class_names)}


@dataclass(frozen=True)
class Instruments:
    """What is measured and drawn of a run.

    Attributes:
        flops_per_clip: operations of a training step, for one clip.
        diagnostics: looks at the outputs of log steps.
        figure_fn: makes TensorBoard's pictures.
        task: what is trained, for the first rows of the plan on the console: name -> what there is to say.
        plan: of the networks, likewise, for its later rows.
    """

    flops_per_clip: float
    diagnostics: Diagnostics | None = None
    figure_fn: FigureFn | None = None
    task: Mapping[str, str] = field(default_factory=dict)
    plan: Mapping[str, str] = field(default_factory=dict)


def model_init_context(config: TrainingConfig, world: World, *, loads: bool) -> AbstractContextManager[Any]:
    """Around the making of the model: in ZeRO stage 3 no rank ever holds all of it, unless weights are loaded into it.

    Args:
        loads: weights will be loaded.

    Raises:
        ConfigError: `--enable_deepspeed` without DeepSpeed.
    """
    stage = config.run.stage
    if stage is not None:
        load_deepspeed(world)
    return zero3_init(world=world) if stage == 3 and not loads else nullcontext()


def place_model(config: TrainingConfig, world: World, model: nn.Module) -> None:
    """Move the model to the device; in ZeRO stage 3 the back end does it, in shares."""
    if config.run.stage != 3:
        model.to(world.device)


def build_backend(config: TrainingConfig, world: World, model: nn.Module, optimizer: torch.optim.Optimizer) -> Backend:
    """DDP, a single process, or DeepSpeed where `--enable_deepspeed` asks for it."""
    run = config.run
    common: dict[str, Any] = {
        "world": world,
        "amp": run.amp_on(world.device),
        "clip_grad": config.optim.clip_grad,
        "stop_on_nonfinite": run.on_nonfinite != "skip",
    }
    if run.stage is None:
        return Backend(model, optimizer, **common)
    return DeepSpeedBackend(model, optimizer, **common, stage=run.stage)


def build_trainer(
    config: TrainingConfig,
    world: World,
    *,
    model_name: str,
    model: nn.Module,
    forward: ForwardFn,
    data: TrainingSet,
    instruments: Instruments,
    facts: RunFacts,
    layer_decay: float = 1.0,
    held_steps: Mapping[str, int] | None = None,
    ema: Ema | None = None,
) -> Trainer:
    """Optimizer, schedule, backend and logs for `model`, resumed if there is a checkpoint to resume from.

    `layer_decay` is the learning-rate factor from block to block, `held_steps` see `parameter_groups`, `ema` an average
    of the weights.
    """
    run, optim, saving, args = config.run, config.optim, config.checkpoint, facts.beside(config)
    schedule = optim.schedule(num_batches=data.num_batches, world_size=world.size)
    optimizer = optim.build(model, lr=schedule.lr, layer_decay=layer_decay, held_steps=held_steps)
    seed_everything(run.seed, world.rank)
    backend = build_backend(config, world, model, optimizer)
    total_batch = optim.total_batch(world.size)
    state = TrainState(backend, ema, steps_per_epoch=schedule.steps_per_epoch, total_batch=total_batch)
    state.validated_on = data.validated_on
    resume_from = _resumer(config, world, state, args=args, data=data)
    resumed = _first_found(config, resume_from)
    steps = {"first_step": state.step, "total_steps": schedule.total_steps} | data.in_record()
    write_run_record(run.output_dir, world, args, **steps)
    rows = {**computed_by(run, world.device, resumed=state.step > 0), **instruments.plan}
    task = {**instruments.task, "weights": describe_start(config, resumed, state.step)}
    log_plan(config, world, schedule=schedule, name=model_name, model=model, repeats=data.repeats, task=task, rows=rows)
    return Trainer(
        backend=backend,
        state=state,
        schedule=schedule,
        meter=Meter(
            prefix="train",
            log_every=run.print_freq,
            total_steps=schedule.total_steps,
            clips_per_step=total_batch * data.repeats,
            flops=model_flops(instruments.flops_per_clip, world=world, amp=backend.amp),
        ),
        log=(log := _open_log(run, world, state, args)),
        **_safeguards(config, world, data, args, model=model),
        forward=forward,
        update_freq=optim.update_freq,
        restore=lambda: bool(resume_from("", True) or (saving.resume and resume_from(saving.resume, True))),
        diagnostics=instruments.diagnostics,
        monitor=TrainingMonitor(
            bar=ProgressBar(world=world, first_step=state.step, total_steps=schedule.total_steps),
            profile=build_profiler(run.output_dir, run.profile, world),
            log=log,
            backend=backend,
            figure_fn=instruments.figure_fn,
            steps_per_epoch=schedule.steps_per_epoch,
        ),
    )


def _open_log(run: RunConfig, world: World, state: TrainState, args: Mapping[str, Any]) -> RunLog:
    """The log of a run that resumes from `state`: lines that an earlier start wrote after it are dropped."""
    resumed_step = state.step - ("validate" in (state.unfinished or {}))  # its line is there, or will be
    project = "" if run.dry_run else run.wandb
    sink = start_wandb(project, world, output_dir=run.output_dir, run_name=run.run_name, options=args)
    return RunLog(run.output_dir, run.log_dir, world=world, resumed_step=resumed_step, sink=sink)


def _safeguards(
    config: TrainingConfig, world: World, data: TrainingSet, args: Mapping[str, Any], *, model: nn.Module
) -> dict[str, Any]:
    """What keeps a run's work, and ends it in time: parts of a Trainer."""
    run, saving, output_dir = config.run, config.checkpoint, config.run.output_dir
    return {
        "bad_videos": BadVideoLog(
            output_dir,
            num_videos=len(data.videos),
            max_bad_fraction=run.max_bad_fraction,
            batch_size=config.optim.batch_size,
            world=world,
        ),
        "checkpointer": Checkpointer(
            output_dir,
            saving.save_ckpt_freq,
            world,
            dict(args),
            data.in_checkpoint(),
            save_steps=saving.save_ckpt_steps,
            keep=saving.keep_ckpts,
        ),
        "guard": NonFiniteGuard(
            run.on_nonfinite,
            limit=run.nonfinite_limit,
            output_dir=output_dir,
            world=world,
            paths=data.videos,
            weights=lambda: not find_nonfinite(list(model.parameters())),
        ),
        "preemption": PreemptionHandler(world),
        "stall_timeout": run.stall_timeout,
    }


def options_to_resume(config: TrainingConfig, world: World) -> dict[str, Any]:
    """Options, and facts beside them, of the checkpoint that `build_trainer` will resume from; {} if there is none."""
    folder, trust = config.run.output_dir, config.start.trust_checkpoint
    find = partial(options_of, output_dir=folder, world=world, trust=trust)
    return _first_found(config, lambda explicit, auto: find(explicit, auto=auto)) or {}


def _first_found(config: TrainingConfig, find: Callable[[str, bool], T]) -> T | None:
    """What `find` makes of the checkpoint to resume from: (file that is named, look in the output folder) -> that.

    A command that was started again resumes from what it has saved itself; --resume was for its first start.
    """
    saving = config.checkpoint
    found = find("", True) if saving.resume and was_restarted(os.environ) else None
    return found or find(saving.resume, saving.auto_resume)


def _resumer(
    config: TrainingConfig, world: World, state: TrainState, *, args: Mapping[str, Any], data: TrainingSet
) -> Callable[[str, bool], Path | None]:
    """(file that is named, look for one in the output folder) -> the checkpoint whose state `state` now is, if any."""

    def resume_from(explicit: str, auto: bool) -> Path | None:
        return resume(
            state,
            explicit=explicit,
            auto=auto,
            output_dir=config.run.output_dir,
            world=world,
            trust=config.start.trust_checkpoint,
            options=args,
            fingerprint=data.fingerprint,
            num_sample=data.repeats,
        )

    return resume_from
