"""Sinkhorn-Knopp: balanced assignment of samples to prototypes.

Letters: G problems balanced side by side (the two branches), S samples (masked tokens of all clips), K prototypes,
R rows of a block.

The plan that balances E = exp(scores / epsilon) is diag(v) E diag(u) (arXiv 1306.0895, section 4.1). An iteration gives
every prototype the same mass, over all ranks, by a change of u, then every sample mass 1 by a change of v. The second
step makes each row a softmax, so v never has to be kept: the plan is softmax_k(scores / epsilon + log u), and a
sample's code is the argmax of the same expression. An iteration reads the scores once, for the column sums of that
softmax; only they, K numbers a problem, are passed between ranks, and only log u is passed on to the next iteration.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Protocol

import torch

MAX_RANGE = 70.0  # of scores / epsilon: products of exponentials over it, times the samples, stay inside float32
MAX_KERNEL_PROTOTYPES = 16384  # a row of more does not fit into the registers of a thread block
GROUP = 64  # columns that are searched together for a row's maximum
AllReduce = Callable[[torch.Tensor], torch.Tensor]  # sum of a tensor over all ranks


class Passes(Protocol):
    """Everything that is asked of the scores; each is one pass over them."""

    def masses(self) -> torch.Tensor:
        """(G, K) sum over the samples of exp(scores / epsilon), up to a factor that all ranks share."""

    def shares(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        """(G, K) sum over the samples of softmax_k(scores / epsilon + log u)."""

    def codes(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        """(G, S) argmax_k of the same."""


@torch.no_grad()
def sinkhorn(
    scores: torch.Tensor, *, epsilon: float, num_iters: int, all_reduce: AllReduce | None = None
) -> torch.Tensor:
    """Balanced soft assignment: every sample sums to 1, every prototype gets equal mass over all ranks.

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
    log_u_GK = _log_scaling(_passes(scores_GSK, epsilon), num_iters=num_iters, all_reduce=all_reduce)
    return torch.softmax(scores_GSK.float() / epsilon + log_u_GK[:, None], dim=-1).reshape(scores.shape)


@torch.no_grad()
def sinkhorn_codes(
    scores: torch.Tensor, *, epsilon: float, num_iters: int, all_reduce: AllReduce | None = None
) -> torch.Tensor:
    """(S,) or (G, S) int64: each sample's prototype with the largest share in `sinkhorn`'s plan, which is not built."""
    passes = _passes(scores if scores.dim() == 3 else scores[None], epsilon)
    log_u_GK = _log_scaling(passes, num_iters=num_iters, all_reduce=all_reduce)
    return passes.codes(log_u_GK).reshape(scores.shape[:-1])


def _log_scaling(passes: Passes, *, num_iters: int, all_reduce: AllReduce | None) -> torch.Tensor:
    """log u, (G, K)."""

    def log_total(mass_GK: torch.Tensor) -> torch.Tensor:
        total_GK = all_reduce(mass_GK) if all_reduce else mass_GK  # the only line that talks to other ranks
        tiny = torch.finfo(total_GK.dtype).tiny  # finite for a prototype far from every sample
        return total_GK.clamp_min(tiny).log().float()

    log_u_GK = -log_total(passes.masses())
    for _ in range(num_iters - 1):
        log_u_GK = log_u_GK - log_total(passes.shares(log_u_GK))
    return log_u_GK


def _passes(scores_GSK: torch.Tensor, epsilon: float) -> Passes:
    """The fastest that there are for this device, number of prototypes and epsilon."""
    if 2 / epsilon > MAX_RANGE:
        return SoftmaxPasses(scores_GSK, epsilon)
    if not scores_GSK.is_cuda:
        return StoredPasses(scores_GSK, epsilon)
    if scores_GSK.shape[-1] <= MAX_KERNEL_PROTOTYPES and _kernels_run(scores_GSK.device):
        from .triton_kernels import TritonPasses  # here, as torch brings Triton for CUDA only

        return TritonPasses(scores_GSK, epsilon)
    return SoftmaxPasses(scores_GSK, epsilon)


