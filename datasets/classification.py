"""Labelled samples: augmented clips for training, the middle clip for validation, all views of a video for testing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sigma_video.options import AT_LEAST_ONE, OptionError, Options, option

from .catalogue import DatasetSpec
from .decoding.open import open_video
from .decoding.reader import VideoReader
from .lists.spans import frames_within, shown_between, times_within
from .lists.video_list import MultiHot, Span, VideoList
from .loading.loaders import LoaderConfig, build_eval_loader, build_train_loader
from .loading.workers import reading
from .samples import read_or_replace, sample_rngs
from .sampling import (
    ClipConfig,
    dense_test_indices,
    draw_dense_train_clip,
    draw_strided_clip,
    middle_dense_clip,
    middle_uniform_clip,
    strided_test_indices,
    uniform_test_indices,
    uniform_train_indices,
)
from .sampling_by_time import draw_timed_clip, timed_clips
from .transforms.presets import AugmentConfig, TrainTransform, ValTransform, ViewTransform

SAMPLERS = ("dense", "strided", "uniform")
POOLINGS = ("mean", "max")
SHORT_SIDE = 224
CHUNK_BYTES = 64 << 20  # full-size frames that a test video holds at a time: 10 of 1920 x 1080, 257 of 340 x 256
FrameTransform = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class ViewConfig(Options):
    """How labelled videos are seen. What is None is the data set's: see `datasets.catalogue`."""

    sampling: str | None = option(None, "how frames are drawn; default: the data set's", choices=SAMPLERS)
    flip: bool | None = option(None, "mirror clips in training; default: the data set's", switch="value")
    short_side_size: int = option(
        SHORT_SIDE,
        f"the short side of a video is resized to this for testing; default: {SHORT_SIDE}, or --input_size if larger",
        rule=AT_LEAST_ONE,
    )
    test_num_segment: int | None = option(
        None, "clips of each video at test; default: the data set's", rule=AT_LEAST_ONE
    )
    test_num_crop: int | None = option(None, "crops of each clip at test; default: the data set's", rule=AT_LEAST_ONE)
    view_pooling: str | None = option(
        None,
        "what is taken of the scores of a video's views; max is for --task multilabel; default: the data set's",
        choices=POOLINGS,
    )

    def for_data_set(self, clip: ClipConfig, spec: DatasetSpec) -> tuple[ClipConfig, "ViewConfig"]:
        """Both options, with what they leave to the data set."""
        views = replace(
            self,
            sampling=self.sampling or spec.sampler,
            flip=spec.flip if self.flip is None else self.flip,
            test_num_segment=self.test_num_segment or spec.test_num_segment,
            test_num_crop=self.test_num_crop or spec.test_num_crop,
            view_pooling=self.view_pooling or spec.view_pooling,
        )
        if clip.fps is not None and views.sampling == "uniform":
            raise OptionError(
                f"--fps {clip.fps:g}: --sampling uniform spreads the frames over the whole video, however long it is: "
                "give --sampling dense, or leave --fps out"
            )
        return clip.with_rate(spec.sampling_rate), views

    def check_size(self, input_size: int) -> None:
        """Raise OptionError where a crop would not fit."""
        if self.short_side_size < input_size:
            raise OptionError(
                f"--short_side_size {self.short_side_size} is smaller than --input_size {input_size}: "
                "a crop would not fit; choose at least as much"
            )

    @property
    def num_views(self) -> int:
        """Clips x crops of a test video."""
        assert self.test_num_segment and self.test_num_crop  # `for_data_set` fills them in
        return self.test_num_segment * self.test_num_crop

    def describe_test(self) -> str:
        """The views of a test video, in words."""
        pooled = ", maximum over views" if self.view_pooling == "max" else ""
        return f"{self.test_num_segment} clips x {self.test_num_crop} crops{pooled}"

    def describe(self, clip: ClipConfig) -> str:
        """How videos become clips, in words."""
        flip = "on" if self.flip else "off"
        distance = "" if self.sampling == "uniform" else f", {clip.distance}"
        enlarged = self.short_side_size / clip.input_size
        nearer = f", which show things {enlarged:.2g} times as large as whole frames would" if enlarged > 1.25 else ""
        return f"{self.sampling} sampling{distance}, flip {flip}, {self.describe_test()} at test{nearer}"


