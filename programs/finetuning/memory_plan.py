"""`--memory_plan` of fine-tuning: the step of the run's own model, on tensors without data."""

import copy
import dataclasses
from types import SimpleNamespace

import torch

from datasets.catalogue import get_dataset_spec
from engine.memory_plan.plan import amp_of, cheaper_runs, machine_of, plan_memory, refuse_absurd
from engine.memory_plan.step import ONE_PROCESS, StepMemory, measure_step
from models.classifier import HeadConfig
from models.kernels.support import planned_for_gpu
from models.registry import build_classifier

from .model import choose_trained, needs
from .options import FinetuningConfig

UNKNOWN_CLASSES = 400  # where only the list says how many there are; a class takes 12 kB of a ViT-B


def plan(config: FinetuningConfig) -> None:
    """Log what the run needs, and end; no video is read, nothing is written."""
    config = config.resolved()
    machine, number = machine_of(config), num_classes(config)
    refuse_absurd(needs(config, ONE_PROCESS, number))
    clips = config.clip.num_sample
    remedies = cheaper_runs(config, on_gpu=machine.on_gpu)
    if config.start.finetune and not (config.task.linear_probing or config.task.freeze_blocks):
        with torch.device("meta"):
            depth = len(build_classifier(config.model, config.encoder, _head(config)).blocks)
        task = dataclasses.replace(config.task, freeze_blocks=depth // 2)
        remedies[f"--freeze_blocks {depth // 2}"] = dataclasses.replace(config, task=task)
    plan_memory(
        config,
        lambda run: step_memory(run, on_gpu=machine.on_gpu),
        machine=machine,
        ahead=clips * config.clip.bytes_per_clip if config.loader.gpu_prefetch and machine.on_gpu else 0,
        remedies=remedies,
        unit=2 if config.mixing_of_task().is_on and clips % 2 else 1,
    )


def num_classes(config: FinetuningConfig) -> int:
    """That of the run, or a usual number: the lists are not read."""
    if not config.task.kind.has_classes and config.task.kind.labels == "value":
        return 1
    return config.lists.nb_classes or get_dataset_spec(config.lists.data_set).num_classes or UNKNOWN_CLASSES


def step_memory(config: FinetuningConfig, *, on_gpu: bool) -> StepMemory:
    """Of a step of this run."""
    task, clips = config.task, config.optim.batch_size * config.clip.num_sample
    encoder = config.encoder
    if on_gpu:  # where attention with dropout takes no more than without; on a CPU it stores the N x N weights
        encoder = dataclasses.replace(encoder, attn_drop_rate=0.0)
    with torch.device("meta"):
        model = build_classifier(config.model, encoder, _head(config))
    choose_trained(config, model)
    average = [copy.deepcopy(model)] if task.model_ema and not task.model_ema_force_cpu else []

    def batch() -> SimpleNamespace:
        targets = torch.empty(clips, num_classes(config))
        return SimpleNamespace(clip=torch.empty(clips, *model.clip_shape), targets=targets)

    def forward(batch: SimpleNamespace) -> dict[str, torch.Tensor]:
        outputs = model(batch.clip).float()
        return {"loss": torch.nn.functional.cross_entropy(outputs, batch.targets)}  # of outputs this small, as any

    with planned_for_gpu(on_gpu):
        return measure_step(
            model,
            forward,
            batch=batch,
            optimizer=lambda model: config.optim.build(model, lr=config.optim.lr, layer_decay=task.layer_decay),
            amp=amp_of(config, on_gpu=on_gpu),
            frozen=average,
            accumulates=config.optim.update_freq > 1,
            clip_grad=config.optim.clip_grad,
        )


def _head(config: FinetuningConfig) -> HeadConfig:
    return dataclasses.replace(config.head, num_classes=num_classes(config))
