"""Labels passed on through whole sequences, and DAVIS's J and F of the result: `task propagation`.

Letters: T H W frames and pixels, h w token grid, D encoder width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .j_and_f import score_objects, statistics
from .masked_video import MaskedVideo, MaskError, check_void
from .pictures import overlay, strip, write_mask, write_picture, write_video
from .propagation import PropagationConfig, propagate, size_for, to_mask

STATISTICS = ("mean", "recall", "decay")
COLUMNS = 8  # frames in a picture


@dataclass(frozen=True)
class SequenceJob:
    """What is done with every sequence.

    Attributes:
        patch: side of a token's patch in pixels.
        void: pixels that the ground truth counts as background.
        tokens: video and size of its frames -> (h, w, D) of every frame, in order.
        size: of all frames; None: as `config.frame_size` says.
        pictures, masks: folders; None: nothing is written.
    """

    config: PropagationConfig
    patch: int
    void: int
    tokens: Callable[[MaskedVideo, tuple[int, int]], Iterable[torch.Tensor]]
    size: tuple[int, int] | None = None
    pictures: Path | None = None
    masks: Path | None = None


Scores = dict[str, dict[str, dict[str, float]]]  # by metric, "" (no seed) and SEQUENCE:OBJECT, in percent


def check_sequences(videos: Sequence[MaskedVideo], *, void: int) -> None:
    """Raise MaskError for a sequence that cannot be scored: too short, no object at first, or one that comes later."""
    for video in videos:
        folder = video.masks[0].parent
        if len(video.masks) < 3:
            raise MaskError(f"{folder}: {len(video.masks)} frames, at least 3 are needed; take it out of the split")
        first = np.unique(video.read_masks([0])).tolist()
        check_void(first, video.masks[0], void=void)
        if not set(first) - {0, void}:
            raise MaskError(f"{video.masks[0]}: no object to follow; take the sequence out of the split")
        for frame, path in enumerate(video.masks):
            later = set(np.unique(video.read_masks([frame])).tolist()) - {0, void, *first}
            if later:
                raise MaskError(
                    f"{path}: label {min(later)} is not in the first mask, so it cannot be passed on; use masks "
                    "that show every object from the first frame on, or take the sequence out of the split"
                )


@torch.inference_mode()
def evaluate_sequence(video: MaskedVideo, job: SequenceJob) -> Scores:
    """J and F of every object of a sequence, in percent.

    Returns:
        By metric ("j_and_f", "j_mean", "j_recall", "j_decay", "f_mean", ...), "", and "SEQUENCE:OBJECT".
    """
    truth = video.read_masks(range(len(video.masks)))
    truth = np.where(truth == job.void, 0, truth)
    predicted = predict(video, truth[0], job)
    objects = tuple(int(label) for label in np.unique(truth[0]) if label)
    scores: Scores = {}
    for label, found in score_objects(predicted, truth, objects).items():
        values = {"j": statistics(found.j), "f": statistics(found.f)}
        numbers = {f"{m}_{s}": 100 * v for m in values for s, v in zip(STATISTICS, values[m], strict=True)}
        numbers = {"j_and_f": (numbers["j_mean"] + numbers["f_mean"]) / 2, **numbers}
        for metric, value in numbers.items():
            scores.setdefault(metric, {}).setdefault("", {})[f"{video.name}:{label}"] = value
    write_results(video, predicted, truth, job)
    return scores


def predict(video: MaskedVideo, first: np.ndarray, job: SequenceJob) -> np.ndarray:
    """(T, H, W) uint8 labels of all frames, from the mask of the first."""
    size = job.size or size_for(*video.image_size(), job.config.frame_size, patch=job.patch)
    labels = np.unique(np.append(first, 0))
    small = video.read_masks([0], (size[0] // job.patch, size[1] // job.patch))[0]
    index = np.searchsorted(labels, np.where(small == job.void, 0, small))
    masks = [first]
    maps = propagate(job.tokens(video, size), torch.from_numpy(index).long(), len(labels), job.config)
    for labels_Lhw in maps:
        masks.append(labels[to_mask(labels_Lhw, patch=job.patch, size=first.shape).cpu().numpy()])
    return np.stack(masks).astype(np.uint8)


def write_results(video: MaskedVideo, predicted: np.ndarray, truth: np.ndarray, job: SequenceJob) -> None:
    """Masks and overlays, where they are asked for."""
    if job.masks is not None:
        for path, mask in zip(video.masks, predicted, strict=True):
            write_mask(mask, job.masks / video.name / path.name)
    if job.pictures is not None:
        height, width = truth.shape[1:]
        frames = video.read_images(range(len(truth)), (240, 240 * width // height))
        small = [_nearest(labels, frames.shape[1:3]) for labels in (truth, predicted)]
        rows = [overlay(frames, labels) for labels in small]
        write_picture(strip(rows, columns=COLUMNS), job.pictures / "overlays" / f"{video.name}.png")
        write_video(np.concatenate(rows, axis=2), job.pictures / "overlays" / f"{video.name}.webp")


def _nearest(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, labels.shape[1:], strict=True))
    return labels[:, rows][:, :, columns]
