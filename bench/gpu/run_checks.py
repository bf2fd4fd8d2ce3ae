"""What a run relies on: loss scaling, no waits, prefetching, compiled blocks, resuming, DDP (see checks.py)."""

import io
from typing import Any

import torch

from bench.common import Cell
from bench.gpu.compare import NotHere, all_close, close, same_bits
from bench.gpu.copies import HostBatches, load_without_decoders
from bench.gpu.model_checks import CPU, batch_on, gradients, matmul_precision, tiny_step
from bench.gpu.part import Part
from bench.gpu.processes import in_processes
from bench.ours import OurStep
from engine.checkpointing.random_state import random_state, set_random_state
from engine.distributed.world import World, seed_everything, use_deterministic_algorithms

STEPS = 3


def parameters(step: OurStep) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in step.model.named_parameters()}


def fp16_scaler(device: torch.device) -> dict[str, float]:
    """Three steps in fp16 against float32 on the CPU; then a gradient that overflows: the update is skipped."""
    if device.type == "cpu":
        raise NotHere("fp16 is for GPUs")
    step, reference = tiny_step("pixel", device, "fp16"), tiny_step("pixel", CPU, "none")
    before = parameters(step)
    for _ in range(STEPS):
        loss, expected = step(batch_on(device, "pixel")), reference(batch_on(CPU, "pixel"))
    error = close(loss, expected, 1e-2, "loss after three steps in fp16")
    backend, after = step.backend, parameters(step)
    assert backend.pop_scaler_skips() < STEPS, "every step overflows"
    assert not torch.equal(before["encoder.blocks.0.mlp.fc1.weight"], after["encoder.blocks.0.mlp.fc1.weight"])
    scale = backend.scaler.get_scale()
    with backend.autocast():
        out = step.forward(backend.model, batch_on(device, "pixel"))
    backend.backward(out["loss"], update_freq=1)
    next(p for p in backend.parameters if p.grad is not None).grad.view(-1)[0] = torch.inf
    backend.step()
    same_bits(parameters(step), after, "weights after an update that overflowed")
    assert backend.pop_scaler_skips() == 1, "the skipped update is not counted"
    assert backend.scaler.get_scale() == scale / 2, "the loss scale is not halved"
    return {"loss error": error}


def no_wait(device: torch.device) -> dict[str, float]:
    """No step of any task makes the host wait for the GPU, once it has warmed up."""
    if device.type == "cpu":
        raise NotHere("there is nothing to wait for on a CPU")
    for task in ("dino", "mlp", "pixel", "finetune"):
        step, batch = tiny_step(task, device, "bf16"), batch_on(device, task)
        batch.mask = batch.mask.pin_memory()
        for _ in range(2):  # libraries are loaded, kernels compiled and the optimizer's state made
            step(batch)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(batch)
        except RuntimeError as error:
            raise AssertionError(f"a step of {task} waits for the GPU: {str(error).splitlines()[0]}") from error
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"tasks": 4}


def prefetching(device: torch.device) -> dict[str, float]:
    """The prefetcher's batches are those of `Batch.to`, with a busy GPU and memory that is used again at once."""
    if device.type == "cpu":
        raise NotHere("there is nothing to prefetch to on a CPU")
    load_without_decoders()
    from datasets.loading.loaders import DevicePrefetcher

    host = HostBatches(Cell("pixel", "mini", quick=True), clips=8, number=12, device=device)
    expected = [batch.to(device).clip.clone() for batch in host]
    busy = torch.randn(2048, 2048, device=device)
    number = 0
    for batch, clip in zip(DevicePrefetcher(host, device), expected, strict=True):  # type: ignore[arg-type]
        for _ in range(4):
            busy = torch.nn.functional.normalize(busy @ busy)  # the copy of the next batch runs beside this
        scratch = torch.full_like(batch.clip, number)  # noqa: F841  (overwrites memory that was given back too early)
        assert torch.equal(batch.clip, clip), f"batch {number} of the prefetcher differs"
        assert batch.mask.device.type == "cpu" and torch.equal(batch.label.cpu(), torch.arange(8))
        number += 1
    assert number == len(host)
    return {"batches": number}


def compiled_blocks(device: torch.device) -> dict[str, float]:
    """Loss and gradients of SIGMA-DINO, whose encoder, decoder and teacher are compiled, against those without."""
    batch = batch_on(device, "dino")
    plain, expected = gradients(tiny_step("dino", device, "none"), batch)
    compiled, found = gradients(tiny_step("dino", device, "none", compiled=True), batch)
    return {
        "loss error": close(compiled["loss"], plain["loss"], 1e-4, "loss of compiled blocks"),
        "gradient error": all_close(found, expected, 5e-3, "gradients of compiled blocks"),
    }


