"""The passes over the scores that Sinkhorn-Knopp needs, for each device in the fastest form. See balance.py.

Letters: G problems balanced side by side, S samples, K prototypes, R rows of a block.
"""

from collections.abc import Iterator
from typing import Protocol

import torch

from ..kernels.rows import MAX_PROTOTYPES
from ..kernels.support import is_on_gpu, use_kernels, why_not

# Of scores / epsilon, from -1 / epsilon to 1 / epsilon: inside it float32 needs no row's maximum. Let E = exp(scores /
# epsilon), and u be the scaling of the columns over its largest entry. A row's sum of E u is at least e^-35, by u's
# largest entry, and at most K e^35. Every column has a sample whose E u is at least e^-35: after an iteration u_k is
# 1 / sum_s E_sk v_s with some v > 0, hence over the largest u at least e^-35 / max_s E_sk. So a column's sum of the
# softmax is at least e^-70 / K, whatever log u spans. Only entries of a softmax below 2^-126 e^35, 2e-23, may be lost.
MAX_RANGE = 70.0
GROUP = 64  # columns that are searched together for a row's maximum


class Passes(Protocol):
    """Everything that is computed from the scores; each method reads them once."""

    def initial_marginals(self) -> torch.Tensor:
        """(G, K) sums over the samples of exp(scores / epsilon), up to a factor that is equal on all ranks."""

    def column_marginals(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        """(G, K) sums over the samples of softmax_k(scores / epsilon + log u)."""

    def codes(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        """(G, S) argmax_k(scores / epsilon + log u)."""


def passes_over(scores_GSK: torch.Tensor, epsilon: float, *, by_turns: bool = False) -> Passes:
    """The fastest implementation for this device, number of prototypes and epsilon.

    `by_turns`: while a pass runs, the sums of another problem are reduced over the ranks.
    """
    wide = 2 / epsilon > MAX_RANGE
    if scores_GSK.shape[-1] <= MAX_PROTOTYPES and use_kernels(scores_GSK.device):
        from ..kernels.sinkhorn import TritonPasses  # here, because PyTorch installs Triton for CUDA only

        return TritonPasses(scores_GSK, epsilon, wide=wide, by_turns=by_turns)
    if wide or is_on_gpu(scores_GSK):
        return SoftmaxPasses(scores_GSK, epsilon)
    return StoredPasses(scores_GSK, epsilon)


def describe_passes(device: torch.device, num_prototypes: int, epsilon: float) -> str:
    """How `passes_over` computes there, and why, for people to read."""
    if use_kernels(device) and num_prototypes <= MAX_PROTOTYPES:
        return "Triton kernels, those for a small epsilon" if 2 / epsilon > MAX_RANGE else "Triton kernels"
    if use_kernels(device):
        return f"plain PyTorch, slower: Triton kernels take at most {MAX_PROTOTYPES} prototypes"
    return f"plain PyTorch: {why_not(device)}"


class SoftmaxPasses:
    """In plain PyTorch, one block of rows at a time; accurate for any epsilon down to 0.003.

    A softmax cannot overflow. Bare exponentials can underflow: where scores / epsilon span more than `MAX_RANGE`, they
    are summed in float64.
    """

    def __init__(self, scores_GSK: torch.Tensor, epsilon: float) -> None:
        self.scores_GSK = scores_GSK
        self.epsilon = epsilon
        self.rows = 8192 if is_on_gpu(scores_GSK) else 128  # on CPU a block of 3,000 columns stays in a core's cache

    def blocks(self, tensor_GSK: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Blocks of rows, (R, K), each with the index of its problem."""
        for g, tensor_SK in enumerate(tensor_GSK):
            yield from ((g, block) for block in tensor_SK.split(self.rows))

    def _zeros_GK(self) -> torch.Tensor:
        groups, _, prototypes = self.scores_GSK.shape
        return self.scores_GSK.new_zeros(groups, prototypes, dtype=torch.float32)

    def initial_marginals(self) -> torch.Tensor:
        # Depends on epsilon alone: ranks may choose different passes, but have to reduce tensors of one dtype.
        dtype = torch.float64 if 2 / self.epsilon > MAX_RANGE else torch.float32
        marginal_GK = self._zeros_GK().to(dtype)
        for g, scores_RK in self.blocks(self.scores_GSK):
            marginal_GK[g] += ((scores_RK.to(dtype) - 1) / self.epsilon).exp().sum(dim=0)  # cosine <= 1: at most 1 each
        return marginal_GK

    def column_marginals(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        marginal_GK = self._zeros_GK()
        for g, scores_RK in self.blocks(self.scores_GSK):
            marginal_GK[g] += torch.softmax(scores_RK.float() / self.epsilon + log_u_GK[g], dim=1).sum(dim=0)
        return marginal_GK

    def codes(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        """Argmax in two steps, first over groups of columns: torch's argmax is many times slower than its amax."""
        groups, samples, prototypes = self.scores_GSK.shape
        padded = -(-prototypes // GROUP) * GROUP
        logits_RK = log_u_GK.new_full((min(self.rows, samples), padded), -torch.inf)
        codes = []
        for g, scores_RK in self.blocks(self.scores_GSK):
            rows = len(scores_RK)
            torch.add(log_u_GK[g], scores_RK.float(), alpha=1 / self.epsilon, out=logits_RK[:rows, :prototypes])
            grouped = logits_RK[:rows].unflatten(1, (-1, GROUP))
            best_R = grouped.amax(dim=2).argmax(dim=1)
            codes.append(best_R * GROUP + grouped[torch.arange(rows, device=best_R.device), best_R].argmax(dim=1))
        return torch.cat(codes).reshape(groups, samples)


class StoredPasses(SoftmaxPasses):
    """Keeps E = exp(scores / epsilon): a pass is two matrix-vector products per block, the second from the cache."""

    def __init__(self, scores_GSK: torch.Tensor, epsilon: float) -> None:
        super().__init__(scores_GSK, epsilon)
        self.kernel_GSK = torch.empty_like(scores_GSK, dtype=torch.float32)

    def initial_marginals(self) -> torch.Tensor:
        marginal_GK = self._zeros_GK()
        for (g, scores_RK), (_, kernel_RK) in zip(
            self.blocks(self.scores_GSK), self.blocks(self.kernel_GSK), strict=True
        ):
            torch.div(scores_RK.float(), self.epsilon, out=kernel_RK).exp_()
            marginal_GK[g].addmv_(kernel_RK.T, kernel_RK.new_ones(len(kernel_RK)))
        return marginal_GK

    def column_marginals(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        u_GK = (log_u_GK - log_u_GK.amax(dim=1, keepdim=True)).exp()  # a common factor changes nothing
        marginal_GK = self._zeros_GK()
        for g, kernel_RK in self.blocks(self.kernel_GSK):
            marginal_GK[g].addmv_(kernel_RK.T, torch.mv(kernel_RK, u_GK[g]).reciprocal_())
        return marginal_GK.mul_(u_GK)
