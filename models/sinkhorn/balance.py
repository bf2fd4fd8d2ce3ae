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
"""

from collections.abc import Callable

import torch

from .passes import Passes, passes_over

AllReduce = Callable[[torch.Tensor], torch.Tensor]  # sum of a tensor over all ranks


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
    passes = passes_over(scores if scores.dim() == 3 else scores[None], epsilon)
    log_u_GK = _log_u(passes, num_iters=num_iters, all_reduce=all_reduce)
    return passes.codes(log_u_GK).reshape(scores.shape[:-1])


def _log_u(passes: Passes, *, num_iters: int, all_reduce: AllReduce | None) -> torch.Tensor:
    """(G, K), after the iterations."""

    def log_total(marginal_GK: torch.Tensor) -> torch.Tensor:
        total_GK = all_reduce(marginal_GK) if all_reduce else marginal_GK  # the only communication between ranks
        tiny = torch.finfo(total_GK.dtype).tiny  # keeps the log finite for a prototype far from every sample
        return total_GK.clamp_min(tiny).log().float()

    log_u_GK = -log_total(passes.initial_marginals())
    for _ in range(num_iters - 1):
        log_u_GK = log_u_GK - log_total(passes.column_marginals(log_u_GK))
    return log_u_GK
