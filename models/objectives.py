"""What compares predictions with targets. An objective is one class and one row of OBJECTIVES.

Letters: B clips, M masked tokens, P embedding width, K prototypes, S = B * M samples, G = 2 branches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sigma_video.options import AT_LEAST_ONE, POSITIVE, Options, option

from .kernels.support import agree_on_kernels
from .sinkhorn.balance import AllReduce, sinkhorn, sinkhorn_codes
from .sinkhorn.prototype_loss import prototype_cross_entropy, prototype_scores, soft_cross_entropy
from .targets import TARGETS


class Objective(nn.Module):
    """Base of all objectives.

    `forward` takes predictions (B, M, P), embeddings (B, M, P) and prototypes (K, P) or None. The dict it returns has a
    scalar `loss`; other scalars in it are logged by their names. `described` is its name in the plan of a run.
    """

    uses_prototypes = False
    described: str

    @classmethod
    def from_config(cls, config: ObjectiveConfig, all_reduce: AllReduce | None) -> Objective:
        """The objective of a run's options; `all_reduce` sums a tensor over ranks."""
        return cls()


class SwappedClusterPrediction(Objective):
    """Each branch predicts the other's balanced cluster assignment (arXiv 2407.15447, section 3; cf. arXiv 2006.09882).

    With unit vectors z of a sample and c_k of the prototypes, a branch predicts p = softmax_k(z . c_k / temperature).
    Its targets are the other branch's codes, argmax_k of the transport plan, as in engine_for_pretraining.py of the
    released code; or, soft, its rows of the plan, as in arXiv 2006.09882. Prototypes learn from the projection
    network's branch only: the prediction sees a detached copy.

    Args:
        epsilon: Sinkhorn's entropy regularisation.
        num_iters: Sinkhorn's iterations.
        temperature: of the softmax.
        soft: targets are rows of the plan instead of their argmax.
        all_reduce: sum over ranks, so that assignments are balanced over the global batch; None for one process.
    """

    uses_prototypes = True
    described = "swapped prediction"

    def __init__(
        self,
        *,
        epsilon: float = 0.05,
        num_iters: int = 10,
        temperature: float = 0.1,
        soft: bool = False,
        all_reduce: AllReduce | None = None,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.num_iters = num_iters
        self.temperature = temperature
        self.soft = soft
        self.all_reduce = all_reduce

    @classmethod
    def from_config(cls, config: ObjectiveConfig, all_reduce: AllReduce | None) -> SwappedClusterPrediction:
        return cls(
            epsilon=config.sinkhorn_eps,
            num_iters=config.sinkhorn_iterations,
            soft=config.sinkhorn_targets == "soft",
            all_reduce=all_reduce,
        )

    def forward(
        self, predicted_BMP: torch.Tensor, projected_BMP: torch.Tensor, prototypes_KP: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Losses and codes.

        `prototypes_KP` is L2-normalised in place: the gradient is taken at the normalised point, not through the
        normalisation (`normalize_prototypes` in modeling_pretrain.py of the released code).

        Returns:
            `loss`, `video_loss` (the prediction against the target's codes), `target_loss` (the reverse), all scalars,
            and `codes_video`, `codes_target` (B, M) int64.
        """
        with torch.no_grad():
            prototypes_KP.copy_(F.normalize(prototypes_KP, dim=-1))
        video_SP = F.normalize(predicted_BMP.float(), dim=-1).flatten(0, 1)
        target_SP = F.normalize(projected_BMP.float(), dim=-1).flatten(0, 1)
        if self.all_reduce:
            agree_on_kernels(prototypes_KP.device, self.all_reduce)  # asks the ranks once
        scores_GSK = prototype_scores((video_SP, target_SP), prototypes_KP)
        if self.soft:
            plan_GSK = self.plan(scores_GSK)
            codes_video_S, codes_target_S = plan_GSK.argmax(dim=-1)
            soft = {"temperature": self.temperature}
            video_loss = soft_cross_entropy(video_SP, prototypes_KP.detach(), plan_GSK[1], **soft)
            target_loss = soft_cross_entropy(target_SP, prototypes_KP, plan_GSK[0], **soft)
        else:
            codes_video_S, codes_target_S = self.codes(scores_GSK)
            video_loss = self._cross_entropy(video_SP, prototypes_KP.detach(), codes_target_S, scores_GSK[0])
            target_loss = self._cross_entropy(target_SP, prototypes_KP, codes_video_S, scores_GSK[1])
        return {
            "loss": video_loss + target_loss,
            "video_loss": video_loss,
            "target_loss": target_loss,
            "codes_video": codes_video_S.reshape(predicted_BMP.shape[:2]),
            "codes_target": codes_target_S.reshape(predicted_BMP.shape[:2]),
        }

    def codes(self, scores: torch.Tensor) -> torch.Tensor:
        """(S,) codes of (S, K) scores, or (G, S) of (G, S, K), balanced over the samples of all ranks."""
        return sinkhorn_codes(scores, epsilon=self.epsilon, num_iters=self.num_iters, all_reduce=self.all_reduce)

    def plan(self, scores: torch.Tensor) -> torch.Tensor:
        """The plan of scores (G, S, K), float32 of the same shape, balanced over the samples of all ranks."""
        return sinkhorn(scores, epsilon=self.epsilon, num_iters=self.num_iters, all_reduce=self.all_reduce)

    def _cross_entropy(
        self, embeddings_SP: torch.Tensor, prototypes_KP: torch.Tensor, codes_S: torch.Tensor, scores_SK: torch.Tensor
    ) -> torch.Tensor:
        return prototype_cross_entropy(
            embeddings_SP,
            prototypes_KP,
            codes_S,
            temperature=self.temperature,
            scores_SK=scores_SK,
            overwrite_scores=True,  # Sinkhorn is done with both branches' scores
        )


class Regression(Objective):
    """Mean squared error between predictions and target features (arXiv 2203.12602)."""

    described = "squared error"

    def forward(
        self, predicted_BMP: torch.Tensor, projected_BMP: torch.Tensor, prototypes_KP: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`loss`, a scalar; there are no prototypes to use."""
        return {"loss": F.mse_loss(predicted_BMP.float(), projected_BMP.float())}


OBJECTIVES: dict[str, type[Objective]] = {"SWAV": SwappedClusterPrediction, "L2": Regression}


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Options):
    """The loss, and the balancing of the assignments."""

    loss_func: str | None = option(
        None,
        "swapped prediction of clusters, or squared error; default: L2 for pixel targets, else SWAV",
        choices=tuple(OBJECTIVES),
    )
    num_prototypes: int = option(3000, "number of prototypes K that tokens are assigned to", rule=AT_LEAST_ONE)
    sinkhorn_eps: float = option(
        0.05, "entropy regularisation of Sinkhorn-Knopp: smaller gives harder assignments", rule=POSITIVE
    )
    sinkhorn_iterations: int = option(10, "iterations of Sinkhorn-Knopp in each step", rule=AT_LEAST_ONE)
    sinkhorn_targets: str = option(
        "hard",
        "what a branch predicts: the other's prototype, as released, or its row of the plan, as SwAV",
        choices=("hard", "soft"),
    )

    def name_for(self, target_type: str) -> str:
        """The key of OBJECTIVES for this kind of target."""
        return self.loss_func or TARGETS[target_type].loss