def _check_sampler(sampler: str, sampling_rate: int | None, fps: float | None) -> None:
    if sampler != "uniform" and not sampling_rate and fps is None:
        raise ValueError(f"{sampler} clips need --sampling_rate or --fps")
    if sampler not in SAMPLERS:
        raise ValueError(f"frame sampler '{sampler}': choose from {', '.join(SAMPLERS)}")


class TrainDataset(Dataset):
    """Augmented clips, asked for by (epoch, index); a video is decoded once and augmented `num_repeats` times.

    A sample depends on the seed, the epoch and the index only: neither order, workers nor ranks change it.

    Args:
        videos: the list, with labels.
        transform: (frames uint8 (T, 3, H, W), rng) -> uint8 (T, 3, size, size).
        sampler: "dense" and "strided": frames `sampling_rate` apart; "uniform": one frame from each part of the whole
            video. See `datasets.sampling`.
        num_frames: T, frames of a clip.
        sampling_rate: distance between frames; not used by "uniform".
        fps: frames a second in place of `sampling_rate`; not for "uniform".
        num_repeats: R, augmentations of each decoded clip.
        seed: of the run; at least 0.
        decoder: back end, see `open_video`.
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        transform: Callable[[torch.Tensor, np.random.Generator], torch.Tensor],
        sampler: str,
        num_frames: int,
        sampling_rate: int | None = None,
        fps: float | None = None,
        num_repeats: int = 1,
        seed: int,
        decoder: str = "auto",
    ) -> None:
        _check_sampler(sampler, sampling_rate, fps)
        if num_repeats < 1:
            raise ValueError(f"--num_sample {num_repeats}: at least one augmentation of each clip")
        self.videos, self.transform, self.sampler = videos, transform, sampler
        self.num_frames, self.sampling_rate, self.fps = num_frames, sampling_rate or 0, fps
        self.num_repeats, self.seed, self.decoder = num_repeats, seed, decoder

    def __len__(self) -> int:
        return len(self.videos)

    def _read(self, path: str, span: Span | None, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray | None]:
        """The frames of one clip, uint8 (T, 3, H, W), and what the list's moments count of it, if there are any."""
        with open_video(path, decoder=self.decoder) as video:
            shown, moments = self._draw(video, path, span, rng), self.videos.moments
            seen = None if moments is None else shown_between(video, moments, int(shown.min()), int(shown.max()))
            return video.get_frames(shown), seen

    def draw(self, video: VideoReader, index: int, rng: np.random.Generator) -> np.ndarray:
        """The frames (T,) of a clip of the opened video of this index."""
        return self._draw(video, self.videos.paths[index], self.videos.span(index), rng)

    def _draw(self, video: VideoReader, path: str, span: Span | None, rng: np.random.Generator) -> np.ndarray:
        frames = frames_within(video, path, span)
        if self.fps is not None:
            return frames.start + draw_timed_clip(times_within(video, path, frames), self.num_frames, self.fps, rng)
        return frames.start + self._draw_by_number(len(frames), rng)

    def _draw_by_number(self, length: int, rng: np.random.Generator) -> np.ndarray:
        if self.sampler == "uniform":
            return uniform_train_indices(length, self.num_frames, rng)
        if self.sampler == "strided":
            return draw_strided_clip(length, self.num_frames, self.sampling_rate, rng)
        return draw_dense_train_clip(length, self.num_frames, self.sampling_rate, rng)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        """The sample of (epoch, index), or of (epoch, index, occurrence).

        Returns:
            "clip" uint8 (R, T, 3, size, size); "label" and "index" of the video shown, which is another than the one
            asked for where that could not be decoded; "failures": those that could not.
        """
        rngs = sample_rngs(self.seed, key, self.num_repeats)
        (frames, seen), index, failures = read_or_replace(
            self.videos, key[1], rng=rngs[0], read=lambda path, span: self._read(path, span, rngs[0])
        )
        clips = [self.transform(frames, rng) for rng in rngs]
        joined = clips[0][None] if len(clips) == 1 else torch.stack(clips)  # no copy of a single one
        return {"clip": joined, "label": self._label(index, seen), "index": index, "failures": failures}

    def _label(self, index: int, seen: np.ndarray | None) -> Any:
        """What is learnt of a clip: of a list with moments the classes seen from its first to its last frame."""
        labels, moments = self.videos.labels, self.videos.moments
        if seen is None or moments is None or not isinstance(labels, MultiHot):
            return labels[index]
        return labels.row(moments.classes(index, seen))


