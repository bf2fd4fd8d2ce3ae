"""Sinkhorn-Knopp: balanced assignment of samples to prototypes.

Letters: S samples (masked tokens of all clips), K prototypes.

The plan that balances E = exp(scores / epsilon) is diag(v) E diag(u) (arXiv 1306.0895, section 4.1). An iteration gives
every prototype the same mass, over all ranks, by a change of u, then every sample mass 1 by a change of v. The second
step makes each row a softmax, so v never has to be stored: the plan is softmax_k(scores / epsilon + log u), and a
sample's code is the argmax of the same expression. Only u, K numbers, is passed between iterations and between ranks.
"""

from collections.abc import Callable

import torch

MAX_RANGE = 70.0  # of scores / epsilon: products of exponentials over it, times the samples, stay inside float32
AllReduce = Callable[[torch.Tensor], torch.Tensor]  # sum of a tensor over all ranks


def _identity(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _log_scaling(logits_SK: torch.Tensor, *, num_iters: int, all_reduce: AllReduce) -> torch.Tensor:
    """log u, (K,), by two matrix-vector products an iteration; for logits above -MAX_RANGE.

    u is brought back to a maximum of 1 each time: a common factor changes nothing, but would grow with every iteration.
    """
    kernel_SK = logits_SK.exp()
    mass_K = all_reduce(kernel_SK.sum(dim=0))
    for _ in range(num_iters - 1):
        u_K = mass_K.min() / mass_K
        mass_K = all_reduce((kernel_SK @ u_K).reciprocal() @ kernel_SK)  # the only line that talks to other ranks
    return -mass_K.log()


def _log_scaling_small_epsilon(logits_SK: torch.Tensor, *, num_iters: int, all_reduce: AllReduce) -> torch.Tensor:
    """The same by a softmax an iteration, which no range of the logits makes overflow, at several times the cost."""
    tiny = torch.finfo(logits_SK.dtype).tiny  # a prototype that no sample is near: keeps the logarithm finite
    log_u_K = -all_reduce(logits_SK.exp().sum(dim=0)).clamp_min(tiny).log()
    for _ in range(num_iters - 1):
        mass_K = all_reduce(torch.softmax(logits_SK + log_u_K, dim=1).sum(dim=0))
        log_u_K = log_u_K - mass_K.clamp_min(tiny).log()
    return log_u_K


def _balanced_logits(
    scores_SK: torch.Tensor, *, epsilon: float, num_iters: int, all_reduce: AllReduce | None
) -> torch.Tensor:
    logits_SK = (scores_SK.float() - 1) / epsilon  # cosine <= 1: exp cannot overflow, and every rank shifts by the same
    log_scaling = _log_scaling if 2 / epsilon <= MAX_RANGE else _log_scaling_small_epsilon
    return logits_SK + log_scaling(logits_SK, num_iters=num_iters, all_reduce=all_reduce or _identity)


@torch.no_grad()
def sinkhorn(
    scores_SK: torch.Tensor, *, epsilon: float, num_iters: int, all_reduce: AllReduce | None = None
) -> torch.Tensor:
    """Balanced soft assignment: every sample sums to 1, every prototype gets equal mass over all ranks.

    Args:
        scores_SK: (S, K) cosine similarities, any float dtype; computed in float32.
        epsilon: entropy regularisation; smaller is harder.
        num_iters: iterations, at least 1.
        all_reduce: sum over ranks; None for one process.

    Returns:
        (S, K) float32.
    """
    logits = _balanced_logits(scores_SK, epsilon=epsilon, num_iters=num_iters, all_reduce=all_reduce)
    return torch.softmax(logits, dim=1)


@torch.no_grad()
def sinkhorn_codes(
    scores_SK: torch.Tensor, *, epsilon: float, num_iters: int, all_reduce: AllReduce | None = None
) -> torch.Tensor:
    """(S,) int64: each sample's prototype with the largest share in `sinkhorn`'s plan, without building the plan."""
    return _balanced_logits(scores_SK, epsilon=epsilon, num_iters=num_iters, all_reduce=all_reduce).argmax(dim=1)
