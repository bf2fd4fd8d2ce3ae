"""Pre-training samples: a clip and the mask of its tokens, from a video list."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .decoding.open import open_video, resolve_decoder
from .lists.spans import frames_within
from .lists.video_list import Span, VideoList
from .masks.flow_guided import guided_mask, neighbour_pairs
from .masks.motion_fields import crop_motion
from .masks.motion_vectors import MotionReader
from .samples import read_or_replace, sample_rng
from .sampling import draw_pretrain_clip
from .transforms.presets import PretrainTransform

_CELLS_PER_PATCH = 4  # along a side: resolution at which motion vectors carry a mask


class PretrainDataset(Dataset):
    """Clips with masks, asked for by (epoch, index); a video is decoded once, cropped and masked `num_repeats` times.

    A sample depends on the seed, the epoch and the index only: neither order, workers nor ranks change it.

    Args:
        videos: the list; labels are not used.
        transform: crops the frames, and with them the motion.
        mask_fn: (grid, mask_ratio, rng) -> bool (N,), True = masked; see `masking.MASKS`.
        grid: tokens in time, height and width; N is their product.
        mask_ratio: part of the tokens that is masked.
        num_repeats: R, crops and masks of each decoded clip.
        num_masks: G, masks of each crop.
        motion: let the masks follow the motion vectors of the video; `mask_fn` must draw tube masks then.
        num_frames: T, frames of a clip.
        sampling_rate: distance between the frames of a clip.
        seed: of the run; at least 0.
        decoder: back end, see `open_video`.

    Raises:
        ValueError: no repeats; motion vectors asked of decord, or of clips of a single frame.
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        transform: PretrainTransform,
        mask_fn: Callable[[tuple[int, int, int], float, np.random.Generator], np.ndarray],
        grid: tuple[int, int, int],
        mask_ratio: float,
        num_repeats: int = 1,
        num_masks: int = 1,
        motion: bool = False,
        num_frames: int,
        sampling_rate: int,
        seed: int,
        decoder: str = "auto",
    ) -> None:
        if num_repeats < 1:
            raise ValueError(f"--num_sample {num_repeats}: at least one crop of each clip")
        if motion and resolve_decoder(decoder) != "pyav":
            raise ValueError("motion vectors come from PyAV: use `--decoder pyav` or another --mask_type")
        self.pairs = neighbour_pairs(num_frames) if motion else None
        self.videos, self.transform, self.num_repeats, self.num_masks = videos, transform, num_repeats, num_masks
        self.mask_fn, self.grid, self.mask_ratio = mask_fn, grid, mask_ratio
        self.num_frames, self.sampling_rate = num_frames, sampling_rate
        self.seed, self.decoder = seed, decoder

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """The sample of `index` in `epoch`.

        Returns:
            "clip" uint8 (T, 3, size, size) and "mask" bool (N,), with several repeats (R, T, 3, size, size) and (R, N),
            with several masks (G, N) or (R, G, N);
            "index": the video shown, which is another than the one asked for where that could not be decoded;
            "failures": (path, reason, worker) of those that could not.
        """
        epoch, asked = key
        rng = sample_rng(self.seed, epoch, asked)
        decoded, index, failures = read_or_replace(
            self.videos, asked, rng=rng, read=lambda path, span: self._read(path, span, rng)
        )
        rngs = [rng] + [sample_rng(self.seed, epoch, asked, repeat) for repeat in range(1, self.num_repeats)]
        clips, masks = zip(*(self._crop_and_mask(*decoded, rng) for rng in rngs), strict=True)
        clip, mask = (clips[0], masks[0]) if self.num_repeats == 1 else (torch.stack(clips), torch.stack(masks))
        return {"clip": clip, "mask": mask, "index": index, "failures": failures}

    def _read(self, path: str, span: Span | None, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray | None]:
        """The frames of a clip, and where masks follow it, the motion towards its middle frame."""
        if self.pairs is None:
            with open_video(path, decoder=self.decoder) as video:
                return video.get_frames(self._draw(frames_within(video, path, span), rng)), None
        with MotionReader(path) as video:
            return video.get_frames_and_motion(self._draw(frames_within(video, path, span), rng), self.pairs)

    def _draw(self, frames: range, rng: np.random.Generator) -> np.ndarray:
        return frames.start + draw_pretrain_clip(len(frames), self.num_frames, self.sampling_rate, rng)

    def _crop_and_mask(
        self, frames: torch.Tensor, motion: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        box = self.transform.draw_box(frames.shape[-2], frames.shape[-1], rng)
        masks = [self._draw_mask(motion, box, rng) for _ in range(self.num_masks)]
        return self.transform.crop(frames, box), masks[0] if self.num_masks == 1 else torch.stack(masks)

    def _draw_mask(
        self, motion: np.ndarray | None, box: tuple[int, int, int, int], rng: np.random.Generator
    ) -> torch.Tensor:
        mask = torch.from_numpy(self.mask_fn(self.grid, self.mask_ratio, rng))
        if motion is None:
            return mask
        num_slots, rows, columns = self.grid
        flow = crop_motion(motion, box, rows * _CELLS_PER_PATCH, columns * _CELLS_PER_PATCH)
        num_visible = int((~mask).sum()) // num_slots
        return guided_mask(mask[None], flow[None], self.grid, num_visible)[0]