def captured_blocks(device: torch.device) -> dict[str, float]:
    """Blocks replayed as CUDA graphs: after three updates of two passes each, weights have the bits of plain ones."""
    if device.type == "cpu":
        raise NotHere("CUDA graphs are for GPUs")
    number = 0
    for task in ("mlp", "finetune"):
        batch, found = batch_on(device, task), []
        for captured in (False, True):
            step = tiny_step(task, device, "bf16", drop_path_rate=0.5)
            if captured:
                step.capture(len(batch.clip), copies=True)
            seed_everything(1, 0)
            for _ in range(STEPS):
                for _ in range(2):
                    with step.backend.autocast():
                        loss = step.forward(step.backend.model, batch)["loss"]
                    step.backend.backward(loss, update_freq=2)
                step.backend.step()
            found.append(parameters(step))
        same_bits(found[1], found[0], f"weights of {task} with captured blocks")
        number += len(found[0])
    return {"tensors": number}


def trained(world: World, part: Part) -> dict[str, torch.Tensor]:
    """In a process of its own: weights and loss after six steps, and after three, a checkpoint and three more.

    Random numbers are drawn in every step: stochastic depth, and dropout of the classifier.
    """
    del part
    use_deterministic_algorithms()  # before cuBLAS starts, which reads the environment then
    found = {}
    for task in ("mlp", "finetune"):
        options = {"drop_path_rate": 0.5, **({"fc_drop_rate": 0.5} if task == "finetune" else {})}
        batch = batch_on(world.device, task)
        whole, first, second = (tiny_step(task, world.device, "bf16", **options) for _ in range(3))
        seed_everything(1, 0)
        found[f"whole {task} loss"] = [whole(batch) for _ in range(2 * STEPS)][-1]
        seed_everything(1, 0)
        for _ in range(STEPS):
            first(batch)
        file = io.BytesIO()
        torch.save({**first.backend.training_state(), "rng": random_state(world.device)}, file)
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
        seed_everything(2, 0)
        second.backend.load_training_state(content)
        set_random_state(content["rng"], world.device)
        found[f"resumed {task} loss"] = [second(batch) for _ in range(STEPS)][-1]
        for kind, step in (("whole", whole), ("resumed", second)):
            found |= {f"{kind} {task} {name}": value for name, value in parameters(step).items()}
    return {name: tensor.cpu() for name, tensor in found.items()}


def resuming(device: torch.device) -> dict[str, float]:
    """With deterministic algorithms a resumed run has the bits of one that was not interrupted."""
    (found,) = in_processes("bench.gpu.run_checks:trained", Part("checks", device, True, None))
    whole, resumed = (
        {name.removeprefix(kind): tensor for name, tensor in found.items() if name.startswith(kind)}
        for kind in ("whole ", "resumed ")
    )
    same_bits(resumed, whole, "resumed")
    return {"tensors": len(whole)}


def averaged(world: World, part: Part, *, compiled: bool) -> dict[str, Any]:
    """In each rank: loss of its half of the batch, and the gradients that DDP has averaged."""
    del part
    step = OurStep(Cell("pixel", "mini", quick=True), world=world, amp="none", compiled=compiled)
    batch = batch_on(world.device, "pixel")
    half = slice(2 * world.rank, 2 * world.rank + 2)
    batch.clip, batch.mask = batch.clip[half], batch.mask[half]
    out, found = gradients(step, batch)
    return {"loss": out["loss"].detach().cpu(), **{name: gradient.cpu() for name, gradient in found.items()}}


def ddp_with_compiled_blocks(device: torch.device) -> dict[str, float]:
    """Two ranks of DDP with compiled blocks have the gradients of one process that has both halves of the batch."""
    step = tiny_step("pixel", device, "none")
    out, expected = gradients(step, batch_on(device, "pixel"))
    part = Part("checks", device, True, None)
    ranks = in_processes("bench.gpu.run_checks:averaged", part, ranks=2, group="gloo", compiled=True)
    losses = torch.stack([rank.pop("loss") for rank in ranks])
    same_bits(ranks[1], ranks[0], "gradients of the two ranks")
    with matmul_precision(device, "none"):
        return {
            "loss error": close(losses.mean(), out["loss"], 1e-4, "loss of two ranks"),
            "gradient error": all_close(ranks[0], expected, 1e-3, "gradients of two ranks"),
        }
