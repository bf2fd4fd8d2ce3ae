"""`--memory_plan` of pre-training: the step of the run's own model, on tensors without data."""

import dataclasses
import math
from types import SimpleNamespace

import torch

from engine.distributed.ddp import AMP_DTYPES
from engine.memory_plan.plan import amp_of, cheaper_runs, machine_of, plan_memory, refuse_absurd
from engine.memory_plan.step import ONE_PROCESS, StepMemory, measure_step
from engine.pretraining import PretrainingForward
from models.kernels.support import planned_for_gpu
from models.more_teachers import TimmTeacher, VideoTeacher, timm_network
from models.registry import build_pretraining_model
from models.sigma import Sigma
from models.teachers import FrozenTeacher, build_teacher, with_teacher_dim

from .networks import needs, teacher_width, video_model
from .options import PretrainingConfig


def plan(config: PretrainingConfig) -> None:
    """Log what the run needs, and end; no video is read, nothing is written, and no weights are downloaded."""
    config = config.resolved()
    machine = machine_of(config)
    targets = with_teacher_dim(config.targets, teacher_width(config, ONE_PROCESS))
    refuse_absurd(needs(config, ONE_PROCESS, targets))
    ahead = config.loader.gpu_prefetch and machine.on_gpu
    plan_memory(
        config,
        lambda run: step_memory(run, on_gpu=machine.on_gpu),
        machine=machine,
        ahead=config.clip.num_sample * config.clip.bytes_per_clip if ahead else 0,
        remedies=cheaper_runs(config, on_gpu=machine.on_gpu),
        notes=("the optical flow of --mask_type motion",) if config.masks.mask_type == "motion" else (),
    )


def step_memory(config: PretrainingConfig, *, on_gpu: bool) -> StepMemory:
    """Of a step of this run."""
    targets, clip, amp = config.targets, config.clip, amp_of(config, on_gpu=on_gpu)
    targets = with_teacher_dim(targets, teacher_width(config, ONE_PROCESS))
    objective = dataclasses.replace(config.objective, sinkhorn_iterations=2)  # more take time and no memory
    with torch.device("meta"):
        model = build_pretraining_model(config.model, config.encoder, config.decoder, targets, objective)
    if not config.learns_projection:
        model.freeze_projection()
    teacher = _teacher(config, model)
    if teacher is not None:
        teacher.network.to(AMP_DTYPES[amp])
    num_masked = config.masks.num_masked(model.encoder.grid)
    clips = config.optim.batch_size * clip.num_sample

    def batch() -> SimpleNamespace:
        masks = clips * config.masks.num_masks, math.prod(model.encoder.grid)
        return SimpleNamespace(
            clip=torch.empty(clips, *model.encoder.clip_shape),
            mask=torch.empty(masks, dtype=torch.bool, device="meta"),  # where nobody asks for its values
        )

    forward = PretrainingForward(teacher=teacher)
    with planned_for_gpu(on_gpu):
        return measure_step(
            model,
            lambda batch: forward.outputs(model, batch, num_masked),
            batch=batch,
            optimizer=lambda model: config.optim.build(model, lr=config.optim.lr),
            amp=amp,
            frozen=[] if teacher is None else [teacher],
            accumulates=config.optim.update_freq > 1,
            clip_grad=config.optim.clip_grad,
        )


def _teacher(config: PretrainingConfig, model: Sigma) -> FrozenTeacher | None:
    """The frozen teacher, without its weights where they would have to be downloaded."""
    targets, encoder = config.targets, model.encoder
    if not targets.uses_teacher:
        return None
    if targets.target_type == "timm":
        return TimmTeacher(
            timm_network(targets.teacher, encoder.grid, empty=True), tubelet=encoder.tubelet, grid=encoder.grid
        )
    if targets.target_type == "video":
        return VideoTeacher(video_model(config, ONE_PROCESS).model, tubelet=encoder.tubelet, grid=encoder.grid)
    name, size = targets.known_teacher, config.clip.input_size
    return build_teacher(
        targets.target_type,
        name,
        img_size=size,
        tubelet=encoder.tubelet,
        grid=encoder.grid,
        dtype=torch.float32,
        empty=True,
    )
