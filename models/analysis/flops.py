"""Floating-point operations of training on a clip, from the sizes of the networks.

Letters: N tokens = V visible + M masked, D encoder width, E decoder width, P embedding width, K prototypes.

Counts matrix multiplications, a multiply-add as two operations. The backward pass has two for each of the forward pass,
the gradients of the weights and of the input; each counts only where it is needed. Norms, softmax, Sinkhorn, optical
flow and the recomputation of `--use_checkpoint` are not counted: these are model FLOPs, not hardware FLOPs (arXiv
2204.02311, appendix B).
"""

import math
from typing import Any

from torch import nn

from ..classifier import Classifier
from ..sigma import Sigma
from ..teachers import FrozenTeacher
from ..tokens import num_chosen


def pretraining_flops(
    model: Sigma, *, num_masked: int, num_masks: int = 1, teacher: FrozenTeacher | None = None
) -> float:
    """Operations of one clip: forward and backward pass of the model for each mask, one forward pass of the teacher."""
    encoder, decoder = model.encoder, model.decoder
    num_tokens = encoder.num_tokens
    num_visible = num_tokens - num_masked
    num_decoded = num_chosen(num_masked, model.decoder_mask_ratio)
    embedding = _linear(num_visible, math.prod(encoder.tubelet) * 3, encoder.embed_dim)
    passes = _blocks(encoder.blocks, num_visible, encoder.embed_dim)
    passes += _linear(num_visible, encoder.embed_dim, decoder.head.in_features)
    passes += _blocks(decoder.blocks, num_visible + num_decoded, decoder.head.in_features)
    passes += _linear(num_decoded, decoder.head.in_features, decoder.head.out_features)
    total = 2 * embedding + 3 * passes  # pixels need no gradient
    trains = any(parameter.requires_grad for parameter in model.head.parameters())
    layers = [
        _linear(num_decoded, m.in_features, m.out_features) for m in model.head.modules() if isinstance(m, nn.Linear)
    ]
    total += 3 * sum(layers) - layers[0] if trains else sum(layers)
    if model.prototypes is not None:
        # The prediction is compared with a detached copy; the prototypes learn from the other branch.
        num_prototypes = getattr(model.prototypes, "ds_shape", model.prototypes.shape)[0]  # empty under ZeRO-3
        total += (5 if trains else 4) * _linear(num_decoded, decoder.head.out_features, num_prototypes)
    return num_masks * total + (0 if teacher is None else teacher_flops(teacher))


def teacher_flops(teacher: FrozenTeacher) -> float:
    """Operations of the forward passes over one clip."""
    network = teacher.network
    num_patches = teacher.num_pass_tokens - getattr(network, "num_prefix_tokens", 0)
    embedding = _linear(num_patches, network.patch_embed.proj.weight[0].numel(), network.embed_dim)
    return teacher.num_passes * (embedding + _blocks(network.blocks, teacher.num_pass_tokens, network.embed_dim))


def classifier_flops(model: Classifier) -> float:
    """Operations of one clip in training: of frozen parts those of their forward pass alone."""
    num_tokens, dim = model.num_tokens, model.embed_dim
    embedding = _linear(num_tokens, math.prod(model.tubelet) * 3, dim)
    blocks = _blocks(model.blocks, num_tokens, dim)
    head = 3 * _linear(1, dim, model.head.out_features)
    if model.backbone_frozen:
        return head + embedding + blocks
    frozen = model.num_frozen_blocks / len(model.blocks)
    trained = (3 - 2 * frozen) * blocks
    adapters = [tuple(p.shape) for name, p in model.blocks.named_parameters() if ".lora_" in name]
    if not adapters:
        return head + (1 if frozen else 2) * embedding + trained
    # The weights themselves need no gradients, and neither does the input of the first layer with an adapter.
    weights = blocks - len(model.blocks) * 2 * _linear(num_tokens, dim, num_tokens)
    unneeded = (1 - frozen) * weights + _linear(num_tokens, dim, 3 * dim + adapters[0][0])
    return head + embedding + trained - unneeded + 3 * sum(_linear(num_tokens, *shape) for shape in adapters)


def _linear(num_rows: int, in_dim: int, out_dim: int) -> float:
    return 2.0 * num_rows * in_dim * out_dim


def _blocks(blocks: nn.ModuleList | nn.Sequential, num_tokens: int, dim: int) -> float:
    """Forward pass of a transformer: with a hidden width of 4 d, 24 d^2 + 4 N d for a token and block."""
    block: Any = blocks[0]  # one of ours or timm's, whose MLP may be gated
    layers = [layer for name, layer in block.mlp.named_modules() if "lora_" not in name]
    hidden = [layer for layer in layers if isinstance(layer, nn.Linear)]
    linear = 4 * _linear(num_tokens, dim, dim)
    linear += sum(_linear(num_tokens, layer.in_features, layer.out_features) for layer in hidden)
    attention = 2 * _linear(num_tokens, dim, num_tokens)
    return len(blocks) * (linear + attention)
