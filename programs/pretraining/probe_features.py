"""Features of labelled videos by an encoder that is in training.

Letters: V samples of a list, D width, B samples of a batch, N tokens, S sampled tokens.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.classification import ViewDataset
from datasets.errors import DecodeError
from datasets.lists.video_list import VideoList
from datasets.probing import Sight, batches_of
from datasets.samples import Failure
from datasets.sampling import ClipConfig
from engine.distributed.collectives import gather_objects
from engine.distributed.world import World
from engine.resilience.preemption import raise_if_preempted, stop_requested
from engine.resilience.watchdog import heartbeat
from models.vit import VideoTransformer

logger = logging.getLogger(__name__)

TOKENS = 16  # of each clip, for their own RankMe: the means of clips hide features that tell positions alone


class Decodable(Dataset):
    """One clip of each video; of one that cannot be decoded a black one with the index -1, and why."""

    num_clips = 1

    def __init__(self, dataset: ViewDataset, clip: ClipConfig) -> None:
        self.dataset, self.shape = dataset, (1, clip.num_frames, 3, clip.input_size, clip.input_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As ViewDataset's, without the label."""
        try:
            item = self.dataset[index]
            return {"clip": item["clip"], "index": index, "views": 1, "failures": []}
        except DecodeError as error:
            failure = Failure(str(self.dataset.videos.paths[index]), str(error), -1, "")
            return {"clip": torch.zeros(self.shape, dtype=torch.uint8), "index": -1, "views": 1, "failures": [failure]}


@dataclass(frozen=True)
class Features:
    """Those videos of a list that can be decoded.

    Attributes:
        means: (V, D) over all tokens, float32.
        tokens: (V, S, D), some of each, the same ones in every probe.
        labels: (V,).
        asked: videos of the list.
    """

    means: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    asked: int


def frozen_features(
    encoder: VideoTransformer,
    videos: VideoList,
    sight: Sight,
    world: World,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
    **loader: Any,
) -> Features:
    """Features of a list on every rank: one middle clip of each video, all tokens, after the final norm.

    Every rank must call it; the ranks share out the videos.

    Args:
        encoder: in evaluation mode.
        autocast: context of the forward pass.
        loader: options of `batches_of`.

    Raises:
        Preempted: on all ranks, where one has received a signal.
    """
    rng, size = np.random.default_rng(0), min(TOKENS, encoder.num_tokens)
    chosen_VS = np.stack([rng.choice(encoder.num_tokens, size, replace=False) for _ in range(len(videos))])
    dataset = Decodable(sight.test(videos, clips=1, crops=1), sight.clip)
    own = list(range(world.rank, len(videos), world.size))
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for batch in batches_of(dataset, **loader)(own) if own else ():
        heartbeat()
        if stop_requested():
            break
        for path, reason, *_ in batch.failures:
            logger.warning("--probe_data: %s: %s", path, reason)
        with torch.no_grad(), autocast():
            tokens_BND = encoder(batch.to(world.device).clip).float()
        places = batch.index.tolist()
        chosen_BS1 = torch.from_numpy(chosen_VS[places])[..., None].to(tokens_BND.device)
        means_BD = tokens_BND.mean(dim=1).cpu().numpy()
        tokens_BSD = torch.take_along_dim(tokens_BND, chosen_BS1, dim=1).cpu().numpy()
        rows = zip(places, means_BD, tokens_BSD, strict=True)
        found |= {place: (mean, some) for place, mean, some in rows if place >= 0}
    raise_if_preempted()
    together = {place: rows for share in gather_objects(found) for place, rows in share.items()}
    places = sorted(together)
    means, tokens = np.empty((0, encoder.embed_dim)), np.empty((0, size, encoder.embed_dim))
    if places:
        means, tokens = (np.stack([together[place][kind] for place in places]) for kind in (0, 1))
    labels = np.asarray(list(videos.labels), np.int64)[places]
    return Features(means, tokens, labels, asked=len(videos))
