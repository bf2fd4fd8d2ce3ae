"""Sinkhorn's passes over the scores on CUDA, each a single launch for all problems. See models/sinkhorn/passes.py.

A row of scores stays in the registers of one thread block: it is read once, in its own precision, and everything else
is float32. A fixed number of programs divides the rows among them; each sums its own and torch adds up the partial
sums, so the result is deterministic.
"""

import torch
import triton
import triton.language as tl

COLUMNS_PER_WARP = 1024  # 32 per thread, at which `_marginal_kernel` takes some 110 registers (ptxas for sm_90)
RESIDENT_WARPS = 16  # that a multiprocessor has the registers for


@triton.jit(do_not_specialize=["num_samples"])  # the last batch may be smaller: do not recompile for it
def _marginal_kernel(
    scores_GSK,
    log_u_GK,
    marginal_GPK,
    num_samples,
    num_prototypes: tl.constexpr,
    inverse_epsilon,
    SOFTMAX: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program p of P sums rows p, p + P, ... of its problem: their softmax, or without SOFTMAX their exponential."""
    program, problem, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    column = tl.arange(0, BLOCK_K)
    inside = column < num_prototypes
    log_u = tl.load(log_u_GK + problem * num_prototypes + column, mask=inside, other=0.0)
    first = scores_GSK + problem.to(tl.int64) * num_samples * num_prototypes + column
    marginal = tl.zeros([BLOCK_K], dtype=tl.float32)
    score = tl.load(first + program.to(tl.int64) * num_prototypes, mask=inside, other=0.0)
    for row in range(program, num_samples, programs):
        following = tl.minimum(row + programs, num_samples - 1).to(tl.int64)  # loaded while this row is computed
        following_score = tl.load(first + following * num_prototypes, mask=inside, other=0.0)
        logit = tl.where(inside, score.to(tl.float32) * inverse_epsilon + log_u, -float("inf"))
        if SOFTMAX:
            weight = tl.exp(logit - tl.max(logit, axis=0))
            marginal += weight * (1.0 / tl.sum(weight, axis=0))
        else:
            marginal += tl.exp(logit)
        score = following_score
    tl.store(marginal_GPK + (problem * programs + program) * num_prototypes + column, marginal, mask=inside)


@triton.jit(do_not_specialize=["num_samples"])
def _code_kernel(
    scores_GSK, log_u_GK, code_GS, num_samples, num_prototypes: tl.constexpr, inverse_epsilon, BLOCK_K: tl.constexpr
):
    """One program per row: the column of its largest logit."""
    problem = tl.program_id(1)
    row = problem.to(tl.int64) * num_samples + tl.program_id(0)
    column = tl.arange(0, BLOCK_K)
    inside = column < num_prototypes
    score = tl.load(scores_GSK + row * num_prototypes + column, mask=inside, other=0.0).to(tl.float32)
    log_u = tl.load(log_u_GK + problem * num_prototypes + column, mask=inside, other=0.0)
    logit = tl.where(inside, score * inverse_epsilon + log_u, -float("inf"))
    code = tl.minimum(tl.argmax(logit, axis=0), num_prototypes - 1)  # a row of NaN must not point outside
    tl.store(code_GS + row, code.to(tl.int64))


class TritonPasses:
    """`passes.Passes` by these kernels, in float32, for an epsilon at which exponentials do not underflow there."""

    def __init__(self, scores_GSK: torch.Tensor, epsilon: float) -> None:
        self.scores_GSK = scores_GSK.contiguous()
        self.epsilon = epsilon
        groups, samples, prototypes = scores_GSK.shape
        block = triton.next_power_of_2(prototypes)
        warps = max(4, block // COLUMNS_PER_WARP)
        self.options = {"BLOCK_K": block, "num_warps": warps}
        resident = _num_processors(scores_GSK.device) * RESIDENT_WARPS // warps
        self.programs = min(samples, max(1, resident // groups))

    def initial_marginals(self) -> torch.Tensor:
        groups, _, prototypes = self.scores_GSK.shape
        shift_GK = self.scores_GSK.new_full((groups, prototypes), -1 / self.epsilon, dtype=torch.float32)
        return self._marginals(shift_GK, softmax=False)  # cosine <= 1: every exponential is at most 1

    def column_marginals(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        return self._marginals(log_u_GK, softmax=True)

    def _marginals(self, log_u_GK: torch.Tensor, *, softmax: bool) -> torch.Tensor:
        groups, samples, prototypes = self.scores_GSK.shape
        if not samples:
            return torch.zeros_like(log_u_GK)
        marginal_GPK = log_u_GK.new_empty(groups, self.programs, prototypes)
        with torch.cuda.device_of(self.scores_GSK):
            _marginal_kernel[(self.programs, groups)](
                self.scores_GSK,
                log_u_GK.contiguous(),
                marginal_GPK,
                samples,
                prototypes,
                1 / self.epsilon,
                SOFTMAX=softmax,
                **self.options,
            )
        return marginal_GPK.sum(dim=1)

    def codes(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        groups, samples, prototypes = self.scores_GSK.shape
        code_GS = torch.empty(groups, samples, dtype=torch.int64, device=self.scores_GSK.device)
        if samples:
            with torch.cuda.device_of(self.scores_GSK):
                _code_kernel[(samples, groups)](
                    self.scores_GSK,
                    log_u_GK.contiguous(),
                    code_GS,
                    samples,
                    prototypes,
                    1 / self.epsilon,
                    **self.options,
                )
        return code_GS


def _num_processors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return 2  # Triton's interpreter, in tests
