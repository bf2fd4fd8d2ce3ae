"""A checkpoint as one object: `load("checkpoint-99.pth").predict("video.mp4")`.

Letters: G views of a video, T frames of a clip, S its height and width, D width of the encoder, N tokens of a clip.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.decoding.open import open_video
from datasets.lists.spans import frames_within
from datasets.loading.batch import Batch
from datasets.loading.loaders import LoaderConfig
from datasets.transforms.normalization import normalize_clips
from engine.config import RunConfig
from engine.distributed.ddp import autocast
from engine.distributed.world import World
from engine.errors import ConfigError

from . import load as files
from .load import ClipFacts, Loaded
from .predict import Prediction, Predictor, refuse_nothing_read
from .sources import Sample, find_samples
from .views import Views, doubts, view_dataset, views_of_frames, with_sampling_rate

logger = logging.getLogger(__name__)

Source = str | Path | np.ndarray | torch.Tensor
_MIDDLE = Views(1, 1)
_IN_MEMORY = Sample("frames in memory")


@dataclass(frozen=True)
class VideoModel:
    """A model out of a file, ready for videos.

    Videos are given as paths, or as frames in memory: uint8 (frames, height, width, 3), RGB, a NumPy array or a tensor.

    Attributes:
        loaded: model, class names, clips that it takes.
        device: where it is.
        amp: precision of the forward pass, as of `--amp`.
    """

    loaded: Loaded
    device: torch.device
    amp: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order; () if the file does not name them."""
        return self.loaded.class_names

    @property
    def clip(self) -> ClipFacts:
        """Size, frames, sampling and normalisation of a clip."""
        return self.loaded.clip

    def predict(
        self, source: Source | Sequence[str | Path], *, views: tuple[int, int] | None = None
    ) -> Prediction | list[Prediction]:
        """What the classifier says of a video, or of each of several, of a folder or of a list.

        Args:
            source: a video, frames in memory, a folder of videos, a list file, or a sequence of these paths.
            views: clips over the video and crops of each; default: those of the run's test.

        Returns:
            One Prediction for a video or for frames, else a list. An unreadable video has `error` and no scores.

        Raises:
            ModelError: the file holds no classifier.
            AnnotationError: there is no such path, or no video in it.
            ConfigError: no video could be read.
        """
        chosen = None if views is None else Views(*views)
        predictor = Predictor.of(self.loaded, autocast(self.device, self.amp), views=chosen)
        if isinstance(source, np.ndarray | torch.Tensor):
            clips = views_of_frames(np.asarray(source), self.clip, predictor.views)
            batch = Batch(clip=clips, index=torch.zeros(1, dtype=torch.int64), views=len(clips))
            return Prediction(_IN_MEMORY, predictor.predict_batch(batch.to(self.device))[0], self.class_names)
        samples, is_single = _samples(source)
        found = list(predictor.predict(samples, LoaderConfig(num_workers=0, decode_timeout=0), self._alone()))
        refuse_nothing_read(found)
        return found[0] if is_single else found

    def features(
        self, source: Source | Sequence[str | Path], *, views: tuple[int, int] = (1, 1), tokens: bool = False
    ) -> np.ndarray:
        """Features of a video (D,), or of each of several (V, D): the mean over all tokens and views, float32.

        Args:
            source: see `predict`.
            views: clips over the video and crops of each; default: the clip from the middle.
            tokens: the tokens of each view in place of their mean: (G, N, D), or (V, G, N, D).

        Raises:
            DecodeError: a video cannot be read.
            AnnotationError: there is no such path, or no video in it.
        """
        if isinstance(source, np.ndarray | torch.Tensor):
            return self._encode(views_of_frames(np.asarray(source), self.clip, Views(*views)), tokens=tokens)
        samples, is_single = _samples(source)
        found = [self._encode(self.read_views(sample, Views(*views)), tokens=tokens) for sample in samples]
        if not found:
            model = self.loaded.model
            of_one = (Views(*views).number, model.num_tokens, model.embed_dim) if tokens else (model.embed_dim,)
            return np.empty((0, *of_one), np.float32)
        return found[0] if is_single else np.stack(found)

    def load_clip(self, path: str | Path) -> torch.Tensor:
        """The clip from the middle of a video as the model takes it: normalised (3, T, S, S).

        Raises:
            DecodeError: the video cannot be read.
        """
        return normalize_clips(self.read_views(Sample(str(path)), _MIDDLE))[0]

    def read_views(self, sample: Sample, views: Views) -> torch.Tensor:
        """The views of a video: uint8 (G, T, 3, S, S); raises DecodeError if it cannot be read."""
        with open_video(sample.path) as video:
            frames = frames_within(video, sample.path, sample.span)
            return view_dataset(_NOT_LISTED, self.clip, views).views_of(video, frames)

    @torch.inference_mode()
    def encode_views(self, views_BT3SS: torch.Tensor) -> torch.Tensor:
        """The tokens of views, of one video or several: uint8 (B, T, 3, S, S) -> (B, N, D), float32, on the device."""
        clips = normalize_clips(views_BT3SS.to(self.device))
        has_norm = self.loaded.has_final_norm
        with autocast(self.device, self.amp):
            return torch.cat([self.loaded.tokens(clip, final_norm=has_norm) for clip in clips.split(8)]).float()

    def _encode(self, views_GT3SS: torch.Tensor, *, tokens: bool) -> np.ndarray:
        found = self.encode_views(views_GT3SS)
        return (found if tokens else found.mean(dim=(0, 1))).cpu().numpy()

    def _alone(self) -> World:
        return World(0, 1, 0, self.device)


_NOT_LISTED: Any = ()


def _samples(source: Any) -> tuple[list[Sample], bool]:
    """The videos, and whether they are one that was named itself."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        return find_samples(source), False
    samples = find_samples([source])
    return samples, len(samples) == 1 and samples[0].path == str(source)


def load(
    path: str | Path,
    *,
    device: str = "auto",
    amp: str | None = None,
    num_frames: int | None = None,
    input_size: int | None = None,
    sampling_rate: int | None = None,
) -> VideoModel:
    """The model of a checkpoint: a file, a folder, `hf:ORG/NAME` or an address, in any layout of WEIGHTS.md.

    Args:
        device: "auto": a GPU if there is one; or as torch names devices.
        amp: precision of the forward pass: "none", "bf16" or "fp16"; default: bf16 on a GPU, none on a CPU.
        num_frames, input_size: of a clip, in place of those that the file was trained with.
        sampling_rate: every so many frames of a video; default: as it was trained, or 4 where the file does not say.

    Raises:
        CheckpointError: it cannot be read, or holds no model of this project; the message names it.
        ConfigError: a device or precision that is not there.
    """
    if sampling_rate is not None and sampling_rate < 1:
        raise ConfigError(f"sampling_rate={sampling_rate}: must be at least 1")
    loaded = with_sampling_rate(files.load(path, num_frames=num_frames, input_size=input_size), sampling_rate)
    if doubt := doubts(loaded):
        logger.warning("%s: %s", path, doubt)
    place = _device(device)
    loaded.model.to(place)
    return VideoModel(loaded, place, RunConfig(amp=amp).amp_on(place))


from_pretrained = load  # the name by which users of Hugging Face's libraries look for it


def _device(name: str) -> torch.device:
    """Of `load`. Raises ConfigError."""
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name!r}: not a device, such as 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type == "cuda" and (not has_gpu or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device={name!r}: there is no such GPU here; 'auto' takes what there is")
    return device
