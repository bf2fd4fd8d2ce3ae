"""Sinkhorn's passes over the scores on CUDA, each a single launch for all problems. See models/sinkhorn/passes.py.

Each program sums the rows it has (rows.py), and torch adds up the partial sums. Exponents are in base 2, because the
hardware's exponential is: log2(e) is part of the scale and of log u.

Letters: G problems balanced side by side, P programs, S samples, K prototypes.
"""

import math

import torch
import triton
import triton.language as tl

from .rows import in_rows, num_programs, row_options

LOG2_E = math.log2(math.e)


@triton.jit(do_not_specialize=["num_samples"])  # the last batch may be smaller: do not recompile for it
def _exponential_kernel(
    scores_GSK,
    total_GPK,
    peak_GPK,
    num_samples,
    scale,
    num_prototypes: tl.constexpr,
    row_stride: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program p of P sums 2^(scale * score) of rows p, p + P, ...: the sum is total * 2^peak.

    `peak` is `scale`, which with cosines no exponent exceeds, or with WIDE the column's largest so far.
    """
    program, problem, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    column = tl.arange(0, BLOCK_K)
    readable = column < row_stride
    first = scores_GSK + problem.to(tl.int64) * num_samples * row_stride + column
    total = tl.zeros([BLOCK_K], dtype=tl.float32)
    peak = tl.full([BLOCK_K], -float("inf"), dtype=tl.float32)
    score = tl.load(first + program.to(tl.int64) * row_stride, mask=readable, other=0.0)
    for row in range(program, num_samples, programs):
        following = tl.minimum(row + programs, num_samples - 1).to(tl.int64)  # loaded while this row is computed
        following_score = tl.load(first + following * row_stride, mask=readable, other=0.0)
        if WIDE:
            exponent = score.to(tl.float32) * scale
            larger = exponent > peak
            ratio = tl.exp2(-tl.abs(exponent - peak))
            total = tl.where(larger, total * ratio + 1.0, total + ratio)
            peak = tl.where(larger, exponent, peak)
        else:
            total += tl.exp2(score.to(tl.float32) * scale - scale)
        score = following_score
    out = (problem * programs + program) * num_prototypes + column
    inside = column < num_prototypes
    tl.store(total_GPK + out, total, mask=inside)
    if WIDE:
        tl.store(peak_GPK + out, peak, mask=inside)


@triton.jit(do_not_specialize=["num_samples"])
def _marginal_kernel(
    scores_GSK,
    log_u_GK,
    marginal_GPK,
    num_samples,
    scale,
    log2_e,
    num_prototypes: tl.constexpr,
    row_stride: tl.constexpr,
    ROW_MAXIMUM: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program p of P sums the softmax of rows p, p + P, ... of its problem.

    A row's largest logit is subtracted from it with ROW_MAXIMUM, else only the largest log u, once for all rows.
    """
    program, problem, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    column = tl.arange(0, BLOCK_K)
    inside, readable = column < num_prototypes, column < row_stride
    log_u = tl.load(log_u_GK + problem * num_prototypes + column, mask=inside, other=-float("inf"))
    log_u = (log_u - tl.max(log_u, axis=0)) * log2_e  # outside -inf, whatever the score: of weight 0
    first = scores_GSK + problem.to(tl.int64) * num_samples * row_stride + column
    marginal = tl.zeros([BLOCK_K], dtype=tl.float32)
    score = tl.load(first + program.to(tl.int64) * row_stride, mask=readable, other=0.0)
    for row in range(program, num_samples, programs):
        following = tl.minimum(row + programs, num_samples - 1).to(tl.int64)
        following_score = tl.load(first + following * row_stride, mask=readable, other=0.0)
        logit = score.to(tl.float32) * scale + log_u
        if row_stride > num_prototypes:  # the padding may hold anything, also NaN
            logit = tl.where(inside, logit, -float("inf"))
        if ROW_MAXIMUM:
            logit -= tl.max(logit, axis=0)
        weight = tl.exp2(logit)
        marginal += weight * (1.0 / tl.sum(weight, axis=0))
        score = following_score
    tl.store(marginal_GPK + (problem * programs + program) * num_prototypes + column, marginal, mask=inside)


@triton.jit(do_not_specialize=["num_samples"])
def _code_kernel(
    scores_GSK,
    log_u_GK,
    code_GS,
    num_samples,
    inverse_epsilon,
    num_prototypes: tl.constexpr,
    row_stride: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program p of P finds the columns of the largest logits of rows p, p + P, ... of its problem."""
    program, problem, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    column = tl.arange(0, BLOCK_K)
    inside, readable = column < num_prototypes, column < row_stride
    log_u = tl.load(log_u_GK + problem * num_prototypes + column, mask=inside, other=-float("inf"))
    first = scores_GSK + problem.to(tl.int64) * num_samples * row_stride + column
    score = tl.load(first + program.to(tl.int64) * row_stride, mask=readable, other=0.0)
    for row in range(program, num_samples, programs):
        following = tl.minimum(row + programs, num_samples - 1).to(tl.int64)
        following_score = tl.load(first + following * row_stride, mask=readable, other=0.0)
        logit = score.to(tl.float32) * inverse_epsilon + log_u
        if row_stride > num_prototypes:
            logit = tl.where(inside, logit, -float("inf"))
        code = tl.minimum(tl.argmax(logit, axis=0), num_prototypes - 1)  # a row of NaN must not point outside
        tl.store(code_GS + problem.to(tl.int64) * num_samples + row, code.to(tl.int64))
        score = following_score


class TritonPasses:
    """`passes.Passes` by these kernels, in float32.

    Args:
        scores_GSK: (G, S, K), K at most `rows.MAX_PROTOTYPES`.
        epsilon: of the plan.
        wide: for an epsilon at which exponentials over the whole range of cosines do not fit into float32. Then each
            row's largest logit is subtracted from it, and `initial_marginals` are float64.
        by_turns: leave room for a reduction that runs beside a pass.
    """

    def __init__(self, scores_GSK: torch.Tensor, epsilon: float, *, wide: bool, by_turns: bool = False) -> None:
        self.scores_GSK = in_rows(scores_GSK)
        self.epsilon = epsilon
        self.wide = wide
        self.options = row_options(self.scores_GSK)
        groups, samples, _ = scores_GSK.shape
        block = self.options["BLOCK_K"]
        self.programs = num_programs(samples, groups, block, scores_GSK.device, leave_room=by_turns)

    def _partial_GPK(self) -> torch.Tensor:
        groups, _, prototypes = self.scores_GSK.shape
        return self.scores_GSK.new_empty(groups, self.programs, prototypes, dtype=torch.float32)

    def initial_marginals(self) -> torch.Tensor:
        groups, samples, prototypes = self.scores_GSK.shape
        if not samples:
            dtype = torch.float64 if self.wide else torch.float32
            return self.scores_GSK.new_zeros(groups, prototypes, dtype=dtype)
        scale = LOG2_E / self.epsilon
        total_GPK = self._partial_GPK()
        peak_GPK = torch.empty_like(total_GPK) if self.wide else total_GPK
        with torch.cuda.device_of(self.scores_GSK):
            _exponential_kernel[(self.programs, groups)](
                self.scores_GSK, total_GPK, peak_GPK, samples, scale, WIDE=self.wide, **self.options
            )
        if self.wide:
            return (total_GPK.double() * (peak_GPK.double() - scale).exp2()).sum(dim=1)
        return total_GPK.sum(dim=1)

    def column_marginals(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        groups, samples, _ = self.scores_GSK.shape
        if not samples:
            return torch.zeros_like(log_u_GK)
        marginal_GPK = self._partial_GPK()
        with torch.cuda.device_of(self.scores_GSK):
            _marginal_kernel[(self.programs, groups)](
                self.scores_GSK,
                log_u_GK.contiguous(),
                marginal_GPK,
                samples,
                LOG2_E / self.epsilon,
                LOG2_E,
                ROW_MAXIMUM=self.wide,
                **self.options,
            )
        return marginal_GPK.sum(dim=1)

    def codes(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        groups, samples, _ = self.scores_GSK.shape
        code_GS = torch.empty(groups, samples, dtype=torch.int64, device=self.scores_GSK.device)
        if samples:
            with torch.cuda.device_of(self.scores_GSK):
                _code_kernel[(self.programs, groups)](
                    self.scores_GSK, log_u_GK.contiguous(), code_GS, samples, 1 / self.epsilon, **self.options
                )
        return code_GS
