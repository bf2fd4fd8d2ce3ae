"""Pre-training samples: a clip and the mask of its tokens, from a video list."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .decoding.open import open_video, resolve_decoder
from .decoding.reader import VideoReader
from .lists.spans import frames_within, times_within
from .lists.video_list import Span, VideoList
from .masks.flow_guided import guided_mask, neighbour_pairs
from .masks.masks import Grid, MaskConfig
from .masks.motion_fields import crop_motion
from .masks.motion_vectors import MotionReader
from .samples import read_or_replace, sample_rngs
from .sampling import ClipConfig, draw_pretrain_clip
from .sampling_by_time import draw_timed_clip
from .transforms.presets import PretrainTransform

_CELLS_PER_PATCH = 4  # along a side: resolution at which motion vectors carry a mask


class PretrainDataset(Dataset):
    """Clips with masks, asked for by (epoch, index); a video is decoded once, cropped and masked `num_sample` times.

    A sample depends on the seed, the epoch and the index only: neither order, workers nor ranks change it.

    Args:
        videos: the list; labels are not used.
        clip: frames of a clip; `num_sample` crops of each decoded clip are made.
        masks: which tokens are masked; with "motion_vectors" the masks follow the motion vectors of the video.
        transform: crops the frames, and with them the motion.
        grid: tokens in time, height and width; N is their product.
        seed: of the run; at least 0.
        decoder: back end, see `open_video`.

    Raises:
        ValueError: motion vectors asked of decord, or of clips of a single frame; a ratio that masks nothing or all.
    """

    def __init__(
        self,
        videos: VideoList,
        clip: ClipConfig,
        masks: MaskConfig,
        *,
        transform: PretrainTransform,
        grid: Grid,
        seed: int,
        decoder: str = "auto",
    ) -> None:
        motion = masks.mask_type == "motion_vectors"
        if motion and resolve_decoder(decoder) != "pyav":
            raise ValueError("motion vectors come from PyAV: use `--decoder pyav` or another --mask_type")
        assert clip.sampling_rate or clip.fps
        self.pairs = neighbour_pairs(clip.num_frames) if motion else None
        self.videos, self.transform, self.masks, self.grid = videos, transform, masks, grid
        self.num_repeats, self.num_masks = clip.num_sample, masks.num_masks
        self.clip = clip
        self.seed, self.decoder = seed, decoder
        self.num_masked = masks.num_masked(grid)  # of N tokens, in every sample

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        """The sample of (epoch, index), or of (epoch, index, occurrence).

        Returns:
            "clip" uint8 (T, 3, size, size) and "mask" bool (N,), with several repeats (R, T, 3, size, size) and (R, N),
            with several masks (G, N) or (R, G, N);
            "index": the video shown, which is another than the one asked for where that could not be decoded;
            "failures": those that could not.
        """
        rngs = sample_rngs(self.seed, key, self.num_repeats)
        decoded, index, failures = read_or_replace(
            self.videos, key[1], rng=rngs[0], read=lambda path, span: self._read(path, span, rngs[0])
        )
        clips, masks = zip(*(self._crop_and_mask(*decoded, rng) for rng in rngs), strict=True)
        clip, mask = (clips[0], masks[0]) if self.num_repeats == 1 else (torch.stack(clips), torch.stack(masks))
        return {"clip": clip, "mask": mask, "index": index, "failures": failures}

    def _read(self, path: str, span: Span | None, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray | None]:
        """The frames of a clip, and the motion towards its middle frame where masks follow it; else None."""
        if self.pairs is None:
            with open_video(path, decoder=self.decoder) as video:
                return video.get_frames(self._draw(video, path, span, rng)), None
        with MotionReader(path) as video:
            return video.get_frames_and_motion(self._draw(video, path, span, rng), self.pairs)

    def draw(self, video: VideoReader, index: int, rng: np.random.Generator) -> np.ndarray:
        """The frames (T,) of a clip of the opened video of this index."""
        return self._draw(video, self.videos.paths[index], self.videos.span(index), rng)

    def _draw(self, video: VideoReader, path: str, span: Span | None, rng: np.random.Generator) -> np.ndarray:
        frames, clip = frames_within(video, path, span), self.clip
        if clip.fps is not None:
            return frames.start + draw_timed_clip(times_within(video, path, frames), clip.num_frames, clip.fps, rng)
        assert clip.sampling_rate is not None
        return frames.start + draw_pretrain_clip(len(frames), clip.num_frames, clip.sampling_rate, rng)

    def _crop_and_mask(
        self, frames: torch.Tensor, motion: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        box = self.transform.draw_box(frames.shape[-2], frames.shape[-1], rng)
        masks = [self._draw_mask(motion, box, rng) for _ in range(self.num_masks)]
        return self.transform.crop(frames, box), masks[0] if self.num_masks == 1 else torch.stack(masks)

    def _draw_mask(
        self, motion: np.ndarray | None, box: tuple[int, int, int, int], rng: np.random.Generator
    ) -> torch.Tensor:
        mask = torch.from_numpy(self.masks.draw(self.grid, rng))
        if motion is None:
            return mask
        num_slots, rows, columns = self.grid
        flow = crop_motion(motion, box, rows * _CELLS_PER_PATCH, columns * _CELLS_PER_PATCH)
        num_visible = int((~mask).sum()) // num_slots
        return guided_mask(mask[None], flow[None], self.grid, num_visible)[0]
