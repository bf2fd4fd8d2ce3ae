"""This project's training step on synthetic batches, for the benchmarks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import NUM_CLASSES, NUM_PROTOTYPES, Cell, Clock
from engine.acceleration.compilation import compile_blocks
from engine.acceleration.cuda_graphs import capture_blocks
from engine.distributed.ddp import Backend, set_matmul_precision
from engine.distributed.world import World
from engine.optim import build_optimizer, parameter_groups
from engine.pretraining import PretrainingForward
from engine.tasks.classification import Classification
from models import create_model
from models.targets import TEACHERS
from models.teachers import ImageTeacher

LAYER_DECAY = 0.75  # of fine-tuning
DROP_PATH = 0.1


def build_model(cell: Cell, **options: Any) -> nn.Module:
    """Our model of a cell; random weights."""
    torch.manual_seed(0)
    options |= {"num_frames": cell.num_frames}
    if cell.task == "finetune":
        return create_model(cell.model_name, num_classes=NUM_CLASSES, **{"drop_path_rate": DROP_PATH, **options})
    options["target_type"] = {"dino": "dino_v1"}.get(cell.task, cell.task)
    if cell.task == "pixel":
        options["loss_func"] = "L2"
    if cell.task == "dino":
        options["decoder_num_classes"] = TEACHERS["dino_v1", cell.teacher].feature_dim
    return create_model(cell.model_name, num_prototypes=NUM_PROTOTYPES, **options)


def teacher_network(cell: Cell) -> nn.Module:
    """The image teacher's network with random weights, frozen. Its attention is fused, as timm's is by default."""
    import timm  # among the imports above it would come before sigma_video.compat

    torch.manual_seed(0)
    network = timm.create_model(TEACHERS["dino_v1", cell.teacher].architecture, img_size=cell.img_size, num_classes=0)
    return network.eval().requires_grad_(False)


def build_teacher_of(cell: Cell, model: nn.Module, amp: str) -> ImageTeacher:
    """The image teacher of a cell of the task "dino", in the precision of `amp`."""
    tubelet, grid = model.encoder.tubelet, model.encoder.grid
    teacher = ImageTeacher(teacher_network(cell), tubelet=tubelet, grid=grid)
    return teacher.to(torch.bfloat16 if amp == "bf16" else torch.float32)


def build_optimizer_of(model: nn.Module, cell: Cell) -> torch.optim.Optimizer:
    """As the recipes have it."""
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=LAYER_DECAY if cell.task == "finetune" else 1.0)
    return build_optimizer(groups, opt="adamw", lr=1e-5, betas=(0.9, 0.95), eps=1e-8, momentum=0)


class OurStep:
    """One training step; `clock` gets the stages. `captured`: the blocks are CUDA graphs, from the first batch on."""

    def __init__(
        self, cell: Cell, *, world: World, amp: str, compiled: bool = False, captured: bool = False, **options: Any
    ) -> None:
        self.cell, self.to_be_captured = cell, captured
        self.model = build_model(cell, **options).to(world.device).train()
        self.clock = Clock(world.device)
        teacher = None
        if cell.task == "dino":
            teacher = build_teacher_of(cell, self.model, amp).to(world.device)
            self.clock.watch("teacher", teacher)
        if cell.task == "finetune":
            self.forward: Callable[..., dict[str, torch.Tensor]] = Classification(None, 0.1)
            stacks = [self.model.blocks]
            self.clock.watch("encoder", self.model)
        else:
            self.forward = PretrainingForward(teacher=teacher)
            stacks = [self.model.encoder.blocks, self.model.decoder.blocks]
            for stage in ("encoder", "decoder", "targets", "objective"):
                part = getattr(self.model, stage)
                if part is not None:
                    self.clock.watch(stage, part)
        if compiled:
            compile_blocks(*stacks, *([teacher.compiled_parts()] if teacher else []))
        self.backend = Backend(self.model, build_optimizer_of(self.model, cell), world=world, amp=amp)

    def __call__(self, batch: Any) -> torch.Tensor:
        """The loss, on the device."""
        set_matmul_precision(self.backend.device, self.backend.amp)  # as in a run
        if self.to_be_captured:
            self.capture(len(batch.clip), copies=False)
            self.to_be_captured = False
        self.clock.start()
        with self.backend.autocast():
            loss = self.forward(self.backend.model, batch)["loss"]
        self.clock.mark("rest")
        self.backend.backward(loss, update_freq=1)
        self.clock.mark("backward")
        self.backend.step()
        self.clock.mark("optimizer")
        torch.set_float32_matmul_precision("highest")  # torch's default, for the other implementations
        return loss.detach()

    def capture(self, clips: int, *, copies: bool) -> None:
        """Make CUDA graphs of the blocks, for batches of so many clips (see `capture_blocks`)."""
        stacks = [(self.model.blocks, self.model.num_tokens)]
        if self.cell.task != "finetune":
            stacks = list(self.model.stacks(self.cell.num_masked).values())
        for blocks, num_tokens in stacks:
            capture_blocks(blocks, (clips, num_tokens), amp=self.backend.amp, copies=copies)


def one_process(device: torch.device) -> World:
    return World(rank=0, size=1, local_rank=0, device=device)
