"""What a frozen encoder sees of a list: all views of each sample, or some augmented clips of it that stay the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset, Subset

from .catalogue import DatasetSpec
from .classification import TrainDataset, ViewConfig, ViewDataset
from .lists.video_list import VideoList
from .loading.batch import Batch
from .loading.loaders import build_eval_loader
from .sampling import ClipConfig
from .transforms.images import ImageTestTransform, ImageTrainTransform
from .transforms.presets import TrainTransform, ViewTransform

SMALL_IMAGES = ("CIFAR-100",)


@dataclass(frozen=True)
class Sight:
    """How the samples of a data set become clips.

    Attributes:
        clip, views: complete; see `ViewConfig.for_data_set`.
        augment: (side of a clip, whether to flip) -> the transform of training clips of videos.
        min_area: of the crops of images.
        seed: of the augmentation.
    """

    spec: DatasetSpec
    clip: ClipConfig
    views: ViewConfig
    augment: Callable[[int, bool], TrainTransform]
    min_area: float
    seed: int
    decoder: str

    @property
    def _common(self) -> dict[str, Any]:
        frames = 1 if self.spec.images else self.clip.num_frames  # an image is repeated on the device
        clip = {"num_frames": frames, "sampling_rate": self.clip.sampling_rate, "fps": self.clip.fps}
        return {"sampler": self.views.sampling, "decoder": self.decoder, **clip}

    @property
    def _small(self) -> bool:
        return self.spec.name in SMALL_IMAGES

    def test(self, videos: VideoList, *, clips: int | None = None, crops: int | None = None) -> ViewDataset:
        """All views of each sample; `clips` and `crops` in place of those of the options."""
        size, short_side = self.clip.input_size, self.views.short_side_size
        clips, crops = clips or self.views.test_num_segment, crops or self.views.test_num_crop
        assert clips and crops
        transform: Any = ViewTransform(size, short_side, crops)
        if self.spec.images:
            transform = ImageTestTransform(size, short_side, small=self._small)
        return ViewDataset(videos, transform=transform, num_clips=clips, **self._common)

    def train(self, videos: VideoList) -> TrainDataset:
        """Augmented clips, `num_sample` of each sample and epoch."""
        size, flip = self.clip.input_size, bool(self.views.flip)
        transform: Any = self.augment(size, flip)
        if self.spec.images:
            transform = ImageTrainTransform(size, min_area=self.min_area, flip=flip, small=self._small)
        return TrainDataset(
            videos, transform=transform, num_repeats=self.clip.num_sample, seed=self.seed, **self._common
        )


class FirstEpoch(Dataset):
    """The augmented clips of one epoch, asked for by index, as the views of a sample."""

    def __init__(self, dataset: TrainDataset) -> None:
        self.dataset, self.num_clips = dataset, dataset.num_repeats

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As ViewDataset's; `failures` are those of a sample that another took the place of."""
        return {**self.dataset[(0, index)], "views": self.num_clips}


class Chosen(Dataset):
    """Some samples of a training set, asked for as it is, by (epoch, index)."""

    def __init__(self, dataset: TrainDataset, places: Sequence[int]) -> None:
        self.dataset, self.places = dataset, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        epoch, index, *occurrence = key
        own = (epoch, int(self.places[index]), *occurrence)
        return self.dataset[own]


def batches_of(dataset: Dataset, *, batch_size: int, **loader: Any) -> Callable[[Sequence[int]], Iterator[Batch]]:
    """What gives batches of some samples, in their order.

    Args:
        batch_size: samples.
        loader: keyword arguments of `build_eval_loader`.
    """

    def batches(places: Sequence[int]) -> Iterator[Batch]:
        part = Subset(dataset, places)
        part.num_clips = getattr(dataset, "num_clips", 1)  # type: ignore[attr-defined]  # decides time limits
        yield from build_eval_loader(part, batch_size=batch_size, **loader)

    return batches
