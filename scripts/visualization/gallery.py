"""Assignments of the tubelets of many videos to prototypes, and the tubelets nearest to each.

Letters: C clips of a video, t h w token grid, N tokens of a clip, S tokens of all, P embedding width, K prototypes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.analysis.prototypes import NearestTokens, cosines
from models.objectives import SwappedClusterPrediction
from models.sigma import Sigma
from models.sinkhorn.balance import balancing_offsets

from .clips import Clips
from .subject import Subject

ENOUGH = 8  # tokens a prototype, from which on balancing means something
BALANCED_ON = 32_768  # tokens, at most: their cosines are held at once


@dataclass(frozen=True)
class Gallery:
    """What prototypes have in some videos.

    Attributes:
        videos: the clips.
        assigned: (C, t, h, w) of each video: the prototype of every tubelet, by `how`.
        counts: (K,) tubelets of each prototype by the nearest one, and by Sinkhorn-Knopp where there are enough.
        how: key of `counts`.
        nearest: tokens with the largest cosines.
    """

    videos: Sequence[Clips]
    assigned: Sequence[np.ndarray]
    counts: dict[str, np.ndarray]
    how: str
    nearest: NearestTokens

    @property
    def total(self) -> int:
        """Tubelets of all videos."""
        return int(self.counts[self.how].sum())

    @property
    def shares(self) -> np.ndarray:
        """(K,) percent of the tubelets."""
        return 100 * self.counts[self.how] / self.total

    def describe(self) -> str:
        """How tubelets are assigned, in words."""
        videos = "1 video" if len(self.videos) == 1 else f"{len(self.videos)} videos"
        if self.how == NEAREST:
            return f"Assigned to the nearest prototype: too few tubelets to balance, {self.total} of {videos}"
        return f"Assigned as in training: balanced by Sinkhorn-Knopp over {self.total} tubelets of {videos}"

    def most_used(self, number: int) -> list[int]:
        """The prototypes with most tubelets."""
        counts = self.counts[self.how]
        order = counts.argsort(kind="stable")[::-1][:number]
        return [int(prototype) for prototype in order if counts[prototype]]

    def code(self, token: int, grid: tuple[int, int, int]) -> int:
        """The prototype that a tubelet is assigned to."""
        video, *place = self.locate(token, grid)
        return int(self.assigned[video][tuple(place)])

    def locate(self, token: int, grid: tuple[int, int, int]) -> tuple[int, int, int, int, int]:
        """Video, clip, slot, row and column of a token's id."""
        firsts = np.cumsum([0, *(len(clips.frames) for clips in self.videos)])
        number, place = divmod(token, int(np.prod(grid)))
        video = int(np.searchsorted(firsts, number, side="right")) - 1
        slot, row, column = (int(value) for value in np.unravel_index(place, grid))
        return video, number - int(firsts[video]), slot, row, column


NEAREST, BALANCED = "nearest prototype", "balanced by Sinkhorn-Knopp"


@torch.inference_mode()
def collect(subject: Subject, videos: Sequence[Clips], *, num_nearest: int, per_clip: int | None = None) -> Gallery:
    """The assignments of all tubelets of some videos to the model's prototypes.

    Args:
        num_nearest: tubelets that are kept for each prototype.
        per_clip: at most so many of them from one clip.
    """
    model = subject.model
    assert isinstance(model, Sigma) and model.prototypes is not None
    assert isinstance(model.objective, SwappedClusterPrediction)
    prototypes, number, grid = model.prototypes, len(model.prototypes), model.encoder.grid
    parts = [subject.embeddings(clips) for clips in videos]
    all_SP = torch.cat([part.flatten(0, 1) for part in parts])
    offsets = {NEAREST: torch.zeros(number, device=prototypes.device)}
    if len(all_SP) >= ENOUGH * number:
        offsets[BALANCED] = _offsets(all_SP, prototypes, model.objective)
    how = list(offsets)[-1]
    counts = {name: np.zeros(number, np.int64) for name in offsets}
    nearest, assigned, start = NearestTokens(number, num_nearest, per_batch=per_clip), [], 0
    for part in parts:
        codes = []
        for embeddings_NP in part:
            cosines_NK = cosines(embeddings_NP.to(prototypes.device), prototypes)
            nearest.add(cosines_NK, torch.arange(start, start + len(cosines_NK)))
            start += len(cosines_NK)
            by = {name: (cosines_NK + offset).argmax(1).cpu() for name, offset in offsets.items()}
            for name, found in by.items():
                counts[name] += found.bincount(minlength=number).numpy()
            codes.append(by[how].unflatten(0, grid).numpy())
        assigned.append(np.stack(codes))
    return Gallery(videos, assigned, counts, how, nearest)


def _offsets(all_SP: torch.Tensor, prototypes: torch.Tensor, objective: SwappedClusterPrediction) -> torch.Tensor:
    """What balances the assignment over the tokens, or over as many of them as can be held, evenly taken."""
    step = -(-len(all_SP) // BALANCED_ON)
    scores_SK = cosines(all_SP[::step].to(prototypes.device), prototypes)
    return balancing_offsets(scores_SK, epsilon=objective.epsilon, num_iters=objective.num_iters)
