"""A step that is not logged does not read from the device.

On a CPU reading costs nothing, so it is forbidden here: whatever asks a tensor for its value (`.item()`, `if tensor`,
boolean indexing) fails, but where the tensor comes of the masks alone, which are in host memory on any machine. On a
GPU torch reports every wait of the same loop.
"""

import itertools
import types

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.distributed.ddp import Backend
from engine.distributed.world import World
from engine.monitoring.collapse import CollapseDetector
from engine.monitoring.metrics import Meter, RunLog
from engine.optim import build_optimizer, parameter_groups
from engine.pretraining import PretrainingForward
from engine.resilience.bad_videos import BadVideoLog
from engine.resilience.nonfinite import NonFiniteGuard
from engine.tasks.classification import Classification
from engine.training import Trainer
from models import create_model
from models.teachers import ImageTeacher
from models.tokens import running_cells

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
NUM_MASKED = 24
TINY = {"num_frames": 4, "encoder_depth": 2, "decoder_depth": 1, "num_prototypes": 10, "projection_dims": [16]}
CASES = {
    "mlp": {"drop_path_rate": 0.5},
    "pixel": {"target_type": "pixel", "loss_func": "L2", "use_checkpoint": True},
    "dino": {"target_type": "dino_v1", "decoder_num_classes": 384, "decoder_mask_ratio": 0.5},
    "finetune": {},
}


def make(case):
    """Model, and teacher if there is one, in host memory."""
    if case == "finetune":
        options = {"num_frames": 4, "num_classes": 3, "drop_path_rate": 0.5, "fc_drop_rate": 0.5}
        return create_model("vit_mini_patch8_32", **options).train(), None
    model = create_model("pretrain_videomae_mini_patch8_32", **TINY, **CASES[case]).train()
    if case != "dino":
        return model, None
    network = timm.create_model("vit_small_patch16_224.dino", img_size=32, num_classes=0)
    return model, ImageTeacher(network, tubelet=(2, 8, 8), grid=(2, 4, 4))


def backend_of(model, device):
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.75)
    optimizer = build_optimizer(groups, opt="adamw", lr=1e-3, betas=(0.9, 0.95), eps=1e-8, momentum=0.9)
    return Backend(model, optimizer, world=World(0, 1, 0, device), amp="bf16", clip_grad=0.5)


class NoReading(TorchDispatchMode):
    """Fails if the value of a tensor is read; `host` and what is computed from it alone may be read."""

    READS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __init__(self, *host):
        super().__init__()
        self.host = list(host)  # kept, so that no other tensor gets their ids

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_host = bool(given) and all(any(tensor is known for known in self.host) for tensor in given)
        by_mask = function._schema.name.startswith("aten::index") and any(
            tensor.dtype == torch.bool for tensor in given[1:]
        )
        if (function._schema.name in self.READS or by_mask) and not on_host:
            raise AssertionError(f"{function} reads a tensor")
        result = function(*args, **(kwargs or {}))
        if on_host:
            self.host += [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return result


def masks(clips):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(clips, 32, generator=generator).argsort(dim=1) < NUM_MASKED


def test_reading_is_noticed():
    tensor, host = torch.ones(3), torch.ones(3)
    with NoReading(host):
        for read in (tensor.sum().item, lambda: bool(tensor.any()), tensor.nonzero, lambda: tensor[tensor > 0]):
            with pytest.raises(AssertionError, match="reads a tensor"):
                read()
        assert int((host + 1).sum()) == 6


def loop_of(case, device):
    """What does a step of the training loop, and the batch that it is given."""
    model, teacher = make(case)
    backend = backend_of(model.to(device), device)
    teacher = teacher.to(device) if teacher else None
    trainer = Trainer(
        backend=backend,
        state=types.SimpleNamespace(backend=backend, step=0, scaler_skips=0, ema=None),
        schedule=types.SimpleNamespace(apply=lambda optimizer, step: 1e-3, warmup=0, steps_per_epoch=10),
        meter=Meter(prefix="train", log_every=10, total_steps=100, clips_per_step=2),
        log=RunLog("", None, world=backend.world),
        bad_videos=BadVideoLog("", num_videos=2, max_bad_fraction=0, batch_size=2, world=backend.world),
        checkpointer=None,
        guard=NonFiniteGuard("stop", limit=0, output_dir="", world=backend.world, paths=[]),
        preemption=None,
        forward=Classification(None, 0.1) if case == "finetune" else PretrainingForward(teacher=teacher),
        update_freq=1,
        restore=None,
        diagnostics=None if case == "finetune" else CollapseDetector(10 if case != "pixel" else None),
    )
    batch = types.SimpleNamespace(
        clip=torch.randn(2, 3, 4, 32, 32).to(device),
        mask=masks(2).pin_memory() if device.type == "cuda" else masks(2),
        label=torch.tensor([0, 2]).to(device),
        index=torch.tensor([0, 1]),
        failures=[],
    )
    batch.to = lambda device: batch

    def step(*, is_log_step=False):
        return trainer.update(itertools.repeat(batch), 0, is_log_step=is_log_step)

    return step, trainer, batch


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_read_in_a_step(case):
    step, trainer, batch = loop_of(case, CPU)
    first = next(trainer.backend.module.parameters())
    before = first.detach().clone()
    with NoReading(batch.mask):
        for _ in range(2):  # from the second on the optimizer has a state
            step()
    assert not torch.equal(first, before) and trainer.state.step == 2


def test_choosing_what_to_decode_reads_nothing():
    masked = masks(2).nonzero()[:, 1].reshape(2, -1)
    with NoReading():
        assert running_cells(masked, (2, 4, 4), 0.5).shape == (2, NUM_MASKED // 2)


def log_step(trainer, step):
    """An update with a log step, which is started behind it and not finished."""
    lr, sums = step(is_log_step=True)
    trainer.step_log.start(trainer.state.step - 1, epoch=0, lr=lr, sums=sums, after_warmup=True)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_read_in_starting_a_log_step(case):
    step, trainer, batch = loop_of(case, CPU)
    with NoReading(batch.mask):
        log_step(trainer, step)
    record = trainer.step_log.finish()
    assert record["train/loss"] > 0 and ("train/cosine_predicted" in record) is (case != "finetune")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("case", CASES)
def test_a_log_step_is_read_behind_the_next_update(case):
    step, trainer, _ = loop_of(case, CUDA)
    log_step(trainer, step)
    trainer.step_log.finish()  # pinned memory is allocated
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        log_step(trainer, step)
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step_log.reads_late and trainer.step_log.finish()["train/loss"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_gpu(case):
    step, trainer, _ = loop_of(case, CUDA)
    step()  # libraries are loaded and the optimizer's state is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(trainer.backend.last_update_finite)