@functools.cache
def _kernels_run(device: torch.device) -> bool:
    """Whether the Triton kernels run here; warns, once, where they do not though Triton is installed.

    Triton builds its launcher with a C compiler and Python's headers, which small container images lack.
    """
    if find_spec("triton") is None:
        return False
    try:
        from .triton_kernels import TritonPasses

        passes = TritonPasses(torch.zeros(1, 1, 1, device=device), 1.0)
        passes.codes(passes.masses())
    except Exception as error:  # noqa: BLE001  (of the compiler, the driver, an old GPU: the way below needs none)
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"Sinkhorn runs without its Triton kernels, slower ({reason}): install a C compiler and Python's headers "
            "(apt-get install gcc python3-dev)",
            stacklevel=2,
        )
        return False
    return True


class SoftmaxPasses:
    """In plain torch, a block of rows at a time; right for any epsilon down to 0.003.

    A softmax cannot overflow. Bare exponentials can vanish: over more than `MAX_RANGE` their sums are in float64.
    """

    def __init__(self, scores_GSK: torch.Tensor, epsilon: float) -> None:
        self.scores_GSK = scores_GSK
        self.epsilon = epsilon
        self.rows = 8192 if scores_GSK.is_cuda else 128  # on CPU a block of 3,000 columns stays in a core's cache

    def blocks(self, tensor_GSK: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Each block of rows, (R, K), after the number of its problem."""
        for g, tensor_SK in enumerate(tensor_GSK):
            yield from ((g, block) for block in tensor_SK.split(self.rows))

    def _zero_masses(self) -> torch.Tensor:
        groups, _, prototypes = self.scores_GSK.shape
        return self.scores_GSK.new_zeros(groups, prototypes, dtype=torch.float32)

    def masses(self) -> torch.Tensor:
        # By epsilon alone: ranks may differ in their passes, and have to send numbers of one kind.
        dtype = torch.float64 if 2 / self.epsilon > MAX_RANGE else torch.float32
        mass_GK = self._zero_masses().to(dtype)
        for g, scores_RK in self.blocks(self.scores_GSK):
            mass_GK[g] += ((scores_RK.to(dtype) - 1) / self.epsilon).exp().sum(dim=0)  # cosine <= 1: at most 1 each
        return mass_GK

    def shares(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        share_GK = self._zero_masses()
        for g, scores_RK in self.blocks(self.scores_GSK):
            share_GK[g] += torch.softmax(scores_RK.float() / self.epsilon + log_u_GK[g], dim=1).sum(dim=0)
        return share_GK

    def codes(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        """torch's argmax is many times slower than its maximum: find the group of columns first, then look inside."""
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
    """With E kept, a pass is two matrix-vector products on each block, the second of them from the cache."""

    def __init__(self, scores_GSK: torch.Tensor, epsilon: float) -> None:
        super().__init__(scores_GSK, epsilon)
        self.kernel_GSK = torch.empty_like(scores_GSK, dtype=torch.float32)

    def masses(self) -> torch.Tensor:
        mass_GK = self._zero_masses()
        for (g, scores_RK), (_, kernel_RK) in zip(
            self.blocks(self.scores_GSK), self.blocks(self.kernel_GSK), strict=True
        ):
            torch.div(scores_RK.float(), self.epsilon, out=kernel_RK).exp_()
            mass_GK[g].addmv_(kernel_RK.T, kernel_RK.new_ones(len(kernel_RK)))
        return mass_GK

    def shares(self, log_u_GK: torch.Tensor) -> torch.Tensor:
        u_GK = (log_u_GK - log_u_GK.amax(dim=1, keepdim=True)).exp()  # a common factor changes nothing
        share_GK = self._zero_masses()
        for g, kernel_RK in self.blocks(self.kernel_GSK):
            share_GK[g].addmv_(kernel_RK.T, torch.mv(kernel_RK, u_GK[g]).reciprocal_())
        return share_GK.mul_(u_GK)
