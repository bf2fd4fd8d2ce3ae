"""Pre-training samples: a clip and the mask of its tokens, from a video list."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .annotations import VideoList
from .decoding import DecodeError, open_video
from .sampling import draw_pretrain_clip

MAX_REPLACEMENTS = 10


def sample_rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The random stream of one sample: no other state decides what a sample looks like."""
    return np.random.default_rng([seed, epoch, index, repeat])


def decode_or_replace(
    videos: VideoList, index: int, rng: np.random.Generator, *, draw: Callable[[int], np.ndarray], decoder: str
) -> tuple[torch.Tensor, int, list[tuple[str, str]]]:
    """The frames of one clip; a video that cannot be decoded is replaced by another, drawn from `rng`.

    Args:
        videos: the list.
        index: the video asked for.
        rng: the sample's own stream.
        draw: number of frames in the video -> indices of the clip's frames.
        decoder: back end, see `open_video`.

    Returns:
        frames uint8 (T, 3, H, W); the index of the video they come from; (path, reason) of every video that failed.

    Raises:
        DecodeError: the video and its ten replacements all failed; the error is that of the last.
    """
    failures: list[tuple[str, str]] = []
    while True:
        path = videos.paths[index]
        try:
            with open_video(path, decoder=decoder) as video:
                return video.get_frames(draw(video.num_frames).tolist()), index, failures
        except DecodeError as error:
            failures.append((path, error.reason))
            if len(failures) > MAX_REPLACEMENTS:
                raise
        index = int(rng.integers(len(videos)))


class PretrainDataset(Dataset):
    """Clips with masks, asked for by (epoch, index).

    A sample depends on the seed, the epoch and the index only: neither order, workers nor ranks change it.

    Args:
        videos: the list; labels are not used.
        transform: (frames uint8 (T, 3, H, W), rng) -> uint8 (T, 3, size, size).
        mask_fn: (grid, mask_ratio, rng) -> bool (N,), True = masked; see `masking.MASKS`.
        grid: tokens in time, height and width; N is their product.
        mask_ratio: part of the tokens that is masked.
        num_frames: T, frames of a clip.
        sampling_rate: distance between the frames of a clip.
        seed: of the run; at least 0.
        decoder: back end, see `open_video`.
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        transform: Callable[[torch.Tensor, np.random.Generator], torch.Tensor],
        mask_fn: Callable[[tuple[int, int, int], float, np.random.Generator], np.ndarray],
        grid: tuple[int, int, int],
        mask_ratio: float,
        num_frames: int,
        sampling_rate: int,
        seed: int,
        decoder: str = "auto",
    ) -> None:
        self.videos = videos
        self.transform = transform
        self.mask_fn, self.grid, self.mask_ratio = mask_fn, grid, mask_ratio
        self.num_frames, self.sampling_rate = num_frames, sampling_rate
        self.seed, self.decoder = seed, decoder

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """The sample of `index` in `epoch`.

        Returns:
            "clip" uint8 (T, 3, size, size); "mask" bool (N,); "index": the video shown, which is another than the one
            asked for where that could not be decoded; "failures": (path, reason) of those that could not.
        """
        epoch, index = key
        rng = sample_rng(self.seed, epoch, index)
        frames, index, failures = decode_or_replace(
            self.videos,
            index,
            rng,
            draw=lambda length: draw_pretrain_clip(length, self.num_frames, self.sampling_rate, rng),
            decoder=self.decoder,
        )
        clip = self.transform(frames, rng)
        mask = torch.from_numpy(self.mask_fn(self.grid, self.mask_ratio, rng))
        return {"clip": clip, "mask": mask, "index": index, "failures": failures}
