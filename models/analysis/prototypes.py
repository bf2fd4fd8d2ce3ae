"""What prototypes stand for: the tubelets nearest to each, and how many tokens each has.

Letters: B clips, N tokens = V visible + M masked, P embedding width, K prototypes, S tokens of clips, n
nearest ones.
"""

import torch
import torch.nn.functional as F

from ..sigma import Sigma
from ..tokens import split_by_mask


@torch.no_grad()
def predict(model: Sigma, clip_BCTHW: torch.Tensor, mask_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the video model predicts at the masked tokens, without targets: these may need a teacher's weights.

    Returns:
        (B, M, P) predictions and (B, M) positions.
    """
    visible_BV, masked_BM = split_by_mask(mask_BN, clip_BCTHW.device)
    visible_BVE = model.encoder_to_decoder(model.encoder(clip_BCTHW, visible_BV))
    return model.decoder(visible_BVE, model.mask_token, visible_BV, masked_BM), masked_BM


@torch.no_grad()
def embed(model: Sigma, clip_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the projection network makes of all tubelets of the clips.

    Returns:
        (B, N, P) embeddings and (B, N) positions.

    Raises:
        ValueError: the target network is a teacher that is not part of the model.
    """
    places_BN = torch.arange(model.encoder.num_tokens, device=clip_BCTHW.device).expand(len(clip_BCTHW), -1)
    return model.head(model.target_features(clip_BCTHW, places_BN)), places_BN


def cosines(embeddings: torch.Tensor, prototypes_KP: torch.Tensor) -> torch.Tensor:
    """(..., P) and (K, P) -> (..., K)."""
    return F.normalize(embeddings.float(), dim=-1) @ F.normalize(prototypes_KP.float(), dim=-1).mT


class NearestTokens:
    """Collects, batch by batch, the tokens that are nearest to every prototype.

    Attributes:
        similarity: (K, n) cosines, falling; -inf where there are fewer tokens.
        token: (K, n) int64, their ids; -1 where there are fewer.
        per_batch: how many of a batch may be among them.
    """

    def __init__(self, num_prototypes: int, num_nearest: int, *, per_batch: int | None = None) -> None:
        self.per_batch = per_batch or num_nearest
        self.similarity = torch.full((num_prototypes, num_nearest), -torch.inf)
        self.token = torch.full((num_prototypes, num_nearest), -1, dtype=torch.int64)

    def add(self, cosines_SK: torch.Tensor, ids_S: torch.Tensor) -> None:
        """Take in a batch of tokens; ids must differ over all batches."""
        number = self.similarity.shape[1]
        best_nK, place_nK = cosines_SK.topk(min(number, self.per_batch, len(cosines_SK)), dim=0)
        similarity = torch.cat([self.similarity, best_nK.mT.cpu()], dim=1)
        token = torch.cat([self.token, ids_S.cpu()[place_nK.mT.cpu()]], dim=1)
        self.similarity, kept = similarity.topk(number, dim=1)
        self.token = token.gather(1, kept)


def perplexity(counts_K: torch.Tensor) -> float:
    """exp of the entropy of the shares: as many prototypes as evenly used ones would be that spread tokens so."""
    shares = counts_K.double() / counts_K.sum().clamp_min(1)
    return float(torch.special.entr(shares).sum().exp())
