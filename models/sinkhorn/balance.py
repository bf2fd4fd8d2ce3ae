"""Sinkhorn-Knopp: balanced assignment of samples to prototypes (arXiv 2407.15447, section 3).

Letters: G problems balanced side by side (the two branches), S samples (masked tokens of all clips), K prototypes.

The transport plan Q = diag(v) exp(scores / epsilon) diag(u) has rows that sum to 1 and columns of equal mass (arXiv
1306.0895, section 4.1). The textbook iteration rescales the columns and the rows in turn:

    Q = exp(scores / epsilon)
    repeat:  Q = Q / sum_s Q        every prototype gets the same mass over all samples of all ranks; changes u
             Q = Q / sum_k Q        every sample sums to 1; changes v

The second step makes each row a softmax, so neither Q nor v is kept:

    Q = softmax_k(scores / epsilon + log u)
    repeat:  log u = log u - log sum_s Q

An iteration reads the scores once (passes.py has the implementations), and ranks exchange only the K column sums. A
sample's code, argmax_k Q, is argmax_k(scores / epsilon + log u).

With several ranks problems take turns, where the sum over ranks can be begun and awaited later: while the sums of one
are on their way, the next one's pass runs.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from .passes import Passes, passes_over

AllReduce = Callable[[torch.Tensor], torch.Tensor]  # sum of a tensor over all ranks


@runtime_checkable
class AsyncAllReduce(Protocol):
    """An `AllReduce` that can also be begun. All ranks begin and call in the same order."""

    @property
    def num_ranks(self) -> int:
        """Ranks that are summed over."""

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum."""

    def start(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to sum; what is returned waits for the sum (on a GPU, its stream waits) and returns it.

        Until then the tensor must be left alone.
        """


@torch.no_grad()
def sinkhorn(
    scores: torch.Tensor, *, epsilon: float, num_iters: int, all_reduce: AllReduce | None = None
) -> torch.Tensor:
    """The plan: every sample sums to 1, every prototype gets equal mass over all ranks.

    Args:
        scores: (S, K) cosine similarities, or (G, S, K) for several problems that share the all-reduces; any float
            dtype, computed in float32.
        epsilon: entropy regularisation; smaller is harder.
        num_iters: iterations, at least 1.
        all_reduce: sum over ranks, called once an iteration; None for one process.

    Returns:
        float32 of the same shape.
    """
    scores_GSK = scores if scores.dim() == 3 else scores[None]
    log_u_GK = _log_u(passes_over(scores_GSK, epsilon), num_iters=num_iters, all_reduce=all_reduce)
    return torch.softmax(scores_GSK.float() / epsilon + log_u_GK[:, None], dim=-1).reshape(scores.shape)


@torch.no_grad()
def sinkhorn_codes(
    scores: torch.Tensor, *, epsilon: float, num_iters: int, all_reduce: AllReduce | None = None
) -> torch.Tensor:
    """(S,) or (G, S) int64: each sample's argmax in the plan of `sinkhorn`, which is not built."""
    scores_GSK = scores if scores.dim() == 3 else scores[None]
    if len(scores_GSK) > 1 and isinstance(all_reduce, AsyncAllReduce) and all_reduce.num_ranks > 1:
        problems = [passes_over(scores_GSK[g : g + 1], epsilon, by_turns=True) for g in range(len(scores_GSK))]
        log_u_G = _log_u_by_turns(problems, num_iters=num_iters, start=all_reduce.start)
        codes = [passes.codes(log_u_1K) for passes, log_u_1K in zip(problems, log_u_G, strict=True)]
        return torch.cat(codes)
    passes = passes_over(scores_GSK, epsilon)
    log_u_GK = _log_u(passes, num_iters=num_iters, all_reduce=all_reduce)
    return passes.codes(log_u_GK).reshape(scores.shape[:-1])


@torch.no_grad()
def balancing_offsets(scores_SK: torch.Tensor, *, epsilon: float, num_iters: int) -> torch.Tensor:
    """(K,) float32: with `epsilon * log u` added to the scores, a sample's code is the largest.

    These offsets, of some samples, also assign others: to the prototypes as these samples make them balanced.
    """
    return epsilon * _log_u(passes_over(scores_SK[None], epsilon), num_iters=num_iters, all_reduce=None)[0]


def _log_u(passes: Passes, *, num_iters: int, all_reduce: AllReduce | None) -> torch.Tensor:
    """(G, K), after the iterations."""
    reduce = all_reduce or (lambda marginal_GK: marginal_GK)
    log_u_GK = -_log(reduce(passes.initial_marginals()))
    for _ in range(num_iters - 1):
        log_u_GK = log_u_GK - _log(reduce(passes.column_marginals(log_u_GK)))
    return log_u_GK


def _log_u_by_turns(
    problems: list[Passes], *, num_iters: int, start: Callable[[torch.Tensor], Callable[[], torch.Tensor]]
) -> list[torch.Tensor]:
    """The same for problems of one each, (1, K), whose sums are on their way while the others' passes run."""
    totals = [start(passes.initial_marginals()) for passes in problems]
    log_u_G = [torch.zeros(())] * len(problems)
    for iteration in range(num_iters):
        for g, passes in enumerate(problems):
            log_total_1K = _log(totals[g]())
            log_u_G[g] = log_u_G[g] - log_total_1K if iteration else -log_total_1K
            if iteration < num_iters - 1:
                totals[g] = start(passes.column_marginals(log_u_G[g]))
    return log_u_G


def _log(total_GK: torch.Tensor) -> torch.Tensor:
    tiny = torch.finfo(total_GK.dtype).tiny  # keeps the log finite for a prototype far from every sample
    return total_GK.clamp_min(tiny).log().float()
