"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: into the encoder, and out of it again."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from engine.checkpointing.adapters import merge
from engine.errors import CheckpointError, ConfigError
from models.classifier import Classifier

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # of a block: all its matrices
MERGED_WITHIN = 1e-4  # of the largest output; rounding in float32 makes about 1e-6

logger = logging.getLogger(__name__)


def add_adapters(model: Classifier, rank: int) -> None:
    """Add adapters to the blocks that are not frozen, and train them, `fc_norm` and `head` alone.

    A layer's W becomes W + B A, where B is zero at first, so that outputs are those of the weights that were loaded.
    The scale `lora_alpha / rank` is 1: another one would act as another learning rate (section 4.1 of the paper).

    Raises:
        ConfigError: the rank is above the model's width; or all blocks are frozen.
    """
    from peft import LoraConfig, inject_adapter_in_model  # optional, and seconds to import

    depth, frozen = len(model.blocks), model.num_frozen_blocks
    if rank > model.embed_dim:
        raise ConfigError(f"--lora_rank {rank}: the model is {model.embed_dim} wide: choose a rank far below that")
    if frozen == depth:
        raise ConfigError(
            f"--lora_rank {rank}: --freeze_blocks {frozen} leaves no block for adapters: freeze fewer, or use "
            "--linear_probing"
        )
    names = [f"blocks.{number}.{layer}" for number in range(frozen, depth) for layer in LAYERS]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), model)
    for part in (model.fc_norm, model.head):
        if part is not None:
            part.requires_grad_(True)


def merge_adapters(model: nn.Module) -> None:
    """Replace adapters by the weights that they stand for, those of a checkpoint, in place."""
    weights, parts = merge(model.state_dict())
    layers = {name.partition(".base_layer.")[0] for name in parts if ".base_layer." in name}
    for name in layers:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, model.get_submodule(name).base_layer)
    model.load_state_dict(weights)


@torch.no_grad()
def merge_checked(models: Mapping[str, nn.Module], loader: Iterable[Any], *, clips: int) -> None:
    """`merge_adapters` of trained models, after which each has to say the same of the loader's first clips.

    Args:
        models: by the suffix of their results.
        loader: of the list that is tested; the share of a rank may be empty.
        clips: at most so many.

    Raises:
        CheckpointError: a model says something else.
    """
    batches = list(itertools.islice(loader, 1))
    for suffix, model in models.items():
        device = next(model.parameters()).device
        with _in_float32():
            shown = [batch.to(device).clip[:clips] for batch in batches]
            before = [model.eval()(clip) for clip in shown]
            merge_adapters(model)
            after = [model(clip) for clip in shown]
        for one, other in zip(before, after, strict=True):
            _check_same(f"model{suffix}", one, other)


@contextmanager
def _in_float32() -> Iterator[None]:
    """Without TF32, and without compiling, which would take longer than the few clips."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _check_same(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
    error, size = (after - before).abs().max().item(), before.abs().max().item()
    if not error <= MERGED_WITHIN * size:
        raise CheckpointError(
            f"{name}: with its adapters merged it has other outputs, by {error:.3g} of {size:.3g}: the checkpoints of "
            "this run are not usable; please report it, with the versions of torch and peft"
        )
    logger.info("%s: adapters merged: outputs for %d clips differ by %.1g of %.3g", name, len(before), error, size)
