"""Classification by the nearest training samples, in the form of DINO's evaluation (github.com/facebookresearch/dino,
eval_knn.py, commit 7c446df).

Letters: V queries, M samples of the bank, G views, D width, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sigma_video.options import AT_LEAST_ONE, POSITIVE, Options, option

from .heads import ProbeError

CHUNK = 256  # queries at a time, so that what they give does not depend on the number of ranks


@dataclass(frozen=True, kw_only=True)
class NeighbourConfig(Options):
    """How neighbours vote."""

    neighbours: tuple[int, ...] = option(
        (10, 20, 100, 200), "knn: numbers of nearest training samples that vote; a result each", rule=AT_LEAST_ONE
    )
    temperature: float = option(0.07, "knn: a neighbour's vote counts exp(cosine / this)", rule=POSITIVE)

    def check_bank(self, samples: int, *, file: str) -> None:
        """Raise ProbeError for more neighbours than the bank has samples: fewer would vote than the result says."""
        if max(self.neighbours) > samples:
            raise ProbeError(
                f"{file}: {samples:,} samples, and --neighbours {max(self.neighbours)} of them are to vote: give "
                "smaller numbers, such as --neighbours 1"
            )


def unit_features(features_VGD: np.ndarray, device: torch.device) -> torch.Tensor:
    """(V, G, D) -> (V, D): views are averaged, then scaled to length 1."""
    return F.normalize(torch.from_numpy(np.array(features_VGD, np.float32)).to(device).mean(dim=1), dim=1)


def nearest_votes(
    queries_VD: torch.Tensor,
    bank_MD: torch.Tensor,
    labels_M: torch.Tensor,
    *,
    neighbours: Sequence[int],
    temperature: float,
    num_classes: int,
) -> dict[int, torch.Tensor]:
    """Votes (V, K) by the number of neighbours k: the sum of exp(cosine / temperature) over the k nearest of a class.

    Args:
        queries_VD, bank_MD: of length 1.
        neighbours: values of k, at most M.
    """
    found: dict[int, list[torch.Tensor]] = {k: [] for k in neighbours}
    for chunk in queries_VD.split(CHUNK):
        cosines, places = (chunk @ bank_MD.T).topk(max(neighbours), dim=1)
        weights, classes = (cosines / temperature).exp(), labels_M[places]
        for k in neighbours:
            votes = weights.new_zeros(len(chunk), num_classes)
            found[k].append(votes.scatter_add_(1, classes[:, :k], weights[:, :k]))
    return {k: torch.cat(votes) for k, votes in found.items()}


def own_chunks(number: int, *, rank: int, size: int) -> list[slice]:
    """The queries of one rank, in whole chunks."""
    return [slice(start, start + CHUNK) for start in range(rank * CHUNK, number, size * CHUNK)]


def classify_nearest(
    queries_VGD: np.ndarray,
    bank_MGD: np.ndarray,
    labels_M: np.ndarray,
    *,
    device: torch.device,
    rank: int = 0,
    size: int = 1,
    **how: Any,
) -> dict[int, dict[int, np.ndarray]]:
    """Votes (K,) of this rank's queries, by k and place.

    Args:
        how: see `nearest_votes`.
    """
    bank = unit_features(bank_MGD, device)
    labels = torch.from_numpy(np.asarray(labels_M, np.int64)).to(device)
    found: dict[int, dict[int, np.ndarray]] = {k: {} for k in how["neighbours"]}
    for part in own_chunks(len(queries_VGD), rank=rank, size=size):
        votes = nearest_votes(unit_features(queries_VGD[part], device), bank, labels, **how)
        for k, values in votes.items():
            found[k] |= dict(enumerate(values.cpu().numpy(), start=part.start))
    return found
