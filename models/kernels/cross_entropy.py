"""Cross-entropy of stored prototype scores with codes, and its error, in one launch. See sinkhorn/prototype_loss.py.

Letters: P programs, S samples, K prototypes.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from .rows import MAX_PROTOTYPES, empty_rows, in_rows, num_programs, row_options

# A power of two, so that it changes no digit: without it the smallest normal float16, 6e-5, would be that of a
# probability, and 6e-8 the smallest step; with it they are 3.7e-9 and 3.6e-12. Errors are at most 1.
ERROR_SCALE = 2.0**14
MAX_LOGIT_RANGE = 70.0  # exponentials over it, summed over a row, stay inside float32


@triton.jit(do_not_specialize=["num_samples"])
def _loss_kernel(
    scores_SK,
    code_S,
    loss_P,
    error_SK,
    num_samples,
    scale,
    error_scale,
    num_prototypes: tl.constexpr,
    row_stride: tl.constexpr,
    ROW_MAXIMUM: tl.constexpr,
    WRITE_ERROR: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program p of P sums log2(sum_k 2^(scale * score)) - scale * score[code] of rows p, p + P, ...

    With WRITE_ERROR it writes error_scale * (softmax - one-hot code), also over the scores themselves.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.arange(0, BLOCK_K)
    inside, readable = column < num_prototypes, column < row_stride
    loss = 0.0
    score = tl.load(scores_SK + program.to(tl.int64) * row_stride + column, mask=readable, other=-float("inf"))
    for row in range(program, num_samples, programs):
        # Nobody else writes this row or the next, and this program writes a row after the barriers of its sum, hence
        # after all its threads have read it. (The last row may be read in vain while another program writes it.)
        here = tl.minimum(row, num_samples - 1).to(tl.int64)  # the interpreter's rows are Python's integers
        code = tl.load(code_S + row)
        valid = (code >= 0) & (code < num_prototypes)
        code_score = tl.load(scores_SK + here * row_stride + code, mask=valid, other=float("nan")).to(tl.float32)
        following = tl.minimum(row + programs, num_samples - 1).to(tl.int64)
        following_score = tl.load(scores_SK + following * row_stride + column, mask=readable, other=-float("inf"))
        logit = score.to(tl.float32) * scale - scale  # cosine <= 1: at most 0; outside -inf, of weight 0
        if row_stride > num_prototypes:  # the padding may hold anything, also NaN
            logit = tl.where(inside, logit, -float("inf"))
        code_logit = code_score * scale - scale
        if ROW_MAXIMUM:
            largest = tl.max(logit, axis=0)
            logit -= largest
            code_logit -= largest
        weight = tl.exp2(logit)
        total = tl.sum(weight, axis=0)
        loss += tl.log2(total) - code_logit
        if WRITE_ERROR:
            error = weight * (error_scale / total) - tl.where(column == code, error_scale, 0.0)
            out = error_SK + here * row_stride + column
            tl.store(out, error.to(error_SK.dtype.element_ty), mask=readable)
        score = following_score
    tl.store(loss_P + program, loss)


def loss_options(scores_SK: torch.Tensor) -> dict[str, int]:
    """Constants of the kernel: twice the warps for the longest rows, or 128 registers a thread would not suffice."""
    options = row_options(scores_SK)
    if options["BLOCK_K"] == MAX_PROTOTYPES:
        options["num_warps"] *= 2
    return options


def cross_entropy(
    scores_SK: torch.Tensor, codes_S: torch.Tensor, *, temperature: float, error_SK: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy of softmax_k(score / temperature) with the codes, a float32 scalar; NaN if a score is NaN.

    Args:
        scores_SK: (S, K) cosines, K at most `rows.MAX_PROTOTYPES`, laid out as by `rows.in_rows`.
        codes_S: (S,) int64; one that is no column makes the loss NaN.
        temperature: of the softmax.
        error_SK: of the scores' shape and strides, or the scores themselves: filled, padding included, with
            ERROR_SCALE * (softmax - one-hot code). None: it is not computed.
    """
    samples = len(scores_SK)
    options = loss_options(scores_SK)
    programs = num_programs(samples, 1, options["BLOCK_K"], scores_SK.device)
    loss_P = torch.empty(programs, dtype=torch.float32, device=scores_SK.device)
    with torch.cuda.device_of(scores_SK):
        _loss_kernel[(programs,)](
            scores_SK,
            codes_S.contiguous(),
            loss_P,
            scores_SK if error_SK is None else error_SK,
            samples,
            math.log2(math.e) / temperature,
            ERROR_SCALE,
            ROW_MAXIMUM=2 / temperature > MAX_LOGIT_RANGE,
            WRITE_ERROR=error_SK is not None,
            **options,
        )
    return loss_P.sum() * (math.log(2) / samples)


def fused_cross_entropy(
    embeddings_SP: torch.Tensor,
    prototypes_KP: torch.Tensor,
    codes_S: torch.Tensor,
    scores_SK: torch.Tensor,
    *,
    temperature: float,
    overwrite_scores: bool = False,
) -> torch.Tensor:
    """`prototype_cross_entropy` of sinkhorn/prototype_loss.py from float16 scores; S at least 1."""
    scores_SK = in_rows(scores_SK)
    if torch.is_grad_enabled():
        tensors = (embeddings_SP, prototypes_KP, codes_S, scores_SK)
        return _FusedCrossEntropy.apply(*tensors, temperature, overwrite_scores)
    return cross_entropy(scores_SK, codes_S, temperature=temperature)


class _FusedCrossEntropy(torch.autograd.Function):
    """Computes both products of the error with the loss, so that it lives no longer; backward only scales them.

    With p the softmax and y the code's one-hot row, the gradients with respect to embeddings and prototypes are
    (p - y) W and (p - y)^T X, over temperature and samples. Each is one GEMM of float16 factors.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        embeddings_SP, prototypes_KP, codes_S, scores_SK, temperature, overwrite_scores = inputs
        product_SP = product_KP = error_SK = None
        if any(ctx.needs_input_grad[:2]):
            error_SK = scores_SK if overwrite_scores else _like(scores_SK)
        loss = cross_entropy(scores_SK, codes_S, temperature=temperature, error_SK=error_SK)
        if error_SK is not None:
            if ctx.needs_input_grad[0]:
                product_SP = _product(error_SK, prototypes_KP.to(error_SK.dtype))
            if ctx.needs_input_grad[1]:
                product_KP = _product(error_SK.T, embeddings_SP.to(error_SK.dtype))
        ctx.save_for_backward(product_SP, product_KP)
        ctx.scale = 1 / (ERROR_SCALE * temperature * len(scores_SK))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        factor = grad_loss * ctx.scale
        embeddings, prototypes = (None if product is None else product * factor for product in ctx.saved_tensors)
        return embeddings, prototypes, None, None, None, None


def _like(scores_SK: torch.Tensor) -> torch.Tensor:
    if scores_SK.stride(0) == scores_SK.shape[1]:  # a single padded row is contiguous too, for torch
        return torch.empty_like(scores_SK)
    return empty_rows(scores_SK, *scores_SK.shape, dtype=scores_SK.dtype)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """float32 product of float16 matrices.

    With a float32 result cuBLAS also adds up partial sums in float32, whatever
    `torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction` says: it is about results of lower precision.
    """
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()  # only CUDA has the former