class ViewDataset(Dataset):
    """All views of a video, asked for by index: every clip in every crop.

    A video is opened once, and each frame that a clip needs is decoded and resized once, from the start to the end,
    however many clips and crops show it. Frames come in chunks and are cropped chunk by chunk. So what a video takes in
    memory, besides the views themselves, is `CHUNK_BYTES` of frames at full size (one frame, if that is larger; twice
    that for a moment, while they are put together) and the crops of these, for a video of any length.

    Args:
        videos: the list, with labels.
        transform: frames uint8 (U, 3, H, W) -> crops uint8 (num_crops, U, 3, size, size), frame by frame.
        sampler: one of SAMPLERS, as in training.
        num_frames: T, frames of a clip.
        sampling_rate: distance between frames; not used by "uniform".
        fps: frames a second in place of `sampling_rate`; not for "uniform".
        num_clips: clips spread over the video.
        decoder: back end, see `open_video`.
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        transform: FrameTransform,
        sampler: str,
        num_frames: int,
        sampling_rate: int | None = None,
        fps: float | None = None,
        num_clips: int,
        decoder: str = "auto",
    ) -> None:
        _check_sampler(sampler, sampling_rate, fps)
        if num_clips < 1:
            raise ValueError(f"--test_num_segment {num_clips}: at least one clip of each video")
        self.videos, self.transform, self.sampler = videos, transform, sampler
        self.num_frames, self.sampling_rate, self.num_clips = num_frames, sampling_rate or 0, num_clips
        self.fps, self.decoder = fps, decoder

    def __len__(self) -> int:
        return len(self.videos)

    def clip_indices(self, length: int) -> Sequence[np.ndarray]:
        """The frames of each clip of a video with `length` frames."""
        if self.sampler == "uniform":
            return uniform_test_indices(length, self.num_frames, self.num_clips)
        if self.sampler == "strided":
            return strided_test_indices(length, self.num_frames, self.sampling_rate, self.num_clips)
        return dense_test_indices(length, self.num_frames, self.sampling_rate, self.num_clips)

    def crops(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (U, 3, H, W) -> uint8 (num_crops, U, 3, size, size)."""
        return self.transform(frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """All views of a video.

        Returns:
            "clip" uint8 (G, T, 3, size, size), G = clips x crops, all crops of a clip together; "label"; "index";
            "views" = G; "failures": always empty.

        Raises:
            DecodeError: the video cannot be decoded, or has no frame in its span; nothing takes its place.
        """
        path = self.videos.paths[index]
        with reading(path, clips=self.num_clips), open_video(path, decoder=self.decoder) as video:
            clips = self.views_of(video, frames_within(video, path, self.videos.span(index)))
        return {
            "clip": clips,
            "label": self.videos.labels[index],
            "index": index,
            "views": len(clips),
            "failures": [],
        }

    def views_of(self, video: VideoReader, frames: range) -> torch.Tensor:
        """uint8 (G, T, 3, size, size), channels last in memory; `frames` are those that are meant, as if alone."""
        if self.fps is not None:
            clips: Sequence[np.ndarray] = timed_clips(
                times_within(video, video.path, frames), self.num_frames, self.fps, self.num_clips
            )
        else:
            clips = self.clip_indices(len(frames))
        indices_CT = frames.start + np.stack(clips)
        distinct, places = np.unique(indices_CT, return_inverse=True)
        shown_at: list[list[tuple[int, int]]] = [[] for _ in distinct]  # of each distinct frame: (clip, time)
        for (clip, time), place in zip(np.ndindex(indices_CT.shape), places.flat, strict=True):
            shown_at[place].append((clip, time))
        views: list[torch.Tensor] = []  # one, (C, J, T, size, size, 3), as soon as the size of a crop is known

        def take(frames: torch.Tensor, start: int) -> None:
            crops = self.crops(frames).permute(0, 1, 3, 4, 2)  # (J, U, size, size, 3)
            if not views:
                views.append(crops.new_empty(len(indices_CT), len(crops), self.num_frames, *crops.shape[2:]))
            for offset, shown in enumerate(shown_at[start : start + crops.shape[1]]):
                for clip, time in shown:
                    views[0][clip, :, time] = crops[:, offset]

        video.map_frames(distinct, take, max_bytes=CHUNK_BYTES)
        return views[0].flatten(0, 1).permute(0, 1, 4, 2, 3)


class ValDataset(ViewDataset):
    """One clip from the middle of each video, the same every time; items are those of a single view.

    Args: those of ViewDataset without `num_clips`; transform: frames uint8 (T, 3, H, W) -> uint8 (T, 3, size, size).
    """

    def __init__(
        self,
        videos: VideoList,
        *,
        transform: FrameTransform,
        sampler: str,
        num_frames: int,
        sampling_rate: int | None = None,
        fps: float | None = None,
        decoder: str = "auto",
    ) -> None:
        super().__init__(
            videos,
            transform=transform,
            sampler=sampler,
            num_frames=num_frames,
            sampling_rate=sampling_rate,
            fps=fps,
            num_clips=1,
            decoder=decoder,
        )

    def clip_indices(self, length: int) -> Sequence[np.ndarray]:
        """The frames of the middle clip, spaced as in training."""
        if self.sampler == "uniform":
            return [middle_uniform_clip(length, self.num_frames)]
        if self.sampler == "strided":
            return strided_test_indices(length, self.num_frames, self.sampling_rate, 1)
        return [middle_dense_clip(length, self.num_frames, self.sampling_rate)]

    def crops(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (T, 3, H, W) -> uint8 (1, T, 3, size, size): the transform gives a single crop."""
        return self.transform(frames)[None]


def build_datasets(
    lists: Mapping[str, VideoList],
    clip: ClipConfig,
    views: ViewConfig,
    augmentation: AugmentConfig,
    *,
    seed: int,
    decoder: str,
) -> dict[str, Dataset]:
    """The data set of each list: augmented clips for "train", the middle clip for "val", all views for "test".

    Args:
        clip, views: complete; see `ViewConfig.for_data_set`.

    Raises:
        ValueError: a RandAugment string that cannot be read.
    """
    assert views.sampling and (clip.sampling_rate or clip.fps) and views.test_num_segment and views.test_num_crop
    size, short_side = clip.input_size, views.short_side_size
    sampling: Any = {
        "sampler": views.sampling,
        "num_frames": clip.num_frames,
        "sampling_rate": clip.sampling_rate,
        "fps": clip.fps,
        "decoder": decoder,
    }
    datasets: dict[str, Dataset] = {}
    for part, videos in lists.items():
        if part == "train":
            transform = TrainTransform.from_config(augmentation, size=size, flip=bool(views.flip))
            datasets[part] = TrainDataset(
                videos, transform=transform, num_repeats=clip.num_sample, seed=seed, **sampling
            )
        elif part == "val":
            datasets[part] = ValDataset(videos, transform=ValTransform(size, short_side), **sampling)
        else:
            crops = ViewTransform(size, short_side, views.test_num_crop)
            datasets[part] = ViewDataset(videos, transform=crops, num_clips=views.test_num_segment, **sampling)
    return datasets


def build_loaders(
    datasets: Mapping[str, Dataset],
    config: LoaderConfig,
    *,
    batch_size: int,
    num_views: int,
    seed: int,
    rank: int,
    world_size: int,
    device: torch.device,
    balanced: bool = False,
) -> dict[str, DataLoader]:
    """A loader of one rank for each data set of `build_datasets`.

    Args:
        batch_size: clips of a forward pass.
        num_views: clips of a test video: a batch of them holds fewer videos.
        device: where the batches go.
        balanced: train on as many videos of one class as of another.
    """
    kwargs = config.kwargs(rank=rank, world_size=world_size, device=device)
    loaders = {}
    for part, dataset in datasets.items():
        if isinstance(dataset, TrainDataset):
            labels = dataset.videos.labels if balanced else None
            order = config.order(len(dataset), seed=seed, labels=labels)
            loaders[part] = build_train_loader(dataset, batch_size=batch_size, seed=seed, order=order, **kwargs)
        else:
            num_videos = max(batch_size // num_views, 1) if part == "test" else batch_size
            loaders[part] = build_eval_loader(dataset, batch_size=num_videos, **kwargs)
    return loaders
