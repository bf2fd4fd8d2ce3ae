"""Cross-entropy over prototypes: never a second array of the scores' size, forward or backward.

In blocks of rows, or, where Triton kernels run, from the float16 scores that Sinkhorn has used: one launch computes the
loss and puts the error, softmax - one-hot code, in their place, and one GEMM gives each gradient. Against float64 the
rounding of the scores moves the loss by parts in 10^7 and the gradients by parts in 10^4, no more than TF32 does.

Letters: G arrays of samples, S samples, K prototypes, P embedding width, R rows of a block.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..kernels.rows import MAX_PROTOTYPES, empty_rows
from ..kernels.support import is_for_kernels, is_on_gpu, use_kernels


def prototype_scores(embeddings: tuple[torch.Tensor, ...], prototypes_KP: torch.Tensor) -> torch.Tensor:
    """Cosines for Sinkhorn, without gradient: (G, S, K) of G arrays (S, P) of unit rows and prototypes of unit rows.

    float16 on CUDA, for half the memory and bandwidth (bfloat16 is several times coarser), in rows that the kernels can
    load in whole vectors; else float32.
    """
    shape = (len(embeddings), len(embeddings[0]), len(prototypes_KP))
    half = is_for_kernels(prototypes_KP.device)
    dtype = torch.float16 if half else torch.float32
    with torch.no_grad():
        scores_GSK = (
            empty_rows(prototypes_KP, *shape, dtype=dtype) if half else prototypes_KP.new_empty(shape, dtype=dtype)
        )
        for embeddings_SP, scores_SK in zip(embeddings, scores_GSK, strict=True):
            torch.mm(embeddings_SP.to(dtype), prototypes_KP.to(dtype).T, out=scores_SK)
    return scores_GSK


def prototype_cross_entropy(
    embeddings_SP: torch.Tensor,
    prototypes_KP: torch.Tensor,
    codes_S: torch.Tensor,
    *,
    temperature: float,
    scores_SK: torch.Tensor | None = None,
    overwrite_scores: bool = False,
) -> torch.Tensor:
    """Mean cross-entropy of softmax_k(embedding . prototype / temperature) with the codes, a float32 scalar.

    Args:
        embeddings_SP: (S, P) float32.
        prototypes_KP: (K, P) float32; detached, they get no gradient and none is computed.
        codes_S: (S,) int64.
        temperature: of the softmax.
        scores_SK: (S, K) cosines `embeddings_SP @ prototypes_KP.T`, if already computed: in float32, or in the float16
            of `prototype_scores` where Triton kernels run, they save a matrix multiplication. In another precision
            they are ignored, because its rounding would enter the loss.
        overwrite_scores: the scores are not needed any more; float16 ones may then hold anything afterwards, and no
            second array of their size is allocated.
    """
    if scores_SK is not None and _fused(scores_SK):
        from ..kernels.cross_entropy import fused_cross_entropy  # here, because PyTorch installs Triton for CUDA only

        return fused_cross_entropy(
            embeddings_SP,
            prototypes_KP,
            codes_S,
            scores_SK,
            temperature=temperature,
            overwrite_scores=overwrite_scores,
        )
    if scores_SK is not None and scores_SK.dtype != embeddings_SP.dtype:
        scores_SK = None
    tensors = (embeddings_SP, prototypes_KP, codes_S, scores_SK)
    if torch.is_grad_enabled():
        return _PrototypeCrossEntropy.apply(*tensors, temperature)
    return _loss_and_gradients(*tensors, temperature, needs_grad=(False, False))[0]


def soft_cross_entropy(
    embeddings_SP: torch.Tensor, prototypes_KP: torch.Tensor, plan_SK: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Mean cross-entropy of softmax_k(embedding . prototype / temperature) with the rows of a plan, a float32 scalar.

    Unlike the rest of this file it keeps arrays of the scores' size for the backward pass.

    Args:
        embeddings_SP, prototypes_KP, temperature: see `prototype_cross_entropy`.
        plan_SK: (S, K) float32, rows that sum to 1.
    """
    logits_SK = (embeddings_SP / temperature) @ prototypes_KP.T
    return -(plan_SK * torch.log_softmax(logits_SK, dim=1)).sum(dim=1).mean()


def _fused(scores_SK: torch.Tensor) -> bool:
    """Whether the loss is computed from these scores by the kernel."""
    return (
        scores_SK.dtype == torch.float16
        and len(scores_SK) > 0
        and scores_SK.shape[1] <= MAX_PROTOTYPES
        and use_kernels(scores_SK.device)
    )


class _PrototypeCrossEntropy(torch.autograd.Function):
    """Computes the gradients with the loss, while a block's softmax exists; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        loss, *gradients = _loss_and_gradients(*inputs, needs_grad=ctx.needs_input_grad[:2])
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        embeddings, prototypes = (None if g is None else g * grad_loss for g in ctx.saved_tensors)
        return embeddings, prototypes, None, None, None


def _loss_and_gradients(
    embeddings_SP: torch.Tensor,
    prototypes_KP: torch.Tensor,
    codes_S: torch.Tensor,
    scores_SK: torch.Tensor | None,
    temperature: float,
    *,
    needs_grad: tuple[bool, bool],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The loss, and its gradients with respect to embeddings and prototypes where needed.

    With p the softmax and y the code's one-hot row, they are (p - y) W and (p - y)^T X, over temperature and samples.
    """
    rows = 2048 if is_on_gpu(embeddings_SP) else 256  # large enough for GEMM throughput, small enough for the cache
    scale = 1 / (temperature * len(embeddings_SP))
    loss = embeddings_SP.new_zeros(())
    grad_SP = torch.empty_like(embeddings_SP) if needs_grad[0] else None
    grad_KP = torch.zeros_like(prototypes_KP) if needs_grad[1] else None
    for start in range(0, len(embeddings_SP), rows):
        block = slice(start, start + rows)
        code_R1 = codes_S[block, None]
        if scores_SK is None:
            logits_RK = (embeddings_SP[block] / temperature) @ prototypes_KP.T
        else:
            logits_RK = scores_SK[block] / temperature
        log_p_RK = torch.log_softmax(logits_RK, dim=1)
        loss -= log_p_RK.gather(1, code_R1).sum()
        error_RK = log_p_RK.exp_().scatter_add_(1, code_R1, log_p_RK.new_full(code_R1.shape, -1.0))
        if grad_SP is not None:
            torch.mm(error_RK, prototypes_KP, out=grad_SP[block]).mul_(scale)
        if grad_KP is not None:
            grad_KP.addmm_(error_RK.T, embeddings_SP[block], alpha=scale)
    return loss / len(embeddings_SP), grad_SP, grad_KP
